"""Training through a view: the batches are those of the reshard, to the byte, and a missing tar is told beforehand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from datacomp_core import uid
from datacomp_core.artifacts import ShardSet, Subset
from datacomp_core.errors import DataError
from datacomp_core.resharding.reshard import reshard
from datacomp_core.resharding.spec import ReshardSpec
from datacomp_core.resharding.view import view
from datacomp_core.shards import tars_of
from datacomp_core.store import Store
from datacomp_core.training.data import BatchSlice, MicroBatchDataset, order_of
from datacomp_core.training.preflight import preflight
from datacomp_core.training.samples import SampleReader


def pool(root: Path) -> ShardSet:
    """A download of 3 shards with 10 samples each, as img2dataset writes it."""
    import webdataset

    (root / "pool").mkdir(parents=True)
    for shard in range(3):
        with webdataset.TarWriter(str(root / f"pool/{shard:08d}.tar")) as writer:
            for n in range(shard * 10, shard * 10 + 10):
                buffer = io.BytesIO()
                Image.new("RGB", (40 + n, 50), (n * 8, 255 - n * 8, 99)).save(buffer, "JPEG")
                meta = json.dumps({"uid": f"{n:032x}"}).encode()
                writer.write({"__key__": f"{n:09d}", "jpg": buffer.getvalue(), "json": meta, "txt": f"number {n}"})
    return ShardSet(scale="tiny", data="pool", fingerprint="a" * 64, num_samples=30, num_unique=30, num_shards=3)


def numbers(texts: list[str]) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    return np.array([[int(text.split()[1]) if text else 0] for text in texts])  # the loader asks "" for the length


def test_batches_through_a_view_are_those_of_the_reshard(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    shards = pool(tmp_path / "store")
    (tmp_path / "store/subset").mkdir()
    chosen = [f"{n:032x}" for n in (*range(0, 30, 2), 4, 4, 8)]
    (tmp_path / "store/subset/subset.npy").write_bytes(uid.subset_bytes(uid.pack(pl.Series(chosen))))
    subset = Subset(name="some", data="subset", fingerprint="b" * 64, recipe="some", num_samples=18, num_unique=15)
    seen: list[list[bytes]] = []
    for make in (reshard, view):
        made = make(ReshardSpec(samples_per_shard=5), subset, shards, store=store)
        source, _ = preflight(made, store.folder(made), tmp_path, 1.0, tars=tars_of(store, made) if made.tars else None)
        reader = SampleReader((source,), numbers, cache="unused", cache_bytes=0)
        order = order_of(0, 6, [size for _, size in source.shards], [1.0] * len(source.shards))
        batches = MicroBatchDataset(order, reader, BatchSlice(0, 1, 1), (32, 32), tolerant=False)
        micros = [batches[number] for number in range(6)]
        seen.append([micro.pixels.numpy().tobytes() + micro.tokens.numpy().tobytes() for micro in micros])
    assert seen[0] == seen[1]
    made = view(ReshardSpec(samples_per_shard=5), subset, shards, store=store)
    (tmp_path / "store/pool/00000001.tar").unlink()
    with pytest.raises(DataError, match=r"has no shard 00000001\.tar"):
        preflight(made, store.folder(made), tmp_path, 1.0, tars=tars_of(store, made))
