"""The class of inputs follows from the recipe in the records, on the board, on its page and at the desk."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import board_world as world
import pytest
from forging import Files, consistent, edit, pack, read

from datacomp_core.input_classes import CLASSES, TITLES
from datacomp_core.leaderboard.board.board import board
from datacomp_core.leaderboard.board.published_results import published, references
from datacomp_core.leaderboard.entries.entry import read as read_entry
from datacomp_core.leaderboard.entries.inputs import inputs_of
from datacomp_core.leaderboard.entries.provenance import ProvenanceLink
from datacomp_core.leaderboard.site.board_page import page
from datacomp_core.leaderboard.submission.bundle import write_bundle
from datacomp_core.leaderboard.submission.verify import verify
from datacomp_core.recipes import recipe
from datacomp_core.registry import RECIPES
from datacomp_core.selection.select import SubsetSpec
from datacomp_core.store import Store

DIGITS = "0123456789abcdef"
LISTED = {"kind": "listed", "uids": f"/data/mine.npy#{DIGITS}"}
FROM_HUB = {"kind": "listed", "uids": f"hf://datasets/apf1/lists@{'a' * 40}/dfn.npy#{DIGITS}"}
CODE = {"kind": "no_digits", "code": f"mine.py#{DIGITS}", "digits_at_most": 3}
IMAGES = {"kind": "image_clusters", "centroids": "small_centroids_l14", "target": "imagenet1k_l14", "features": "l14"}
SCORE = {"kind": "top_fraction", "score": "l14", "fraction": 0.3}
SUBSET, POOL, BESIDE = "subsets/tiny/a--0", "pools/tiny/p--0", "beside/tiny/b--0"


def chain(
    chosen: dict[str, Any], *beside: tuple[str, dict[str, Any]], pool: dict[str, Any] | None = None
) -> list[ProvenanceLink]:
    others = [
        ProvenanceLink(
            kind=kind, name="b", address=f"{kind}/b--{number}", fingerprint="", spec={"spec": spec}, inputs={"pool": [POOL]}
        )
        for number, (kind, spec) in enumerate(beside)
    ]
    inputs = {"pool": [POOL], "embeddings": [link.address for link in others]}
    return [
        ProvenanceLink(
            kind="subsets", name="a", address=SUBSET, fingerprint="", spec={"spec": {"filter": chosen}}, inputs=inputs
        ),
        *others,
        ProvenanceLink(kind="pools", name="p", address=POOL, fingerprint="", spec={"spec": pool or {"scale": "small"}}),
    ]


def of(*given: Any, said: Any = "", **options: Any) -> tuple[str, bool]:
    found = inputs_of(chain(*given, **options), SUBSET, said)
    return found.of, found.claimed


def test_the_shipped_recipes_have_the_class_of_what_they_read() -> None:
    """Each recipe's own filter and scores, as its records would have them."""
    expected = {"image_based": "target", "image_based_intersect_clip_score": "target", "norm_sim": "target", "vas": "target"}
    expected |= {"t_mars": "public", "dfn_public": "public", "clip_score_tiny": "public", "basic_and_clip_tiny": "public"}
    expected |= {"dfn_tiny": "public", "submodular": "target", "clip_score_flipped": "public"}
    for name in RECIPES:
        spec = SubsetSpec(recipe=name, filter=recipe(name).filter)
        beside = [("scores", score.model_dump(mode="json")) for score in spec.scores()]
        if any(name.startswith("clip_tiny") for name in spec.columns()):
            beside.append(("embeddings", {"encoders": [{"column": "clip_tiny_similarity_score", "model": "M", "weights": "w"}]}))
        if name == "dfn_public":
            model = f"hf-hub:apple/DFN-public@{'a' * 40}"
            beside.append(("embeddings", {"encoders": [{"column": "clip_dfn_public_similarity_score", "model": model}]}))
        if name == "clip_score_flipped":
            encoder = {
                "column": "clip_l14_flipped_similarity_score",
                "model": "ViT-L-14",
                "weights": "openai",
                "flip": "averaged",
            }
            beside.append(("embeddings", {"encoders": [encoder]}))
        assert of(spec.filter.model_dump(mode="json"), *beside) == (expected.get(name, "released"), False), name


def test_what_the_records_do_not_tell_is_private_until_somebody_says() -> None:
    for unknown in (
        LISTED,
        CODE,
        {"kind": "not", "filter": LISTED},
        {"kind": "all", "filters": [SCORE, {"kind": "any", "filters": [CODE]}]},
    ):
        assert of(unknown) == ("private", False)
        assert of(unknown, said="released") == ("released", True)
        assert of(unknown, said="public") == ("public", True)
    assert of({"kind": "gone", "by": 3}) == ("private", False), "a filter that this version does not have"
    assert of(SCORE, said="private") == ("released", False), "what the records tell stands"
    both = {"kind": "all", "filters": [LISTED, IMAGES]}
    assert of(both, said="released") == ("target", True), "what is said does not narrow what is known"


def test_files_that_anybody_can_fetch_are_public() -> None:
    """Where a file came from is no part of its identity, so a record could say anything: it is marked as claimed."""
    assert of(FROM_HUB) == ("public", True)
    assert of({"kind": "listed", "uids": f"https://example.org/mine.npy#{DIGITS}"}) == ("public", True)
    assert of({"kind": "listed", "uids": f"s3://bucket/mine.npy#{DIGITS}"}) == ("private", False)
    own_target = {**IMAGES, "target": f"/data/target.npy#{DIGITS}"}
    assert of(own_target) == ("private", False)
    assert of(own_target, said="target") == ("target", True)


def test_scores_and_models_beside_the_metadata_count() -> None:
    table = {"kind": "column_of", "file": f"/data/scores.parquet#{DIGITS}", "column": "score", "key": "uid"}
    by_table = {**SCORE, "score": f"column_of:file=#{DIGITS}"}
    assert of(by_table, ("scores", table)) == ("private", False)
    assert of(by_table, ("scores", {**table, "file": f"hf://datasets/a/b@{'a' * 40}/s.npy#{DIGITS}"})) == ("public", True)
    encoder = {"column": "clip_mine_similarity_score", "prefix": "mine", "model": "ViT-B-32", "weights": "openai"}
    own = {**SCORE, "score": "clip_mine_similarity_score"}
    assert of(own, ("embeddings", {"encoders": [encoder]})) == ("public", False)
    assert of(own) == ("private", False), "a column of the metadata that the benchmark did not release"
    of_file = {**encoder, "weights": f"/models/mine.pt#{DIGITS}"}
    assert of(own, ("embeddings", {"encoders": [of_file]})) == ("private", False)
    drawn = {"kind": "soft_cap", "filter": {"kind": "everything"}, "weights": {"their_column": 1.0}, "num_samples": 10}
    assert of(drawn) == ("private", False)


def test_data_of_ones_own_are_private_until_somebody_says() -> None:
    assert of({"kind": "everything"}, pool={"scale": "byod"}) == ("private", False)
    assert of({"kind": "everything"}, pool={"scale": "byod"}, said="public") == ("public", True)
    assert of({"kind": "everything"}, pool={"scale": "adopted", "of": "small"}) == ("released", False)


@pytest.mark.parametrize(
    "garbage", [[], 3, "x", {"kind": []}, {"kind": "threshold", "score": [1]}, {"kind": "mix", "weights": 3}, None]
)
def test_records_of_strangers_never_crash_it(garbage: Any) -> None:
    assert inputs_of(chain(garbage), SUBSET).of in CLASSES


def test_the_class_stands_on_the_board_and_on_the_page(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    world.run(store, "no_filter", world.results(0.05, 0))
    world.run(store, "mine", world.results(0.1, 0), chosen=LISTED)
    world.run(store, "near", world.results(0.12, 0), chosen=IMAGES)
    rows = {row.method: row for row in board(store, "tiny").rows}
    assert {name: row.inputs for name, row in rows.items()} == {"no_filter": "released", "mine": "private", "near": "target"}
    assert "mine.npy" in rows["mine"].inputs_why[0]
    text = page(store, "tiny")
    assert sorted(re.findall(r'data-inputs="(\w+)"', text)) == ["private", "released", "target"]
    choices = re.search(r'<select id="inputs">(.*?)</select>', text, re.DOTALL)
    assert choices is not None
    assert all(f'value="{name}">{title}<' in choices[1] for name, title in TITLES.items())


def test_older_entries_have_no_class(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    made = world.run(store, "no_filter", world.results(0.05, 0))
    entry = read_entry(store, made)
    plain = json.loads(entry.to_bytes())
    del plain["input_class"]
    older = type(entry).model_validate(plain)
    from datacomp_core.leaderboard.board.board import make_board

    [row] = make_board("tiny", [("a", older)]).rows
    assert row.inputs is None
    assert row.input_class == ""


def test_the_desk_computes_the_class_again(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    entry = world.true_run(store, "mine", world.results(0.14, 0), chosen={"kind": "all", "filters": [LISTED, SCORE]})
    write_bundle(store, entry.address, tmp_path / "good.tar", checkpoint=True)
    files = read(tmp_path / "good.tar")
    assert _verified(files, tmp_path / "honest") == (True, "private")
    edit(files, "entry.json", lambda said: said["input_class"].update(of="released", why=[]))
    accepted, _ = _verified(consistent(files), tmp_path / "forged")
    assert not accepted


def _verified(files: Files, folder: Path) -> tuple[bool, str]:
    folder.mkdir()
    found = verify(pack(files, folder.with_suffix(".tar")), folder)
    of = found.proved.entry.input_class if found.proved is not None else None
    if not found.ok:
        assert any("input_class" in finding.reason for finding in found.findings if finding.ok is False), found.findings
    return found.ok, "" if of is None else of.of


def test_published_rows_state_source_track_size_and_class() -> None:
    for scale in ("small", "medium", "large", "xlarge"):
        for row in published(scale):
            assert row.source
            assert row.inputs is not None or row.track == "byod"
            assert row.average is not None or row.scores
        assert {row.inputs for row in references(scale)} == {"released", "target"}
    assert [row.method for row in published("small") if not row.our_recipe] == ["EcoDatum", "T-MARS"]
    [largest] = [row for row in published("xlarge") if not row.our_recipe]
    assert (largest.size, largest.inputs, largest.average) == (2_000_000_000, "private", 0.6687)
