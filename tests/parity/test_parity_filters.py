"""The uid file of every baseline is, byte for byte, the one that the reference made of the same metadata (see freeze_filters)."""

from __future__ import annotations

import json
from pathlib import Path

import dirty_metadata
import image_embeddings
import numpy as np
import polars as pl
import pytest

from datacomp_core.selection.select import load_recipe, select
from datacomp_core.store import Folder

FROZEN = Path(__file__).parent / "filters"
PRECISIONS: dict[str, type[pl.DataType]] = {"float32": pl.Float32, "float64": pl.Float64}
pytestmark = pytest.mark.parity


@pytest.fixture(scope="module", params=list(PRECISIONS))
def metadata(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Folder]:
    folder = tmp_path_factory.mktemp(request.param)
    found = dirty_metadata.write(folder, dtype=PRECISIONS[request.param])
    given = json.loads((FROZEN / "inputs.json").read_text())
    assert found == given["sha256"], "the inputs are not those the reference was given"
    assert image_embeddings.write(folder) == given["embeddings"], "the embeddings are not those the reference was given"
    return request.param, Folder(folder)


@pytest.mark.parametrize(
    ("frozen", "recipe"),
    [
        ("no_filter", "no_filter"),
        ("basic_filter", "basic_filter"),
        ("laion2b", "laion2b"),
        ("text_based", "text_based"),
        ("clip_score-b32-fraction0.3", "clip_score:score=b32,fraction=0.3"),
        ("clip_score-b32-fraction0.3", "clip_score_b32"),
        ("clip_score-b32-fraction0.05", "clip_score:score=b32,fraction=0.05"),
        ("clip_score-l14-fraction0.3", "clip_score_l14"),
        ("clip_score-l14-fraction0.0001", "clip_score:score=l14,fraction=0.0001"),
        ("clip_score-l14-fraction0.99", "clip_score:score=l14,fraction=0.99"),
        ("clip_score-b32-threshold0.28", "clip_score:score=b32,threshold=0.28"),
        ("clip_score-b32-threshold0.3", "clip_score:score=b32,threshold=0.3"),
        ("clip_score-l14-threshold0.243", "clip_score:score=l14,threshold=0.243"),
    ],
)
def test_same_bytes_as_the_reference(frozen: str, recipe: str, metadata: tuple[str, Folder], tmp_path: Path) -> None:
    precision, folder = metadata
    select(load_recipe(recipe), folder, out=Folder(tmp_path), write="subset")
    assert (tmp_path / "subset.npy").read_bytes() == (FROZEN / f"{precision}-{frozen}.npy").read_bytes()


@pytest.mark.parametrize(
    ("frozen", "recipe"),
    [
        ("image_based", "image_based:"),
        ("image_based_intersect_clip_score-l14-fraction0.3", "image_based_intersect_clip_score:fraction=0.3,"),
        ("image_based_intersect_clip_score-b32-threshold0.25", "image_based_intersect_clip_score:score=b32,threshold=0.25,"),
    ],
)
def test_same_bytes_as_the_reference_by_images(frozen: str, recipe: str, metadata: tuple[str, Folder], tmp_path: Path) -> None:
    """The reference's own files: centroids as torch saves an array, five files of features. Ours reads them as they are."""
    import torch

    precision, folder = metadata
    torch.save(image_embeddings.centroids(), tmp_path / "centroids.pt", pickle_protocol=4)
    targets = np.concatenate([image_embeddings.target(number) for number in range(5)])
    torch.save({"image_features": torch.from_numpy(targets)}, tmp_path / "target.pt")
    wanted = load_recipe(f"{recipe}centroids={tmp_path}/centroids.pt,target={tmp_path}/target.pt")
    done = select(wanted, folder, out=Folder(tmp_path), write="subset")
    assert 50 < done.num_samples < done.explanation.rows - 50
    assert (tmp_path / "subset.npy").read_bytes() == (FROZEN / f"{precision}-{frozen}.npy").read_bytes()


def test_dirty_rows_reach_the_filters(metadata: tuple[str, Folder]) -> None:
    """That the files agree would mean little if nothing dirty came through: every baseline keeps and drops something."""
    for name in ("basic_filter", "clip_score_b32", "clip_score_l14", "text_based"):
        told = select(load_recipe(name), metadata[1]).explanation
        assert 200 < told.kept < told.rows - 200, name
        assert sum(told.dropped.values()) + told.kept == told.rows
