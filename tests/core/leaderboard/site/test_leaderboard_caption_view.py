"""A picture's captions side by side: every caption of a sample, with its own scores, whatever the policy chose."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from datacomp_core import caption_sets
from datacomp_core.artifacts import Captions
from datacomp_core.caption_policy import CaptionPolicy
from datacomp_core.captions.choose_captions import PolicyInputs, choose_folder
from datacomp_core.leaderboard.board import caption_stats
from datacomp_core.leaderboard.site.board_page import environment
from datacomp_core.leaderboard.site.caption_view import CaptionSources, SourceLine, wordings
from datacomp_core.leaderboard.site.contact_sheets import Card, Wording
from datacomp_core.pool_source import PoolSource
from datacomp_core.store import Folder

L14 = "clip_l14_similarity_score"
UIDS = [f"{n * 7919:032x}" for n in range(5)]
OWN = [("raw 0", 0.4), ("raw 1", 0.1), ("", 0.2), ("raw <b>", None), ("raw 4", 0.3)]
NEW = [(0, "new 0", 0.3), (1, "new 1", 0.35), (1, "new 1 again", None), (3, "new 3", 0.2)]


def use_of(root: Path, policy: object) -> tuple[CaptionSources, Captions]:
    (root / "metadata").mkdir()
    for part, some in (("00000000", slice(0, 2)), ("00000001", slice(2, 5))):
        texts, scores = zip(*OWN[some], strict=True)
        frame = pl.DataFrame({"uid": UIDS[some], "url": "u", "text": texts, L14: scores}, schema_overrides={L14: pl.Float32})
        frame.write_parquet(root / f"metadata/{part}.parquet")
        mine = [(row - some.start, UIDS[row], "a", text, score) for row, text, score in NEW if row in range(5)[some]]
        rows = pl.DataFrame(mine, schema=["row", "uid", "source", "text", L14], orient="row")
        caption_sets.write_captions(Folder(root / "set"), part, rows, [L14])
    made = Captions(sources=("a",), scores=(L14,), num_samples=5, num_captions=4, num_captioned=3)
    source, own = PoolSource(Folder(root / "metadata")), ((made, Folder(root / "set")),)
    chosen = choose_folder(PolicyInputs(CaptionPolicy.model_validate(policy), source, own), Folder(root / "chosen"))
    return CaptionSources(chosen, Folder(root / "chosen"), source, own), made


def told(found: tuple[Wording, ...]) -> list[tuple[str, str, float | None, bool]]:
    return [(one.source, one.text, round(dict(one.scores)["l14"], 3) if one.scores else None, one.is_used) for one in found]


def test_all_captions_of_a_sample_stand_side_by_side(tmp_path: Path) -> None:
    use, _ = use_of(tmp_path, {"best": "l14"})
    found = wordings(use, [*UIDS, "f" * 32])
    assert {uid: told(several) for uid, several in found.items()} == {
        UIDS[0]: [("raw", "raw 0", 0.4, True), ("a", "new 0", 0.3, False)],
        UIDS[1]: [("raw", "raw 1", 0.1, False), ("a", "new 1", 0.35, True), ("a", "new 1 again", None, False)],
        UIDS[2]: [("raw", "", 0.2, False)],
        UIDS[3]: [("raw", "raw <b>", None, False), ("a", "new 3", 0.2, True)],
        UIDS[4]: [("raw", "raw 4", 0.3, True)],
    }


def test_of_a_draw_none_is_marked(tmp_path: Path) -> None:
    use, _ = use_of(tmp_path, {"draw": {"raw": 0.5, "a": 0.5}})
    found = wordings(use, UIDS[:2])
    assert [len(several) for several in found.values()] == [2, 3]
    assert not any(one.is_used for several in found.values() for one in several)


def test_they_come_in_the_order_asked(tmp_path: Path) -> None:
    use, _ = use_of(tmp_path, {"best": "l14"})
    for asked in (UIDS, UIDS[::-1], [UIDS[3], UIDS[0]]):
        assert list(wordings(use, asked)) == asked


def test_the_sheet_and_the_table_show_them_as_text(tmp_path: Path) -> None:
    use, made = use_of(tmp_path, {"first_of": ["a", "raw"]})
    card = Card(UIDS[3], "", "raw <b>", "kept", wordings=wordings(use, [UIDS[3]])[UIDS[3]])
    [stats] = caption_stats.stats(made, Folder(tmp_path / "set"))
    lines = [SourceLine("a", 0.6, stats), SourceLine("raw", 0.4, None)]
    text = '{% from "parts.html" import sheet, sources with context %}{{ sheet(cards, []) }}{{ sources(lines) }}'
    page = environment().from_string(text).render(cards=[card], lines=lines)
    assert "raw &lt;b&gt;" in page
    assert "<b>a</b> <small>l14 0.200</small>" in page
    assert page.count('class="wording used"') == 1
    assert page.count("<tr>") == 3
    assert "60.0" in page


def test_the_pools_own_captions_are_described_like_the_others(tmp_path: Path) -> None:
    use, _ = use_of(tmp_path, {"first_of": ["a", "raw"]})
    own = caption_stats.stats_of_pool(use.source, [L14], 5)
    assert (own.source, own.num_captions, own.num_rows, own.share, own.num_sampled) == ("raw", 4, 4, 0.8, 4)
    assert own.measures["words"].median == 2
    assert round(own.measures[L14].median, 3) == 0.3  # of 0.4, 0.1, 0.3; one caption has no score


def test_captions_that_a_filter_names_are_shown_without_a_mark(tmp_path: Path) -> None:
    use, _ = use_of(tmp_path, {"replace": "a"})
    found = wordings(replace(use, decides=False), UIDS[:2])
    assert [len(several) for several in found.values()] == [2, 3]
    assert not any(one.is_used for several in found.values() for one in several)
