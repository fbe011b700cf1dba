"""Rows whose features overflow are null and counted; every tally adds up to the rows, for all encoders and for each."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from datacomp_core import clip, shards
from datacomp_core.clip_sources import FileModel
from datacomp_core.embedding.assemble import EncoderColumn, Filling, Sides, Span
from datacomp_core.embedding.embed import embed_folder
from datacomp_core.embedding.spec import EmbedSpec, Encoder
from datacomp_core.parts import SCHEMA
from datacomp_core.store import Folder

MODEL = "datacomp-tiny"
ROWS = 10


def picture(row: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(row).integers(0, 255, (48, 56, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Row 0 has no caption and no picture, 1 no caption, 2 no picture, 3 a broken one."""
    names = [f"{row:032x}" for row in range(ROWS)]
    texts = [None if row < 2 else f"thing number {row}" for row in range(ROWS)]
    table = pl.DataFrame({"uid": names, "text": texts}, schema={"uid": pl.String, "text": pl.String}).with_columns(
        pl.lit(None, dtype=kind).alias(name) for name, kind in SCHEMA.items() if name not in ("uid", "text")
    )
    (tmp_path / "metadata").mkdir()
    table.select(SCHEMA.names()).write_parquet(tmp_path / "metadata/00000000.parquet")
    out = Folder(tmp_path / "shards")
    with out.writing("00000000.tar") as path, path.open("wb") as file:
        writer = shards.ShardWriter(file, "00000000")
        for row in (1, *range(3, ROWS)):
            data = b"no picture" if row == 3 else picture(row)
            writer.add(names[row], names[row], {"jpg": data, "txt": (texts[row] or "").encode(), "json": b"{}"})
        shards.write_index(out, "00000000", writer.finish())
    clip.register()
    import open_clip

    torch.manual_seed(3)
    good = open_clip.create_model(MODEL, load_weights=False).state_dict()
    torch.save(good, tmp_path / "good.pt")
    torch.save(good | {"text_projection": good["text_projection"] * 1e8}, tmp_path / "large.pt")  # finite, but not in fp16
    return tmp_path


def test_an_overflow_is_null_counted_and_told(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoders = tuple(Encoder(column=f"clip_{name}_score", prefix=name) for name in ("good", "large"))
    models = tuple(FileModel(name, MODEL, world / f"{name}.pt") for name in ("good", "large"))
    places = (str(world / "metadata"), str(world / "shards"), str(world / "out"))
    counts = embed_folder(EmbedSpec(encoders=encoders, precision="fp16"), models, *places, device="cpu")
    want = {"never_arrived": 2, "corrupt_image": 1, "no_caption": 1}
    assert {name: count for name, count in counts.items() if count} == {"rows": ROWS, **want, "not_finite": 6}
    tally: dict[str, Any] = json.loads((world / "out/tally/00000000.json").read_text())
    own = tally.pop("encoders")
    assert sum(tally.values()) == sum(own["good"].values()) == sum(own["large"].values()) == ROWS
    assert {name: count for name, count in own["good"].items() if count} == want | {"embedded": 6}
    assert {name: count for name, count in own["large"].items() if count} == want | {"not_finite": 6}
    assert "large: 6 of 10 rows have no features" in caplog.text
    scores = pl.read_parquet(world / "out/scores/00000000.parquet")
    assert scores["clip_large_score"].null_count() == ROWS
    assert scores["clip_good_score"].null_count() == ROWS - 6
    with np.load(world / "out/features/00000000.npz") as kept:
        assert np.isnan(kept["large_txt"]).all()
        assert np.isfinite(kept["large_img"][4:]).all()
        for key in kept.files:
            row = np.isnan(kept[key]).sum(axis=1)
            assert set(row.tolist()) <= {0, kept[key].shape[1]}, "a row has all of its features or none"


@pytest.mark.parametrize("place", [0, 3, 7])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_dimension_takes_the_features_of_its_row_and_no_other(place: int, bad: float) -> None:
    random = np.random.default_rng(0)
    images, texts = (random.normal(size=(4, 8)).astype(np.float32) for _ in range(2))
    right = np.einsum("nd,nd->n", images, texts)
    images[2, place] = bad
    texts[2, place] = 0
    filling = Filling((EncoderColumn("score", "mine", 8),), 4, {"part": 4})
    full = filling.add(Span("part", 0, 4), [Sides(images.copy(), texts)], [0, 1, 2, 3], {})
    assert full is not None
    made = full[1]
    assert np.isnan(made.images[0]).all(axis=1).tolist() == [False, False, True, False]
    assert np.isnan(made.images[0]).any(axis=1).tolist() == [False, False, True, False]
    assert not np.isnan(made.texts[0]).any()
    assert np.isnan(made.scores[0]).tolist() == [False, False, True, False]
    np.testing.assert_allclose(made.scores[0][[0, 1, 3]], right[[0, 1, 3]], rtol=1e-5)
    assert (made.tally["embedded"], made.tally["not_finite"]) == (3, 1)
