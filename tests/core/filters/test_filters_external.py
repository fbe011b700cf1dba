"""Code from outside: what it gets wrong is one sentence that names it, and two versions of one file are two filters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import filter_world as world
import pytest
from pydantic import TypeAdapter

from datacomp_core.errors import SpecError
from datacomp_core.filters import WholeFilter
from datacomp_core.pool_source import PoolSource
from datacomp_core.recipes.load import load_recipe
from datacomp_core.scores.compute import computed
from datacomp_core.selection.select import SubsetSpec, scores_of, select
from datacomp_core.store import Folder
from datacomp_core.store.fingerprint import fingerprint

HEAD = """import sys
import numpy as np
import polars as pl
from datacomp_core.filters import BatchFilter, RankFilter, RowFilter, TopCount, register
from datacomp_core.recipes import register as recipe
from datacomp_core.scores import Score
from datacomp_core.scores import register as score
"""
BATCH = (
    "@register('{name}')\nclass A(BatchFilter):\n    def columns(self): return frozenset({{'text'}})\n"
    "    def judge(self, rows): {body}\n"
)
RULE = "@register('{name}')\nclass A(RowFilter):\n    def expression(self): {body}\n"
RANKED = (
    "@register('{name}')\nclass A(RankFilter):\n    def score_expression(self): return pl.col('clip_l14_similarity_score')\n"
    "    def rank(self, num_rows): {body}\n"
)
SCORE = (
    "@score('{name}')\nclass A(Score):\n    def of_part(self, source, part, prepared): {body}\n"
    "@recipe('{name}_best')\ndef best(): return TopCount(score='{name}', count=3)\n"
)
RECIPE = "@recipe('{name}')\ndef best(): {body}\n"
WRONG: list[tuple[str, str, str]] = [
    (BATCH, "return 1 / 0", r"\.py#[0-9a-f]{16} failed at line 11 \(in judge\): ZeroDivisionError: division by zero\.$"),
    (BATCH, "sys.exit(0)", r"failed at line 11 \(in judge\): SystemExit"),
    (BATCH, "return pl.Series([1] * len(rows))", "returns a series of Int64: return a polars series of booleans, or of reasons"),
    (BATCH, "pass", "returns NoneType"),
    (BATCH, "return pl.Series([True])", "returned 1 answers for 75 rows"),
    (RULE, "raise KeyError('x')", r"failed at line 10 \(in expression\): KeyError: 'x'"),
    (RULE, "return True", "returns bool: return a polars expression"),
    (RULE, "return pl.col('text').str.len_chars()", "returns a series of UInt32: return a polars series of booleans"),
    (RULE, "return pl.col('text') > 3", "cannot be evaluated on part 0000000[0-3]: cannot compare string with numeric type"),
    (RANKED, "return 1 / 0", r"failed at line 11 \(in rank\): ZeroDivisionError"),
    (RANKED, "return 3", "`rank` returns 3: return the position of the last row that passes, and a boolean"),
    (SCORE, "raise ValueError('no')", r"failed at line 10 \(in of_part\): ValueError: no"),
    (SCORE, "pass", "returns an array of shape \\(\\) and dtype object: return one number per row"),
    (SCORE, "return np.zeros((75, 2))", "shape \\(75, 2\\)"),
    (SCORE, "return np.array(['a'] * 75)", "dtype <U1: return one number per row"),
    (RECIPE, "return 3", "builds int: its function must return a filter"),
    (
        "@register('{name}')\nclass A(BatchFilter):\n    {body}\n",
        "pass",
        "The filter '.*' lacks columns and judge: write that method",
    ),
    ("@register('{name}')\nclass A:\n    {body}\n", "pass", "decorates something that is not a filter"),
    ("{body}  # {name}\n", "sys.exit(3)", r"fails to load at line 8: SystemExit: 3"),
    (
        "{body}  # {name}\n",
        "import my_helper",
        r"at line 8: ModuleNotFoundError: .*'my_helper'. A file is loaded alone: put what",
    ),
    (
        "@register('words')\nclass A(RowFilter):  # {name}\n    def expression(self): {body}\n",
        "pass",
        r"'words' of \w+\.py#\w+ has the name of",
    ),
]


@pytest.fixture(scope="module")
def metadata(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return world.write(tmp_path_factory.mktemp("world") / "m", world.rows())


def chosen(text: str, metadata: Folder, tmp_path: Path) -> Any:
    wanted = load_recipe(text)
    source = computed(scores_of(wanted.filter), PoolSource(metadata), Folder(tmp_path / "scores"))
    return select(wanted, metadata, source.scores, out=Folder(tmp_path / "out"), write="subset")


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_foreign_code_gets_wrong_is_one_sentence(number: int, metadata: Folder, tmp_path: Path) -> None:
    form, body, told = WRONG[number]
    (tmp_path / f"wrong{number}.py").write_text(HEAD + form.format(name=f"wrong_{number}", body=body))
    from deployments.cli.main import sentence

    try:
        chosen(str(tmp_path / f"wrong{number}.py"), metadata, tmp_path)
    except Exception as problem:
        said, status = sentence(problem)
    else:
        raise AssertionError("nothing was wrong")
    assert re.search(told, said), said
    assert status in (1, 2)


def test_lists_and_arrays_of_booleans_are_answers(metadata: Folder, tmp_path: Path) -> None:
    for name, body in (("as_list", "return [True] * len(rows)"), ("as_array", "return np.ones(len(rows), bool)")):
        (tmp_path / f"{name}.py").write_text(HEAD + BATCH.format(name=name, body=body))
        assert chosen(str(tmp_path / f"{name}.py"), metadata, tmp_path).num_samples == 300


@pytest.fixture
def versions(tmp_path: Path) -> tuple[str, str]:
    """Two files that register the same kind with other meanings, as of two days' work."""
    files: list[str] = []
    for day, least in enumerate((1, 4)):
        file = tmp_path / f"day{day}" / "mine.py"
        file.parent.mkdir()
        file.write_text(
            HEAD + RULE.format(name="of_two_days", body=f"return pl.col('text').str.split(' ').list.len() >= {least}")
        )
        files.append(str(file))
    return files[0], files[1]


def test_two_versions_of_one_file_are_two_filters(versions: tuple[str, str], metadata: Folder, tmp_path: Path) -> None:
    first, second = (load_recipe(file) for file in versions)
    assert load_recipe(versions[0]).filter == first.filter, "the first is still what it was"
    adapter: TypeAdapter[Any] = TypeAdapter(WholeFilter)
    sizes = []
    for wanted, least in ((first, 1), (second, 4)):
        again = adapter.validate_python(wanted.filter.model_dump(mode="json"))
        assert type(again) is type(wanted.filter)
        spec = SubsetSpec(recipe=wanted.name, filter=wanted.filter)
        assert SubsetSpec.model_validate_json(spec.model_dump_json()) == spec
        sizes.append(select(spec, metadata).num_samples)
        assert sizes[-1] == sum(len(row["text"].split(" ")) >= least for row in world.rows() if row["text"] is not None)
    assert sizes[0] != sizes[1]
    assert fingerprint(first.filter) != fingerprint(second.filter)


def test_two_packages_may_not_register_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from datacomp_core import external_code, registry

    monkeypatch.setattr(external_code, "_installed", lambda package: f"{package}==1.0" if package.startswith("theirs") else "")
    made = registry.Registry[Any]("filter kind", "datacomp.none", "datacomp_core.filters")
    made.add("mine", object(), "theirs_a.filters")
    made.add("mine", object(), "theirs_a.filters")
    with pytest.raises(SpecError, match=r"theirs_a==1\.0 and theirs_b==1\.0 both register the filter kind 'mine'"):
        made.add("mine", object(), "theirs_b")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("listed:uids=", "The place of a list of uids is empty"),
        ("listed:uids=mine.json", r"mine\.json is not a list of uids: give a file with \.npy"),
        ("listed", "'listed' is a filter, not a recipe: write its parameters, as in listed:uids=VALUE"),
    ],
)
def test_a_list_that_is_named_wrongly(text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("[]")
    with pytest.raises(SpecError, match=told):
        load_recipe(text)
