"""The tutorial on filters, run as it stands, on small pools, against plain Python."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
import typer
from PIL import Image
from pydantic import TypeAdapter
from typer.testing import CliRunner

from datacomp_core import shards
from datacomp_core.filters import WholeFilter
from datacomp_core.pool_source import PoolSource
from datacomp_core.recipes.base import Recipe
from datacomp_core.recipes.load import load_recipe
from datacomp_core.scores import KINDS
from datacomp_core.scores.compute import computed
from datacomp_core.selection.select import scores_of, select
from datacomp_core.store import Folder

PAGE = (Path(__file__).parents[2] / "docs" / "filters_tutorial.md").read_text()
TEXTS = ["a red dog", "A RED DOG", "BUY NOW cheap", None, "12345", "Ein Hund im Garten"]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def _code(kind: str) -> str:
    """The one block that registers a kind."""
    [block] = [block for block in _blocks("python") if f'@register("{kind}")' in block]
    return block


def _module(name: str, source: str, folder: Path) -> ModuleType:
    (folder / f"{name}.py").write_text(source)
    sys.path.insert(0, str(folder))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(folder))


@pytest.fixture
def metadata(tmp_path: Path) -> Folder:
    folder = tmp_path / "metadata"
    folder.mkdir()
    chance = np.random.default_rng(0)
    for part in range(2):
        frame = {
            "uid": [f"{part:016x}{row:016x}" for row in range(len(TEXTS))],
            "text": TEXTS,
            "clip_l14_similarity_score": chance.normal(size=len(TEXTS)).astype(np.float32),
            "clip_b32_similarity_score": np.random.default_rng(9 + part).normal(size=len(TEXTS)).astype(np.float32),
        }
        pl.DataFrame(frame).write_parquet(folder / f"{part:08d}.parquet")
        np.savez(folder / f"{part:08d}.npz", l14_img=chance.normal(size=(len(TEXTS), 4)).astype(np.float32))
    return Folder(folder)


def test_the_recipe(metadata: Folder, tmp_path: Path) -> None:
    [text] = _blocks("yaml")
    (tmp_path / "mine.yaml").write_text(text)
    told = select(load_recipe(str(tmp_path / "mine.yaml")), metadata).explanation
    assert [step.asked for step in told.steps] == [12, 8, 4]
    assert told.dropped["a copy by text"] == 4
    assert told.kept == 3  # the reference's n + 1 rule


def test_the_rule(metadata: Folder, tmp_path: Path) -> None:
    rule = _module("shouting", _code("shouting"), tmp_path).Shouting
    assert rule.__name__ == "Shouting"
    adapter: TypeAdapter[Any] = TypeAdapter(WholeFilter)
    asked = adapter.validate_python({"kind": "shouting", "capitals_at_most": 0.4})
    told = select(Recipe.model_construct(name="t", filter=asked), metadata).explanation
    letters = [[c for c in text if c.isalpha()] for text in TEXTS if text is not None]
    kept = sum(sum(c.isupper() for c in some) <= 0.4 * len(some) for some in letters)
    assert told.kept == 2 * kept == 6
    assert told.dropped == {"over 40% capitals": 4, "no text": 2}


def test_the_score(metadata: Folder, tmp_path: Path) -> None:
    score = _module("unusual", _code("unusual"), tmp_path).Unusual
    assert score is KINDS["unusual"]
    recipe = Recipe.model_validate({"name": "t", "filter": {"kind": "top_count", "score": "unusual", "count": 3}})
    source = computed(scores_of(recipe.filter), PoolSource(metadata), Folder(tmp_path / "scores"))
    told = select(recipe, metadata, source.scores, out=Folder(tmp_path), write="subset")
    rows = np.concatenate([np.load(metadata.path / f"{part:08d}.npz")["l14_img"] for part in range(2)])
    distance = np.linalg.norm(rows - rows.mean(0), axis=1)
    packed = np.load(tmp_path / "subset.npy")
    expected = sorted((place // len(TEXTS), place % len(TEXTS)) for place in np.argsort(-distance)[:3])
    assert told.num_samples == 3
    assert [(int(high), int(low)) for high, low in packed.tolist()] == expected


def test_the_function_that_says_why(metadata: Folder, tmp_path: Path) -> None:
    (tmp_path / "careful.py").write_text(_code("careful"))
    told = select(load_recipe(f"{tmp_path}/careful.py:odd_below=0"), metadata).explanation
    frame = pl.concat([pl.read_parquet(metadata.at(name)) for name in metadata.files(".parquet")])
    short = [len(set((text or "").lower().split())) < 2 for text in frame["text"]]
    odd = [not is_short and score < 0 for is_short, score in zip(short, frame["clip_l14_similarity_score"], strict=True)]
    assert told.dropped == {"one word only": sum(short), "odd": sum(odd)}
    assert told.kept == len(frame) - sum(short) - sum(odd)


def test_the_score_of_pictures_is_computed_once_for_every_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the page, in a folder with nothing else; for the second one there is no picture any more."""
    (tmp_path / "bright.py").write_text(_code("brightness"))
    levels = {f"{number:032x}": 10 * number for number in range(1, 21)}
    captions = dict(zip(reversed(levels), ["a red dog"] * 11 + ["dog"] * 9, strict=True))
    (tmp_path / "small" / "metadata").mkdir(parents=True)
    table = pl.DataFrame(list(captions.items()), schema=["uid", "text"], orient="row")
    table.write_parquet(tmp_path / "small" / "metadata" / "00000000.parquet")
    _shard(tmp_path / "small" / "shards", levels)
    monkeypatch.chdir(tmp_path)
    commands = [line.split() for line in PAGE.splitlines() if line.startswith("datacomp filter") and "bright.py" in line]
    for words, at_least in zip(commands, (60, 80), strict=True):
        done = CliRunner().invoke(_app(), words[1:], catch_exceptions=False)
        assert done.exit_code == 0
        kept = {f"{int(high):016x}{int(low):016x}" for high, low in np.load(words[-1]).tolist()}
        assert kept == {uid for uid, level in levels.items() if level >= at_least and " " in captions[uid]}
        monkeypatch.setattr("datacomp_core.scores.image_scores.pillow_image", None)


def _app() -> typer.Typer:
    from deployments.cli.main import app, register

    register()
    return app


def _shard(folder: Path, levels: dict[str, int]) -> None:
    """An indexed tar of grey pictures."""
    data = io.BytesIO()
    writer = shards.ShardWriter(data, "00000000")
    for number, (uid, level) in enumerate(levels.items()):
        picture = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(picture, "PNG")
        writer.add(uid, f"{number:09d}", {"png": picture.getvalue(), "txt": b"a caption"})
    index = writer.finish()
    Folder(folder).write("00000000.tar", data.getvalue())
    shards.write_index(Folder(folder), "00000000", index)


def test_the_ranking_over_two_columns(metadata: Folder, tmp_path: Path) -> None:
    (tmp_path / "balanced.py").write_text(_code("balanced"))
    recipe = load_recipe(f"{tmp_path}/balanced.py:fraction=0.5")
    told = select(recipe, metadata, out=Folder(tmp_path / "out"), write="all")  # with the report and its histogram
    frame = pl.concat([pl.read_parquet(metadata.at(name)) for name in metadata.files(".parquet")])
    weaker = [min(pair) for pair in frame.select("clip_l14_similarity_score", "clip_b32_similarity_score").iter_rows()]
    best = sorted(range(len(weaker)), key=lambda place: -weaker[place])[:6]
    packed = np.load(tmp_path / "out" / "subset.npy")
    assert {f"{int(high):016x}{int(low):016x}" for high, low in packed.tolist()} == {frame["uid"][place] for place in best}
    assert told.num_samples == 6
    both = Recipe.model_validate(
        {
            "name": "t",
            "filter": {"kind": "all", "filters": [{"kind": "balanced", "fraction": 0.5}, {"kind": "words", "at_least": 3}]},
        }
    )
    assert select(both, metadata).num_samples == sum(len((frame["text"][place] or "").split()) >= 3 for place in best)
