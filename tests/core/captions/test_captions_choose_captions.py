"""Policies over caption sets, against plain Python row by row; filters and scores that read the new pairs."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import caption_world as world
import numpy as np
import polars as pl
import pytest

from datacomp_core import caption_sets, uid
from datacomp_core.artifacts import Captions
from datacomp_core.caption_policy import CaptionPolicy, draw_caption, plan_of
from datacomp_core.captions.choose_captions import PolicyInputs, choose_folder, not_used
from datacomp_core.captions.import_captions import account
from datacomp_core.errors import DataError, SpecError
from datacomp_core.filters import Everything, Filter, Listed, SampleTo, Threshold, Words
from datacomp_core.pool_source import PoolSource
from datacomp_core.recipes.base import Recipe
from datacomp_core.selection.select import select
from datacomp_core.store import Folder

POOL = world.pool(5)
L14 = "clip_l14_similarity_score"
Set = dict[int, list[tuple[str, float | None]]]


def caption_set(seed: int, share: float, most: int = 3) -> Set:
    """Captions and scores by row."""
    chance = random.Random(seed)
    rows = [row for row in range(len(POOL)) if chance.random() < share]
    return {
        row: [
            (f"{seed} {row} {n}" if chance.random() < 0.9 else f"raw {row}", float(np.float32(chance.random() / 2)))
            if chance.random() < 0.9
            else (f"{seed} {row} {n}", None)
            for n in range(chance.randint(1, most))
        ]
        for row in rows
    }


SETS = {"a": caption_set(1, 0.6), "b": caption_set(2, 0.3)}
RAW: Set = {row: [(str(one["text"]), float(np.float32(one[L14])))] for row, one in enumerate(POOL)}
RAW[3] = [("  ", 0.9)]
RAW[4] = [("raw 4", None)]
EVERY: dict[str, Any] = {"raw": RAW, **SETS}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PolicyInputs:
    root = tmp_path_factory.mktemp("captions")
    rows = [{**one, "text": RAW[row][0][0], L14: RAW[row][0][1]} for row, one in enumerate(POOL)]
    metadata, sets = world.write_pool(root / "m", rows), []
    for name, found in SETS.items():
        for part in range(world.PARTS):
            start, stop = (len(POOL) * edge // world.PARTS for edge in (part, part + 1))
            some = [
                (row - start, POOL[row]["uid"], name, t, s) for row in sorted(found) if start <= row < stop for t, s in found[row]
            ]
            table = pl.DataFrame(some, schema=["row", "uid", "source", "text", L14], orient="row")
            caption_sets.write_captions(Folder(root / name), f"{part:08d}", table, [L14])
        own = Captions(sources=(name,), scores=(L14,), num_samples=len(POOL), num_captions=0, num_captioned=0, name=name)
        sets.append((own, Folder(root / name)))
    return PolicyInputs(CaptionPolicy(), PoolSource(metadata), tuple(sets))


def chosen(choice: PolicyInputs, policy: Any, out: Path) -> list[tuple[str | None, str | None, bool, float | None]]:
    made = choose_folder(
        PolicyInputs(plan_of({"captions": ["x"], "policy": policy}, "it").policy, choice.source, choice.sets), Folder(out)
    )
    tables = [pl.read_parquet(out / f"scores/{part:08d}.parquet") for part in range(world.PARTS)]
    whole = pl.concat(tables)
    assert whole["uid"].to_list() == [one["uid"] for one in POOL]
    assert made.num_changed == int(whole["caption_changed"].sum())
    assert made.counts.get("without_caption", 0) == whole["caption_source"].null_count()
    return whole.select("caption_source", "text", "caption_changed", L14).rows()


def plain(policy: str, row: int) -> tuple[str, str, float | None] | None:
    """Source, text and score by the words of the policy."""
    found = {name: [pair for pair in EVERY[name].get(row, []) if pair[0].strip()] for name in EVERY}
    scored = [(name, t, s) for name in ("raw", "a", "b") for t, s in found[name] if s is not None]
    first = {name: [(name, t, s) for t, s in found[name]][:1] for name in found}
    if policy == "replace":
        return next(iter(first["a"]), None)
    if policy == "first_of":
        return next(iter(first["b"] + first["a"] + first["raw"]), None)
    if policy == "best":
        return max(scored, key=lambda one: one[2]) if scored else None
    raw = [one for one in scored if one[0] == "raw" and one[2] >= 0.3]
    others = [one for one in scored if one[0] == "a"]
    high = [one for one in others if one[2] >= 0.3]
    if raw or high or policy == "replace_below":
        return next(iter(raw), max(high, key=lambda one: one[2]) if high else None)
    return max(others, key=lambda one: one[2]) if others else next(iter(first["a"]), None)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("replace", {"replace": "a"}),
        ("first_of", {"first_of": ["b", "a", "raw"]}),
        ("best", {"best": "l14"}),
        ("replace_below", {"replace_below": {"threshold": 0.3, "sources": ["a"], "score": "l14"}}),
        ("low", {"replace_below": {"threshold": 0.3, "sources": ["a"], "low": "replace"}}),
    ],
)
def test_a_policy_chooses_as_its_words_say(name: str, policy: Any, made: PolicyInputs, tmp_path: Path) -> None:
    found = chosen(made, policy, tmp_path)
    for row, (source, text, changed, score) in enumerate(found):
        wanted, raw = plain(name, row), RAW[row][0]
        if wanted is None:
            assert (source, text) == (None, None), row
            continue
        assert (source, text) == wanted[:2], row
        assert changed == (source != "raw" and text != raw[0])
        assert score == (wanted[2] if changed else raw[1]), row
    assert {source for source, *_ in found} >= {"a"}


def test_a_draw_lists_every_caption_and_counts_what_is_expected(made: PolicyInputs, tmp_path: Path) -> None:
    policy = plan_of({"captions": ["x"], "draw": {"a": 3, "raw": 1, "b": 0}}, "it").policy
    done = choose_folder(PolicyInputs(policy, made.source, made.sets), Folder(tmp_path))
    rows = pl.concat([pl.read_parquet(tmp_path / f"draws/{part:08d}.parquet") for part in range(world.PARTS)])[
        "captions"
    ].to_list()
    wanted = [
        [(name, text) for name in ("a", "raw", "b") for text, _ in EVERY[name].get(row, []) if text.strip()]
        for row in range(len(POOL))
    ]
    assert [[(one["source"], one["text"]) for one in some or []] for some in rows] == wanted
    there = [{name for name, _ in some} for some in wanted]
    assert done.counts["caption: a"] == round(sum(0.75 if {"a", "raw"} <= one else "a" in one for one in there))
    assert done.counts["caption: raw"] == round(sum(0.25 if {"a", "raw"} <= one else "raw" in one for one in there))
    assert done.draws


def test_the_draw_is_a_function_of_its_numbers() -> None:
    there = {"raw": ["r"], "a": ["x", "y", "z"], "b": ["w"]}
    weights = {"raw": 1.0, "a": 3.0, "b": 0.0}
    chance = random.Random(4)
    found = [draw_caption(weights, there, (chance.random(), chance.random())) for _ in range(8000)]
    shares = {one: sum(pair == one for pair in found) / len(found) for one in set(found)}
    assert shares.keys() == {("raw", "r"), ("a", "x"), ("a", "y"), ("a", "z")}
    assert all(abs(share - 0.25) < 0.02 for share in shares.values())
    assert draw_caption(weights, {"b": ["w"], "raw": []}, (0.3, 0.9)) == ("b", "w")
    assert draw_caption(weights, {}, (0.3, 0.9)) is None
    assert draw_caption({"a": 1.0}, there, (0.9999999, 0.9999999)) == ("a", "z")


# Filters -------------------------------------------------------------------------------------------------------------


def kept(choice: PolicyInputs, tree: Filter, captioned: Path | None, out: Path) -> tuple[list[str], Any]:
    folder = Folder(captioned) if captioned else None
    done = select(Recipe(name="it", filter=tree), choice.source.metadata, captioned=folder, out=Folder(out))
    return uid.unpack(uid.read_subset((out / "subset.npy").read_bytes(), "it")).to_list(), done.explanation


def test_filters_read_the_new_text_and_no_score_of_the_old_pair(made: PolicyInputs, tmp_path: Path) -> None:
    unscored = [(one.model_copy(update={"scores": ()}), folder) for one, folder in made.sets]
    for _, folder in unscored:
        for name in (folder / "captions").files(".parquet"):
            pl.read_parquet(folder.at(f"captions/{name}")).drop(L14).write_parquet(tmp_path / name)
    bare = [(one, Folder(tmp_path / one.name)) for one, _ in unscored]
    for one, folder in made.sets:
        for name in (folder / "captions").files(".parquet"):
            (tmp_path / one.name / "captions").mkdir(parents=True, exist_ok=True)
            pl.read_parquet(folder.at(f"captions/{name}")).drop(L14).write_parquet(tmp_path / one.name / "captions" / name)
    policy = CaptionPolicy.model_validate({"first_of": ["a", "raw"]})
    choice = PolicyInputs(policy, made.source, tuple((one, folder) for one, folder in bare))
    [told] = not_used(choose_folder(choice, Folder(tmp_path / "c")).counts)
    assert "have a different caption from the one that clip_l14_similarity_score was computed for" in told
    texts = {row: next(iter([t for t, _ in SETS["a"].get(row, [])] + [RAW[row][0][0]])) for row in range(len(POOL))}
    found, _ = kept(made, Words(at_least=3), tmp_path / "c", tmp_path / "s")
    assert sorted(found) == sorted(POOL[row]["uid"] for row, text in texts.items() if len(text.split()) >= 3)
    found, told = kept(made, Threshold(score="l14", at_least=0.2), tmp_path / "c", tmp_path / "t")
    same = [row for row, text in texts.items() if text == RAW[row][0][0] and text.strip()]
    high = [row for row in same if RAW[row][0][1] is not None and RAW[row][0][1] >= 0.2]
    assert sorted(found) == sorted(POOL[row]["uid"] for row in high)
    assert sum(told.dropped.values()) == len(POOL) - len(found)


@pytest.mark.parametrize("tree", [Listed, Everything, SampleTo])
def test_rows_that_the_policy_leaves_out_are_never_kept(tree: Any, made: PolicyInputs, tmp_path: Path) -> None:
    choose_folder(PolicyInputs(CaptionPolicy.model_validate({"replace": "b"}), made.source, made.sets), Folder(tmp_path / "c"))
    having = {POOL[row]["uid"] for row in SETS["b"]}
    if tree is Listed:
        (tmp_path / "l.txt").write_text("\n".join(one["uid"] for one in POOL for _ in range(2)))
        asked: Any = Listed(uids=str(tmp_path / "l.txt"))
    else:
        asked = (
            Everything()
            if tree is Everything
            else SampleTo.model_validate({"filter": {"kind": "everything"}, "num_samples": 500})
        )
    found, told = kept(made, asked, tmp_path / "c", tmp_path / "s")
    assert set(found) == having
    assert told.dropped["no caption by the policy"] == len(POOL) - len(having)
    if tree is Listed:
        assert len(found) == 2 * len(having)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"captions": "x", "policy": {"replace": "c"}}, "names the caption source 'c', but the given sets have a, b"),
        ({"captions": "x", "policy": {"best": "b32"}}, "compares clip_b32_similarity_score, which the captions a do not have"),
    ],
)
def test_a_policy_of_what_is_not_there_is_refused(given: Any, told: str, made: PolicyInputs, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=told):
        choose_folder(PolicyInputs(plan_of(given, "it").policy, made.source, made.sets), Folder(tmp_path))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"policy": {"replace": "a"}}, "no caption set is given"),
        ({"captions": "x", "policy": "replac"}, "kind"),
        ({"captions": "x", "policy": {"replac": "a"}}, "Unknown caption policy 'replac'"),
        ({"captions": "x", "policy": {"replace": ["a", "b"]}}, "replace needs exactly one source"),
        ({"captions": "x", "policy": {"draw": {"a": 0}}}, "a source with a weight above 0"),
        ({"captions": "x", "policy": {"draw": {"a": -1, "raw": 2}}}, "0 or more"),
        ({"captions": "x", "policy": {"replace_below": 0.3}}, "needs sources"),
        ({"captions": "x", "policy": {"replace": "raw"}}, "with themselves"),
        ({"captions": "x", "policy": {"first_of": ["a", "a"]}}, "twice"),
        ({"captions": "x", "polic": "raw", "policy": "raw"}, "Unknown field of it 'polic'"),
        ({"captions": "x", "use": "filter", "draw": {"a": 1}}, "A filter cannot read a draw"),
        ({"captions": "x", "draw": ["raw", "a"]}, "a weight for each source"),
        ({"captions": "x", "replace_below": {"treshold": 0.3, "sources": ["a"]}}, "Did you mean 'threshold'"),
        ({"captions": "x", "sets": "y", "replace": "a"}, "keep one of them"),
        ({"captions": [], "policy": {"best": "l14"}}, "no caption set is given"),
        ([1], "is not a caption policy"),
    ],
)
def test_a_wrong_policy_is_one_sentence(given: Any, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        plan_of(given, "it")


def test_a_template_takes_a_sources_first_caption(tmp_path: Path) -> None:
    from datacomp_core.captions.template import TemplateSpec, template_folder

    uids = [f"{n * 7919:032x}" for n in range(3)]
    (tmp_path / "m").mkdir()
    pl.DataFrame({"uid": uids, "url": ["u"] * 3, "text": ["raw"] * 3}).write_parquet(tmp_path / "m/00000000.parquet")
    rows = {
        "row": [0, 0, 2, 2],
        "uid": [uids[0]] * 2 + [uids[2]] * 2,
        "source": ["a"] * 4,
        "text": ["one", "two", "three", "four"],
    }
    own = Folder(tmp_path / "set")
    caption_sets.write_captions(own, "00000000", pl.DataFrame(rows))
    made = Captions(sources=("a",), num_samples=3, num_captions=4, num_captioned=2)
    spec = TemplateSpec(template="{a}!", name="loud")
    loud = template_folder(spec, Folder(tmp_path / "m"), [(made, own)], Folder(tmp_path / "out"))
    found = caption_sets.captions_of(Folder(tmp_path / "out"), "00000000")
    assert found.select("row", "text").rows() == [(0, "one!"), (2, "three!")]
    assert account(loud) == [("pool rows", 3), ("pool rows with a caption", 2), ("pool rows without", 1)]


def test_captions_of_another_pool_are_refused_wherever_they_are_read(tmp_path: Path) -> None:
    """A set knows its rows by place, so one of another pool (or of one that was put in another order) would get wrong texts."""
    from datacomp_core.captions.template import TemplateSpec, template_folder
    from datacomp_core.captions.translate import TranslateSpec, TranslateWork, translate_folder

    uids = [f"{n * 7919:032x}" for n in range(6)]
    metadata = pl.DataFrame({"uid": uids[:3], "url": ["u"] * 3, "text": ["raw"] * 3})
    frame = pl.DataFrame({"row": [0, 2], "uid": [uids[0], uids[2]], "source": ["a", "a"], "text": ["zero", "two"]})
    own = Folder(tmp_path / "set")
    caption_sets.write_captions(own, "00000000", frame)
    made = Captions(sources=("a",), num_samples=3, num_captions=2, num_captioned=2)
    written = {"name": "en", "only": "all", "of": "a", "library": "server", "model": "m"}

    def each(where: Path) -> None:
        policy = CaptionPolicy.model_validate({"first_of": ["a", "raw"]})
        choose_folder(PolicyInputs(policy, PoolSource(Folder(where)), ((made, own),)), Folder(where.parent / "chosen"))

    def templated(where: Path) -> None:
        template_folder(TemplateSpec(template="{a}!"), Folder(where), [(made, own)], Folder(where.parent / "template"))

    def translated(where: Path) -> None:
        spec = TranslateSpec.model_validate(written)
        translate_folder(TranslateWork(spec, Folder(where), own, Folder(where.parent / "translated"), "http://x"), device="cpu")

    pools = {
        "reversed": {"00000000": metadata.reverse()},
        "another": {"00000000": metadata.with_columns(uid=pl.Series(uids[3:]))},
        "shorter": {"00000000": metadata.head(2)},
        "other parts": {"00000001": metadata},
    }
    for name, parts in pools.items():
        where = tmp_path / name / "metadata"
        where.mkdir(parents=True)
        for part, table in parts.items():
            table.write_parquet(where / f"{part}.parquet")
        told = "has captions of part .* does not have" if name == "other parts" else "belongs to another pool"
        for reads in (each, templated, translated):
            with pytest.raises(DataError, match=told):
                reads(where)


def test_a_template_refuses_a_column_of_lists_by_name(tmp_path: Path) -> None:
    from datacomp_core.captions.template import TemplateSpec, template_folder

    (tmp_path / "m").mkdir()
    rows = pl.DataFrame({"uid": ["0" * 31 + "1"], "text": ["a cat"], "face_bboxes": [[[0.1, 0.2, 0.3, 0.4]]]})
    rows.write_parquet(tmp_path / "m" / "0.parquet")
    with pytest.raises(DataError, match="the column 'face_bboxes' of the template .* must be text or a number"):
        template_folder(TemplateSpec(template="{text} {face_bboxes}"), Folder(tmp_path / "m"), [], Folder(tmp_path / "out"))
