"""The inbox: nothing published is written over, nothing forged comes through, and a bomb ends the check and not the server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import board_world as world
import pytest
from fastapi.testclient import TestClient

from datacomp_core.leaderboard.board.board import images_in, make_board
from datacomp_core.leaderboard.submission.bundle import write_bundle
from datacomp_core.leaderboard.submission.inbox import NotYoursError, Submission, SubmissionInbox
from datacomp_core.store import Store
from datacomp_core.store.folder import hash_file
from deployments.submission_server import make_app


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of one experiment by two people (with other scores), and of another one."""
    folder, made = tmp_path_factory.mktemp("bundles"), dict[str, Path]()
    for name, recipe, center in (("first", "clip_score", 0.14), ("second", "clip_score", 0.3), ("other", "no_filter", 0.05)):
        store = Store.open(str(folder / f"store-{name}"))
        entry = world.true_run(store, recipe, world.results(center, 0))
        made[name] = folder / f"{name}.tar"
        write_bundle(store, entry.address, made[name], checkpoint=True)
    return made


def inbox_in(folder: Path, **options: Any) -> SubmissionInbox:
    return SubmissionInbox(folder, max_bytes=50_000_000, spare_bytes=0, **options)


def send(inbox: SubmissionInbox, bundle: Path, sender: str = "alice", **options: Any) -> Submission:
    received = inbox.folder / "incoming" / "sent"
    shutil.copyfile(bundle, received)
    return inbox.judge(received, hash_file(bundle), sender, **options)


def rows_of(inbox: SubmissionInbox) -> dict[str, dict[str, Any]]:
    """The rows of the board by their name, all that is shown of them but what is said to be claimed."""
    rows = make_board("tiny", inbox.entries("tiny"), images_in(inbox.board)).rows
    return {row.method: row.model_dump(exclude={"claimed", "date", "entries"}) for row in rows}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_submission_of_an_experiment_stands_beside_the_first(bundles: dict[str, Path], tmp_path: Path) -> None:
    inbox = inbox_in(tmp_path / "desk")
    first = send(inbox, bundles["first"], "alice")
    assert first.status == "published", first.findings
    before, row = everything(tmp_path / "desk" / "board"), rows_of(inbox)["clip_score"]
    second = send(inbox, bundles["second"], "bob")
    assert second.status == "published"
    assert second.address != first.address
    after = everything(tmp_path / "desk" / "board")
    assert {name: after[name] for name in before} == before, "nothing that was published is written over"
    rows = rows_of(inbox)
    assert set(rows) == {"clip_score (by alice)", "clip_score (by bob)"}
    scores = rows["clip_score (by alice)"]["scores"]
    assert scores == row["scores"]
    assert rows["clip_score (by bob)"]["scores"]["average"]["mean"] > scores["average"]["mean"]
    for made, bundle in ((first, "first"), (second, "second")):
        assert (inbox.folder / "submissions" / made.id / "bundle.tar").read_bytes() == bundles[bundle].read_bytes()
        assert not inbox.board.missing(inbox.board.record(made.address))  # type: ignore[arg-type]
    told = [json.loads(line)["what"] for line in (inbox.folder / "decisions.jsonl").read_text().splitlines()]
    assert told == ["published", "published"]


def test_a_row_that_cannot_be_read_for_a_while_is_an_error_and_comes_back(bundles: dict[str, Path], tmp_path: Path) -> None:
    made = send(inbox_in(tmp_path / "desk"), bundles["first"])
    inbox = inbox_in(tmp_path / "desk")  # a server that was started again, and has read nothing yet
    home = inbox.board.home(made.address).path
    home.rename(tmp_path / "away")
    with TestClient(make_app(inbox, tmp_path / "tokens.json")) as client:
        for place in ("/board/tiny", "/", "/tiny.html"):
            answer = client.get(place)
            assert (answer.status_code, answer.json()["detail"]) == (503, "This board cannot be read now: try again later.")
        (tmp_path / "away").rename(home)
        assert [row["method"] for row in client.get("/board/tiny").json()["rows"]] == ["clip_score"]


@pytest.mark.slow
def test_another_attempt_of_the_same_sender_has_a_row_of_its_own(bundles: dict[str, Path], tmp_path: Path) -> None:
    inbox = inbox_in(tmp_path / "desk")
    made = [send(inbox, bundles[name]) for name in ("first", "second")]
    assert [one.attempt for one in made] == [1, 2]
    assert set(rows_of(inbox)) == {"clip_score (attempt 1)", "clip_score (attempt 2)"}
    assert rows_of(inbox)["clip_score (attempt 1)"]["num_seeds"] == 1


@pytest.mark.slow
def test_who_sends_a_copy_first_does_not_take_the_row(bundles: dict[str, Path], tmp_path: Path) -> None:
    inbox = inbox_in(tmp_path / "desk")
    copied = send(inbox, bundles["first"], "mallory")
    own = send(inbox, bundles["first"], "alice")
    assert (own.sender, own.status, own.attempt) == ("alice", "published", 1)
    assert own.id != copied.id
    assert any("Another sender has sent the same bundle" in finding.reason for finding in own.findings)
    assert set(rows_of(inbox)) == {"clip_score (by alice)", "clip_score (by mallory)"}
    assert send(inbox, bundles["first"], "alice") == own
    inbox.withdraw(copied.id, "mallory")
    assert set(rows_of(inbox)) == {"clip_score"}


@pytest.mark.slow
def test_what_was_refused_is_checked_again_when_it_is_sent_again(bundles: dict[str, Path], tmp_path: Path) -> None:
    """The fault may have been the board's: test sets that were not there, too little memory."""
    refused = send(inbox_in(tmp_path / "desk", reevaluate=lambda *_: {}), bundles["first"])
    assert refused.status == "rejected"
    inbox = inbox_in(tmp_path / "desk")
    assert send(inbox, bundles["first"]).status == "published"
    told = [json.loads(line)["what"] for line in (inbox.folder / "decisions.jsonl").read_text().splitlines()]
    assert told == ["rejected", "published"]


@pytest.mark.slow
def test_only_its_owner_withdraws_a_row(bundles: dict[str, Path], tmp_path: Path) -> None:
    inbox = inbox_in(tmp_path / "desk")
    made = send(inbox, bundles["first"], "alice")
    send(inbox, bundles["other"], "bob")
    with pytest.raises(NotYoursError):
        inbox.withdraw(made.id, "bob")
    assert "clip_score" in rows_of(inbox)
    withdrawn = inbox.withdraw(made.id, "alice")
    assert withdrawn is not None
    assert withdrawn.status == "withdrawn"
    assert set(rows_of(inbox)) == {"no_filter"}
    assert (inbox.folder / "submissions" / made.id / "bundle.tar").exists(), "every accepted bundle is kept"
    assert inbox.withdraw("0" * 16, "alice") is None
    assert set(rows_of(inbox_in(tmp_path / "desk"))) == {"no_filter"}, "after a restart too"


@pytest.mark.slow
def test_the_server_sets_the_date_and_amounts_are_claims(bundles: dict[str, Path], tmp_path: Path) -> None:
    inbox = inbox_in(tmp_path / "desk")
    made = send(inbox, bundles["first"])
    [row] = make_board("tiny", inbox.entries("tiny")).rows
    assert row.date == made.received
    assert (row.seconds, row.gpu_hours, row.num_bytes, row.pool, row.repeats, row.arrived) == (None,) * 6
    assert row.claimed["pool"] == world.NUM
    assert 0 < row.claimed["arrived"] < 1
    assert row.coverage == (row.claimed["arrived"], " (claimed)")
