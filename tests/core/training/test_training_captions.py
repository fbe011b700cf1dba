"""The draw of captions: a pure function of seed, step and place, whatever the ranks, the cache and the kills."""

from __future__ import annotations

import io
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from training_world import DRAW, NoiseSpec, captions_of, kill_at_step, noise, store_at, training

from datacomp_core import uid
from datacomp_core.artifacts import Captioned, ShardSet, Subset
from datacomp_core.caption_policy import CaptionPolicy
from datacomp_core.resharding.reshard import ReshardSpec, reshard_captions
from datacomp_core.resharding.view import view_captions
from datacomp_core.shards import ShardWriter, tars_of, write_index
from datacomp_core.store import Store
from datacomp_core.training.data import BatchSlice, MicroBatchDataset, order_of
from datacomp_core.training.launch import TorchrunLayout
from datacomp_core.training.preflight import preflight
from datacomp_core.training.samples import SampleReader, ShardSource
from datacomp_core.training.train import train


def coded(texts: list[str]) -> Any:
    """Texts as numbers, so that tokens tell which text was drawn."""
    return np.array([list(text.encode().ljust(80)[:80]) for text in texts], np.int64)


def texts_of(source: ShardSource, steps: int, mine: BatchSlice, *, cache_bytes: int = 0, seed: int = 0) -> list[list[str]]:
    order = order_of(seed, 16, [count for _, count in source.shards], [1.0] * len(source.shards))
    reader = SampleReader((source,), coded, cache="unused", cache_bytes=cache_bytes)
    batches = MicroBatchDataset(order, reader, mine, (32, 32), tolerant=False)
    numbers = range(steps * mine.accumulation)
    return [
        [bytes(row.tolist()).decode().strip() for row in batches[number].tokens.numpy().astype(np.uint8)] for number in numbers
    ]


@pytest.fixture
def drawn(tmp_path: Path) -> ShardSource:
    store = store_at(tmp_path)
    shards = noise(NoiseSpec(drawn=True), store=store)
    return preflight(shards, store.folder(shards), tmp_path, 1.0)[0]


def test_the_draw_is_the_same_on_any_number_of_ranks_and_with_a_cache(drawn: ShardSource) -> None:
    whole = texts_of(drawn, 6, BatchSlice(0, 1, 1))
    parts = [texts_of(drawn, 6, BatchSlice(rank, 2, 2), cache_bytes=rank << 30) for rank in range(2)]
    for step in range(6):
        pieces = [text for rank in range(2) for piece in range(2) for text in parts[rank][2 * step + piece]]
        assert pieces == whole[step]
    assert texts_of(drawn, 6, BatchSlice(0, 1, 1), cache_bytes=1 << 30) == whole
    assert texts_of(drawn, 6, BatchSlice(0, 1, 1), seed=1) != whole


def test_sources_are_drawn_by_their_weights_and_a_source_of_weight_0_only_alone(drawn: ShardSource) -> None:
    seen = Counter(text for step in texts_of(drawn, 120, BatchSlice(0, 1, 1)) for text in step)
    raw = sum(n for text, n in seen.items() if text.startswith("a picture"))
    short = sum(n for text, n in seen.items() if text.startswith("colour"))
    long = sum(n for text, n in seen.items() if text.startswith("a square"))
    assert raw + short + long == 120 * 16
    assert DRAW["late"] == 0.0
    alone = 8 / 40  # every fifth sample has no generated caption
    assert abs(raw / (120 * 16) - (alone + (1 - alone) * 0.25)) < 0.04
    assert abs(short / long - 1) < 0.15
    assert set(captions_of("0000", 1, 5)) == {"caption_raw", "caption_late"}


def pool(root: Path) -> ShardSet:
    (root / "pool").mkdir(parents=True)
    from datacomp_core.store import Folder

    for shard in range(3):
        buffer = io.BytesIO()
        writer = ShardWriter(buffer, f"{shard:08d}")
        for n in range(shard * 10, shard * 10 + 10):
            image = io.BytesIO()
            Image.new("RGB", (40 + n, 50), (n * 8, 255 - n * 8, 99)).save(image, "JPEG")
            about = json.dumps({"uid": f"{n:032x}"}).encode()
            writer.add(f"{n:032x}", f"{n:09d}", {"jpg": image.getvalue(), "json": about, "txt": f"own {n}".encode()})
        write_index(Folder(root / "pool"), f"{shard:08d}", writer.finish())
        (root / f"pool/{shard:08d}.tar").write_bytes(buffer.getvalue())
    return ShardSet(scale="tiny", data="pool", fingerprint="a" * 64, num_samples=30, num_unique=30, num_shards=3)


@pytest.mark.parametrize("draws", [False, True])
def test_a_view_with_captions_trains_as_the_reshard_does(draws: bool, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    shards, uids = pool(tmp_path / "store"), [f"{n:032x}" for n in range(30)]
    (tmp_path / "store/subset").mkdir()
    (tmp_path / "store/subset/subset.npy").write_bytes(uid.subset_bytes(uid.pack(pl.Series([*uids[::2], uids[4], uids[4]]))))
    subset = Subset(name="some", data="subset", fingerprint="b" * 64, recipe="some", num_samples=17, num_unique=15)
    folder = tmp_path / "store/texts" / ("draws" if draws else "scores")
    folder.mkdir(parents=True)
    if draws:
        lists = [
            [{"source": "raw", "text": f"own {n}"}, *({"source": "a", "text": f"a {n} {k}"} for k in range(n % 3))]
            for n in range(30)
        ]
        pl.DataFrame({"uid": uids, "captions": lists}).write_parquet(folder / "0.parquet")
    else:
        sources = ["raw" if n % 4 == 0 else "a" for n in range(30)]
        columns = {"text": [f"own {n}" if n % 4 == 0 else f"new {n}" for n in range(30)], "caption_source": sources}
        pl.DataFrame({"uid": uids, **columns}).write_parquet(folder / "0.parquet")
    about = {"policy": "it", "sources": ("raw", "a"), "draws": draws, "num_samples": 30, "num_changed": 1}
    captioned = Captioned.model_validate({**about, "data": "texts", "fingerprint": "c" * 64})
    policy = CaptionPolicy.model_validate({"draw": {"raw": 1, "a": 2}} if draws else {"first_of": ["a", "raw"]})
    spec, seen = ReshardSpec(samples_per_shard=5), list[list[list[str]]]()
    whole = reshard_captions(spec, None, policy, subset, (shards,), captioned, None, store=store)
    view = view_captions(spec, policy, subset, shards, captioned, store=store)
    for made in (whole, view):
        source, _ = preflight(made, store.folder(made), tmp_path, 1.0, tars=tars_of(store, made) if made.tars else None)
        seen.append(texts_of(source, 8, BatchSlice(0, 1, 1)))
    assert seen[0] == seen[1]
    texts = {text for step in seen[0] for text in step}
    if draws:
        assert {text.split()[0] for text in texts} == {"own", "a"}
    else:
        assert texts == {f"own {n}" if n % 4 == 0 else f"new {n}" for n in range(0, 30, 2)}
    assert whole.counts == view.counts | {name: whole.counts[name] for name in whole.counts}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_random_steps_a_training_with_a_draw_ends_bit_equal(processes: int, tmp_path: Path) -> None:
    spec, layout = training(train_num_samples=96), TorchrunLayout(processes=processes, threads=1)
    whole, killed, plain = (store_at(tmp_path / name) for name in ("whole", "killed", "plain"))
    made = train(spec, (noise(NoiseSpec(drawn=True), store=whole),), store=whole, device="cpu", layout=layout)
    own = train(spec, (noise(NoiseSpec(), store=plain),), store=plain, device="cpu", layout=layout)
    steps = sorted(random.SystemRandom().sample(range(1, spec.steps - 2), 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOISE_DRAWN", "1")
        for step, victim in zip(steps, ("launcher", "rank"), strict=True):
            kill_at_step(killed, spec, step, processes, victim)
    again = train(spec, (noise(NoiseSpec(drawn=True), store=killed),), store=killed, device="cpu", layout=layout)
    weights = [store.folder(one).read("checkpoint.safetensors") for store, one in ((whole, made), (killed, again), (plain, own))]
    assert weights[0] == weights[1], f"killed at {steps}"
    assert weights[0] != weights[2]
