"""No single change to a bundle moves a number on the board: it is refused, or what is shown is the same."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import board_world as world
import pytest
from forging import Files, pack, pack_as_it_is, read
from fuzzing import Mutation, mutations

from datacomp_core.leaderboard.board.board import make_board
from datacomp_core.leaderboard.entries.entry import SubmissionInfo
from datacomp_core.leaderboard.submission.bundle import write_bundle
from datacomp_core.leaderboard.submission.verify import VerificationResult, verify
from datacomp_core.store import Store, listing


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("fuzzed")
    store = Store.open(str(folder / "store"))
    write_bundle(store, world.true_run(store, "clip_score", world.results(0.14, 0)).address, folder / "good.tar", checkpoint=True)
    return read(folder / "good.tar")


def check(bundle: Path) -> VerificationResult:
    folder = bundle.parent / "files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return verify(bundle, folder, known_only=True)


def shown(found: VerificationResult) -> dict[str, Any]:
    """The row that a board of this bundle alone has, but for what is said to be claimed and what its people say it is called."""
    assert found.proved is not None
    entry = found.proved.entry.model_copy(update={"date": "", "submitted": SubmissionInfo(id="0", by="alice")})
    [row] = make_board("tiny", [("entries/tiny/it", entry)]).rows
    return row.model_dump(exclude={"claimed"})


def tried(good: Files, folder: Path, chosen: list[Mutation]) -> Counter[str]:
    """How many were refused and how many were harmless; the test fails at what moved a number, or left a fault unnamed."""
    wanted, told, moved = shown(check(pack(good, folder / "good.tar"))), Counter[str](), list[str]()
    for one in chosen:
        packed = pack_as_it_is if one.name == "MANIFEST.json" else pack
        found = check(packed(one.of(good), folder / "mutated.tar"))
        told["refused" if not found.ok else "harmless"] += 1
        if found.ok and shown(found) != wanted:
            moved.append(f"{one.name}: {one.told}")
        moved += [
            f"{one.name}: {one.told}: {f.reason}" for f in found.findings if str(folder) in f.reason or "Traceback" in f.reason
        ]
    assert moved == []
    return told


def test_no_change_moves_a_number_on_the_board(good: Files, tmp_path: Path) -> None:
    """Some changes of each kind of file; the whole takes minutes."""
    every = [one for one in mutations(good) if not one.name.startswith("records/")]
    assert tried(good, tmp_path, random.Random(1).sample(every, 16))["refused"] > 4


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_change_at_all_moves_a_number_on_the_board(good: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "PAUSES", (0.0,) * len(listing.PAUSES))  # a record that cannot be read is read again after 2 s
    every = mutations(good)
    assert len(every) > 5000
    assert {name for name in good if name not in {one.name for one in every}} == set()
    told = tried(good, tmp_path, every)
    assert told["refused"] > 2000, told
