"""Shards are read by the libraries that others use: webdataset, and wids by its index (open_clip: test_resharding_samples)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from reshard_world import name_of, write_subset, write_tar

from datacomp_core.pool import removal
from datacomp_core.resharding.reshard import ReshardSpec, reshard_folders
from datacomp_core.store import Folder
from datacomp_core.wids_index import WIDS


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    pool = tmp_path / "pool"
    pool.mkdir()
    samples = [
        (f"{i:04d}", {"jpg": bytes([i]) * 9, "json": json.dumps({"uid": name_of(i)}).encode(), "txt": f"caption {i}".encode()})
        for i in range(12)
    ]
    write_tar(pool / "00000000.tar", samples)
    chosen = [name_of(i) for i in range(12)] + [name_of(5)] * 2
    out = tmp_path / "out"
    reshard_folders(Folder(pool), write_subset(tmp_path / "s.npy", chosen), Folder(out), ReshardSpec(samples_per_shard=4))
    return out


WANTED = Counter({**dict.fromkeys((f"caption {i}" for i in range(12)), 1), "caption 5": 3})


def test_webdataset_reads_every_sample(shards: Path) -> None:
    import webdataset as wds

    urls = [str(path) for path in sorted(shards.glob("*.tar"))]
    assert len(urls) == 4
    read = list(wds.WebDataset(urls, shardshuffle=False))
    assert Counter(sample["txt"].decode() for sample in read) == WANTED
    assert all(sample["jpg"] == bytes([int(sample["txt"].split()[1])]) * 9 for sample in read)
    assert len({sample["__key__"] for sample in read}) == 14


def by_wids(shards: Path) -> list[str]:
    import wids

    read: Any = wids.ShardListDataset(str(shards / WIDS), keep=True, transformations=[], cache_dir=str(shards.parent / "cache"))
    return [read[number][".txt"].read().decode() for number in range(len(read))]


def test_wids_reads_every_sample_by_the_index_beside_the_shards(shards: Path) -> None:
    assert Counter(by_wids(shards)) == WANTED


def test_the_index_knows_of_samples_that_were_taken_away(shards: Path) -> None:
    changed: dict[str, Any] = {}
    for tar in sorted(shards.glob("*.tar")):
        removal.from_shard(Folder(shards), tar.stem, lambda uids: uids == name_of(5), "taken_down", changed)
    assert WIDS in changed
    assert Counter(by_wids(shards)) == WANTED - Counter({"caption 5": 3})
