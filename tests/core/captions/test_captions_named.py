"""Filters that name the captions that they read (`captions_of`), against plain Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import caption_world as world
import numpy as np
import polars as pl
import pytest

from datacomp_core import uid
from datacomp_core.caption_policy import CaptionPolicy
from datacomp_core.captions.choose_captions import PolicyInputs, choose_folder
from datacomp_core.captions.import_captions import CaptionImportSpec, import_folder_captions
from datacomp_core.errors import DataError, SpecError
from datacomp_core.pool_source import PoolSource
from datacomp_core.selection.select import SubsetSpec, select
from datacomp_core.selection.subset_spec import scores_of_named
from datacomp_core.selection.with_captions import captions_in
from datacomp_core.store import Folder

POOL = world.pool(number=120)
RAW = {row["uid"]: (f"{row['text']} {'word ' * (n % 5)}".strip(), row["clip_l14_similarity_score"]) for n, row in enumerate(POOL)}
A = {row["uid"]: (f"a {n % 7} {'x ' * (n % 3)}".strip(), round((n * 37 % 101) / 202, 3)) for n, row in enumerate(POOL) if n % 4}
B = {row["uid"]: (f"b of {n}", round((n * 53 % 97) / 194, 3)) for n, row in enumerate(POOL) if n % 3 == 0}
Pair = tuple[str, float]


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, PoolSource]:
    rows = [{**row, "text": RAW[row["uid"]][0]} for row in POOL]
    metadata = world.write_pool(tmp_path / "m", rows)
    own, found = PoolSource(metadata), dict[str, PoolSource]()
    for name, captions in (("a", A), ("b", B)):
        table = [{"uid": one, "text": text, "s": score} for one, (text, score) in captions.items()]
        pl.DataFrame(table).write_csv(tmp_path / f"{name}.csv")
        columns = {"score_column": "s", "score": "l14"}
        spec = CaptionImportSpec.model_validate({"file": str(tmp_path / f"{name}.csv"), "name": name, **columns})
        made = import_folder_captions(spec, metadata, Folder(tmp_path / name))
        policy = CaptionPolicy(kind="replace", sources=(name,))
        choose_folder(PolicyInputs(policy, own, ((made, Folder(tmp_path / name)),)), Folder(tmp_path / f"of-{name}"))
        found[name] = captions_in(own, Folder(tmp_path / f"of-{name}"))
    return {"raw": own, **found}


def of(captions: str, inner: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "captions_of", "captions": captions, "filter": inner}


def every(*filters: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "all", "filters": list(filters)}


WORDY: dict[str, Any] = {"kind": "words", "at_least": 4}
SCORED: dict[str, Any] = {"kind": "threshold", "score": "l14", "at_least": 0.2}


def top(count: int, among: str) -> dict[str, Any]:
    return {"kind": "top_count", "score": "l14", "count": count, "of": among}


def words(least: int) -> Callable[[Pair], bool]:
    return lambda pair: len(pair[0].split()) >= least


def scored(least: float) -> Callable[[Pair], bool]:
    return lambda pair: bool(np.float32(pair[1]) >= np.float32(least))


def having(captions: dict[str, Pair], test: Callable[[Pair], bool]) -> set[str]:
    return {one for one, pair in captions.items() if test(pair)}


def best(captions: dict[str, Pair], among: set[str], number: int) -> set[str]:
    """The best by score and all that are as good as the last."""
    scores = sorted((np.float32(captions[one][1]) for one in among & captions.keys()), reverse=True)
    return {one for one in among & captions.keys() if np.float32(captions[one][1]) >= scores[number - 1]}


def first_of_each(captions: dict[str, Pair], among: set[str]) -> set[str]:
    found: dict[str, str] = {}
    for one in sorted(among & captions.keys()):
        found.setdefault(captions[one][0], one)
    return set(found.values())


EVERY = set(RAW)
WORDS_3, A_2, B_SCORE = having(RAW, words(4)), having(A, words(3)), having(B, scored(0.2))
A_WORDS = {"kind": "words", "at_least": 3}
CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "one": (of("a", A_WORDS), A_2),
    "words of the pool, score of b": (every(WORDY, of("b", SCORED)), WORDS_3 & B_SCORE),
    "any": ({"kind": "any", "filters": [of("a", A_WORDS), of("b", SCORED)]}, A_2 | B_SCORE),
    "not: without a caption neither": ({"kind": "not", "filter": of("a", A_WORDS)}, set(A) - A_2),
    "best of the pool": (of("a", top(20, "pool")), best(A, EVERY, 20)),
    "best of the survivors": (every(of("raw", WORDY), of("a", top(9, "survivors"))), best(A, WORDS_3, 9)),
    "two rankings, each by its captions": (
        every(of("b", top(25, "survivors")), of("raw", top(6, "survivors"))),
        best(RAW, best(B, EVERY, 25), 6),
    ),
    "distinct by the captions of a": (every(WORDY, of("a", {"kind": "distinct", "by": "text"})), first_of_each(A, WORDS_3)),
    "nested: the inner one counts": (of("a", of("b", {"kind": "words", "at_least": 1})), set(B)),
}


@pytest.mark.parametrize(("filter_", "wanted"), CASES.values(), ids=CASES.keys())
def test_a_filter_reads_the_captions_that_it_names(
    filter_: dict[str, Any], wanted: set[str], sources: dict[str, PoolSource], tmp_path: Path
) -> None:
    spec = SubsetSpec.model_validate({"recipe": "mine", "filter": filter_})
    chosen = select(spec, sources["raw"].metadata, named=sources, out=Folder(tmp_path / "out"))
    found = uid.unpack(np.load(tmp_path / "out/subset.npy")).to_list()
    assert sorted(found) == sorted(wanted)
    assert 0 < chosen.num_samples < len(POOL)


def test_a_filter_of_batches_reads_them_too(sources: dict[str, PoolSource]) -> None:
    spec = SubsetSpec.model_validate({"recipe": "mine", "filter": of("b", {"kind": "tokens", "tokens_at_least": 2})})
    told = select(spec, sources["raw"].metadata, named=sources).explanation
    assert told.kept == len(B)
    assert list(told.dropped) == ["no text (b captions)"]


def test_with_a_policy_only_the_named_ones_differ(sources: dict[str, PoolSource], tmp_path: Path) -> None:
    """The policy gives the captions of `a`; rows without one are dropped whatever a filter names."""
    spec = SubsetSpec.model_validate({"recipe": "mine", "filter": every(A_WORDS, of("raw", WORDY))})
    captioned = sources["a"].captioned
    assert captioned is not None
    scores = [captioned / "scores"]
    select(spec, sources["raw"].metadata, scores, captioned=captioned, named=sources, out=Folder(tmp_path / "out"))
    assert set(uid.unpack(np.load(tmp_path / "out/subset.npy"))) == A_2 & WORDS_3


def test_captions_that_are_not_given_are_one_sentence(sources: dict[str, PoolSource]) -> None:
    spec = SubsetSpec.model_validate({"recipe": "mine", "filter": of("c", WORDY)})
    with pytest.raises(SpecError, match="names the captions 'c'; given are a, b, raw"):
        select(spec, sources["raw"].metadata, named=sources)
    with pytest.raises(DataError, match="mine"):
        wrong = SubsetSpec.model_validate({"recipe": "mine", "filter": of("a", {**SCORED, "score": "mine"})})
        select(wrong, sources["raw"].metadata, named=sources)


def test_what_a_spec_says_that_it_reads() -> None:
    metaclip = {"kind": "threshold", "score": "metaclip:seed=5", "at_least": 0.5}
    tree = every(WORDY, of("a", {**SCORED, "score": "b32"}), of("b", metaclip))
    spec = SubsetSpec.model_validate({"recipe": "mine", "filter": tree})
    assert spec.captions() == ("a", "b")
    assert "clip_b32_similarity_score" in spec.columns()
    assert spec.scores() == ()
    assert [score.kind for score in scores_of_named(spec.filter, "b")] == ["metaclip"]
    assert SubsetSpec.model_validate(spec.model_dump()) == spec
