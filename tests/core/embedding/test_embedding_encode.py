"""Embeddings against open_clip called by hand: aligned, whatever the order of the shards; nothing shifted, everything counted."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from datacomp_core import clip, shards
from datacomp_core.artifacts import Checkpoint, Embeddings, Pool, ShardSet, Spec
from datacomp_core.embedding import assemble
from datacomp_core.embedding.captions import CaptionEmbedSpec
from datacomp_core.embedding.embed import embed
from datacomp_core.embedding.spec import EmbedSpec, Encoder
from datacomp_core.errors import DataError, LostProcessError, SpecError
from datacomp_core.parts import SCHEMA
from datacomp_core.store import Folder, Store, step
from datacomp_core.store.fingerprint import fingerprint

MODEL = "datacomp-tiny"
NUM_ROWS = 60
PARTS = {"00000000": range(37), "00000001": range(37, 60)}
NEVER_ARRIVED = {3, 40, 59}
CORRUPT = {5, 41}
REPEATED = (50, 10)  # row 50 has the uid of row 10


class MadeUp(Spec):
    scale: str = "tiny"
    order: str = "pool"


def uid(row: int) -> str:
    row = REPEATED[1] if row == REPEATED[0] else row
    return hashlib.md5(str(row).encode()).hexdigest()


def image(row: int) -> bytes:
    row = REPEATED[1] if row == REPEATED[0] else row
    if row in CORRUPT:
        return b"\xff\xd8\xff\xe0 not a jpeg at all"
    random = np.random.default_rng(row)
    pixels = random.integers(0, 255, (40 + row % 7, 36 + row % 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG" if row % 2 else "PNG")
    return buffer.getvalue()


def caption(row: int) -> str | None:
    return None if row == 20 else f"a picture of number {row}"


@step("pools", version=1)
def made_up_pool(spec: MadeUp, *, out: Folder) -> Pool:
    for part, rows in PARTS.items():
        table = pl.DataFrame({"uid": [uid(row) for row in rows], "text": [caption(row) for row in rows]})
        full = table.with_columns(
            pl.lit(None, dtype=kind).alias(name) for name, kind in SCHEMA.items() if name not in table.columns
        )
        with out.writing(f"metadata/{part}.parquet") as path:
            full.select(SCHEMA.names()).write_parquet(path)
    return Pool(num_samples=NUM_ROWS, num_parts=len(PARTS))


@step("shards", version=1)
def made_up_shards(spec: MadeUp, *, out: Folder) -> ShardSet:
    rows = [row for row in range(NUM_ROWS) if row not in NEVER_ARRIVED]
    if spec.order == "mixed":
        rows = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    pieces: Sequence[list[int]] = [rows[i::3] for i in range(3)] if spec.order == "mixed" else [rows[:30], rows[30:]]
    for number, piece in enumerate(pieces):
        name = shards.shard_name(number)
        with out.writing(f"{name}.tar") as path, path.open("wb") as file:
            writer = shards.ShardWriter(file, name)
            for row in piece:
                writer.add(uid(row), f"{number:05d}{row:04d}", {"jpg": image(row), "json": b"{}", "txt": b"x"})
            shards.write_index(out, name, writer.finish())
    return ShardSet(num_samples=len(rows), num_unique=len(rows) - 1, num_shards=len(pieces))


@step("checkpoints", version=1)
def random_checkpoint(spec: MadeUp, *, out: Folder) -> Checkpoint:
    import open_clip

    torch.manual_seed(7 if spec.order == "pool" else 8)
    clip.register()
    model: Any = open_clip.create_model(MODEL, load_weights=False)
    with out.writing("checkpoint.pt") as path:
        torch.save({"state_dict": {f"module.{name}": value for name, value in model.state_dict().items()}}, path)
    return Checkpoint(model=MODEL, seed=7, samples_seen=0, steps=0, name="random")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def inputs(store: Store, order: str = "pool") -> tuple[Pool, ShardSet, tuple[Checkpoint]]:
    spec = MadeUp(order=order)
    return made_up_pool(MadeUp(), store=store), made_up_shards(spec, store=store), (random_checkpoint(MadeUp(), store=store),)


def by_hand(store: Store, mirrored: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Features of every row by open_clip alone, one at a time; NaN where there is no picture or no caption."""
    import open_clip

    clip.register()
    model, _, transform = open_clip.create_model_and_transforms(MODEL, load_weights=False)
    weights = torch.load(store.folder(random_checkpoint(MadeUp(), store=store)).path / "checkpoint.pt", weights_only=True)[
        "state_dict"
    ]
    model.load_state_dict({name.removeprefix("module."): value for name, value in weights.items()})
    model.eval()
    tokenizer = open_clip.get_tokenizer(MODEL)
    images, texts = (np.full((NUM_ROWS, 128), np.nan, np.float32) for _ in range(2))
    with torch.no_grad():
        for row in range(NUM_ROWS):
            if row not in NEVER_ARRIVED | CORRUPT:
                picture: Any = transform
                batch = picture(Image.open(io.BytesIO(image(row))))[None]
                batch = batch.flip(3) if mirrored else batch
                images[row] = model.encode_image(batch, normalize=True).numpy()
            if caption(row) is not None:
                texts[row] = model.encode_text(tokenizer([caption(row) or ""]), normalize=True).numpy()
    return images, texts


def read(store: Store, made: Embeddings) -> tuple[np.ndarray, np.ndarray, pl.DataFrame]:
    folder = store.folder(made)
    found = [np.load(folder.path / f"features/{part}.npz") for part in PARTS]
    scores = pl.concat(pl.read_parquet(folder.at(f"scores/{part}.parquet")) for part in PARTS)
    return np.concatenate([f["tiny_img"] for f in found]), np.concatenate([f["tiny_txt"] for f in found]), scores


def digests(store: Store, made: Embeddings) -> dict[str, str]:
    folder = store.folder(made)
    return {name: hashlib.sha256(folder.read(name)).hexdigest() for name in folder.files() if not name.startswith("_")}


def test_features_and_scores_are_open_clips_and_stand_beside_their_rows(store: Store) -> None:
    made = embed(EmbedSpec(batch_size=8), *inputs(store), store=store, device="cpu")
    images, texts, scores = read(store, made)
    wanted_images, wanted_texts = by_hand(store)
    assert images.dtype == texts.dtype == np.float16
    np.testing.assert_allclose(images, wanted_images, atol=1e-3)
    np.testing.assert_allclose(texts, wanted_texts, atol=1e-3)
    assert scores["uid"].to_list() == [uid(row) for row in range(NUM_ROWS)]
    assert scores.schema["clip_tiny_similarity_score"] == pl.Float32
    cosine = (wanted_images * wanted_texts).sum(axis=1)
    np.testing.assert_allclose(scores["clip_tiny_similarity_score"].fill_null(np.nan).to_numpy(), cosine, atol=2e-6)
    nothing = NEVER_ARRIVED | CORRUPT | {20}
    assert {row for row, null in enumerate(scores["clip_tiny_similarity_score"].is_null()) if null} == nothing
    assert made.counts == {"embedded": NUM_ROWS - 6, "never_arrived": 3, "corrupt_image": 2, "no_caption": 1}
    assert (made.num_samples, made.num_embedded, made.columns) == (60, 54, ("clip_tiny_similarity_score",))


def test_the_bytes_do_not_depend_on_shards_workers_or_a_broken_off_try(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assemble, "CHUNK_ROWS", 16)
    spec = EmbedSpec(batch_size=8)
    plain = digests(store, embed(spec, *inputs(store), store=store, device="cpu"))
    mixed = digests(store, embed(spec, *inputs(store, "mixed"), store=store, device="cpu", workers=2))
    assert plain == mixed
    other = Store.open(str(tmp_path / "other"))
    three = inputs(other)

    class Stop:
        done = 0

        def start(self, total: int, unit: str) -> None: ...

        def advance(self, amount: int = 1, **tally: int) -> None:
            self.done += amount
            if self.done > 20:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(spec, *three, store=other, device="cpu", progress=Stop())
    left = [name for name in other.root.files() if "/chunks/" in name]
    assert left, "the broken-off try should have kept a chunk"
    assert digests(other, embed(spec, *three, store=other, device="cpu")) == plain


def test_a_missing_shard_is_an_error_that_names_it(store: Store) -> None:
    pool, tars, scorer = inputs(store)
    store.folder(tars).remove("00000001.tar")
    with pytest.raises(DataError, match=r"00000001\.tar"):
        embed(EmbedSpec(), pool, tars, scorer, store=store, device="cpu")


SECOND = Encoder(column="clip_other_score", prefix="other")


def test_a_flipped_score_is_the_mean_of_both_sides_and_the_features_are_the_pictures(store: Store) -> None:
    plain, flipped = Encoder(), Encoder(column="clip_flipped_score", prefix="flipped", flip="averaged")
    pool, tars, (scorer,) = inputs(store)
    both = EmbedSpec(encoders=(plain, flipped), batch_size=8)
    made = embed(both, pool, tars, (scorer, scorer), store=store, device="cpu", workers=2)
    (images, texts), (mirrored, _) = by_hand(store), by_hand(store, mirrored=True)
    wanted = ((images * texts).sum(1) + (mirrored * texts).sum(1)) / 2
    scores = pl.concat(pl.read_parquet(store.folder(made).at(f"scores/{part}.parquet")) for part in PARTS)
    found = scores["clip_flipped_score"].fill_null(np.nan).to_numpy()
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    np.testing.assert_allclose(
        scores["clip_tiny_similarity_score"].fill_null(np.nan).to_numpy(), (images * texts).sum(1), atol=2e-6
    )
    assert np.nanmax(np.abs(found - (images * texts).sum(1))) > 5e-5
    for part in PARTS:
        features = np.load(store.folder(made).path / f"features/{part}.npz")
        np.testing.assert_array_equal(features["flipped_img"], features["tiny_img"])
    assert fingerprint(plain) == fingerprint(Encoder(flip="none")) != fingerprint(Encoder(flip="averaged"))
    with pytest.raises(ValidationError, match="do not include mirrored pictures"):
        CaptionEmbedSpec(encoders=(flipped,))


def test_several_models_share_one_pass(store: Store) -> None:
    """Two checkpoints in one pass are what each gives alone."""
    pool, tars, (scorer,) = inputs(store)
    other = random_checkpoint(MadeUp(order="other"), store=store)
    both = EmbedSpec(encoders=(Encoder(), SECOND), batch_size=8)
    made = embed(both, pool, tars, (scorer, other), store=store, device="cpu")
    assert made.columns == ("clip_tiny_similarity_score", "clip_other_score")
    folder = store.folder(made)
    for encoder, checkpoint in ((Encoder(), scorer), (SECOND, other)):
        alone = embed(EmbedSpec(encoders=(encoder,), batch_size=8), pool, tars, (checkpoint,), store=store, device="cpu")
        for part in PARTS:
            mine, theirs = (np.load(place.path / f"features/{part}.npz") for place in (folder, store.folder(alone)))
            for key in (f"{encoder.prefix}_img", f"{encoder.prefix}_txt"):
                np.testing.assert_array_equal(mine[key], theirs[key])
            columns = ["uid", encoder.column]
            tables = [
                pl.read_parquet(place.at(f"scores/{part}.parquet")).select(columns) for place in (folder, store.folder(alone))
            ]
            assert tables[0].equals(tables[1])


@pytest.mark.slow
def test_two_devices_give_the_bytes_of_one(tmp_path: Path) -> None:
    both, made = EmbedSpec(encoders=(Encoder(), SECOND), batch_size=8), list[dict[str, str]]()
    for devices, workers in (("cpu", 1), ("cpu,cpu", 4)):
        store = Store.open(str(tmp_path / devices))
        pool, tars, (scorer,) = inputs(store)
        other = random_checkpoint(MadeUp(order="other"), store=store)
        done = embed(both, pool, tars, (scorer, other), store=store, device=devices, workers=workers)
        made.append(digests(store, done))
    assert made[0] == made[1]


@pytest.mark.slow
def test_an_error_on_one_of_two_devices_is_the_one_that_is_told(store: Store) -> None:
    pool, tars, scorers = inputs(store)
    store.folder(tars).remove("00000001.tar")
    with pytest.raises(DataError, match=r"00000001\.tar"):
        embed(EmbedSpec(batch_size=8), pool, tars, scorers, store=store, device="cpu,cpu")


@pytest.mark.slow
def test_a_device_process_that_is_killed_ends_the_step_and_the_next_run_goes_on(store: Store, tmp_path: Path) -> None:
    pool, tars, scorers = inputs(store)

    def kill_one() -> None:
        while not (found := [child for child in multiprocessing.active_children() if child.name.startswith("embed-")]):
            time.sleep(0.05)
        os.kill(found[0].pid or 0, signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    with pytest.raises(LostProcessError, match="embed-cpu was killed"):
        embed(EmbedSpec(batch_size=8), pool, tars, scorers, store=store, device="cpu,cpu")
    killer.join()
    assert not multiprocessing.active_children()
    made = embed(EmbedSpec(batch_size=8), pool, tars, scorers, store=store, device="cpu,cpu")
    calm = Store.open(str(tmp_path / "calm"))
    assert digests(store, made) == digests(calm, embed(EmbedSpec(batch_size=8), *inputs(calm), store=calm, device="cpu"))


def test_scores_that_the_metadata_brings_are_not_computed_again_unasked(store: Store) -> None:
    pool, tars, scorers = inputs(store)
    metadata = store.folder(pool) / "metadata"
    for part in PARTS:
        table = pl.read_parquet(metadata.at(f"{part}.parquet"))
        table.with_columns(clip_l14_similarity_score=pl.lit(0.25, pl.Float32)).write_parquet(metadata.at(f"{part}.parquet"))
    l14 = Encoder(column="clip_l14_similarity_score", prefix="l14")
    with pytest.raises(SpecError, match="metadata contains clip_l14_similarity_score"):
        embed(EmbedSpec(encoders=(l14,)), pool, tars, scorers, store=store, device="cpu")
    made = embed(EmbedSpec(encoders=(l14,), released="recompute"), pool, tars, scorers, store=store, device="cpu")
    assert made.columns == ("clip_l14_similarity_score",)
    b32 = Encoder(column="clip_b32_similarity_score", prefix="b32")
    assert embed(EmbedSpec(encoders=(b32,)), pool, tars, scorers, store=store, device="cpu").num_embedded, (
        "an empty column is none"
    )


def test_a_wrong_request_is_refused(store: Store) -> None:
    pool, tars, scorers = inputs(store)
    with pytest.raises(SpecError, match="2 checkpoints were given for 1 encoders"):
        embed(EmbedSpec(), pool, tars, scorers * 2, store=store, device="cpu")
    with pytest.raises(ValueError, match="Two encoders have the prefix 'tiny'"):
        EmbedSpec(encoders=(Encoder(), Encoder(column="another")))
    with pytest.raises(ValueError, match="Give model, weights and sha256 together"):
        Encoder(model="ViT-B-32")


@pytest.mark.s3
def test_it_reads_from_and_writes_to_a_bucket(s3_url: str, store: Store) -> None:
    far = Store.open(s3_url)
    made = embed(EmbedSpec(batch_size=8), *inputs(far), store=far, device="cpu")
    assert digests(far, made) == digests(store, embed(EmbedSpec(batch_size=8), *inputs(store), store=store, device="cpu"))
