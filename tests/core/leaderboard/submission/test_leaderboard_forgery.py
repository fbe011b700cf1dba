"""Bundles that were taken apart, changed and packed again so that every hash fits: refused, or the board shows the same."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import board_world as world
import numpy as np
import polars as pl
import pytest
from forging import Files, consistent, edit, pack, read, record_of

from datacomp_core import uid
from datacomp_core.leaderboard.submission.bundle import write_bundle
from datacomp_core.leaderboard.submission.verify import VerificationResult, verify
from datacomp_core.selection.select import select_subset
from datacomp_core.store import Store
from datacomp_core.store.step import STEPS

ENTRY, REPORT, RESULTS = "entry.json", "report.json", "results.jsonl"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("forged")
    store = Store.open(str(folder / "store"))
    entry = world.true_run(store, "clip_score", world.results(0.14, 0))
    write_bundle(store, entry.address, folder / "good.tar", checkpoint=True)
    return read(folder / "good.tar")


def check(files: Files, tmp_path: Path) -> VerificationResult:
    folder = tmp_path / f"unpacked-{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    return verify(pack(files, tmp_path / f"{folder.name}.tar"), folder, known_only=True)


def broken(found: VerificationResult) -> set[str]:
    return {finding.rule for finding in found.findings if finding.ok is False}


def everywhere(files: Files, change: Callable[[dict[str, Any], str], None]) -> None:
    """The same change to the tasks of entry, report and results alike, and to the averages that follow."""
    for name in (ENTRY, REPORT):
        edit(files, name, lambda said: change(said, "tasks"))
    lines = [json.loads(line) for line in files[RESULTS].decode().splitlines()]
    tasks = {task["key"]: task for task in json.loads(files[REPORT])["tasks"]}
    for line in lines:
        line["metrics"]["main_metric"] = tasks[line["key"]]["value"] if line["key"] in tasks else None
    files[RESULTS] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    scored = [task["value"] for task in tasks.values() if task["scored"]]
    average = sum(scored) / len(scored)
    for name in (ENTRY, REPORT):
        edit(files, name, lambda said: said.update(average=average))
    for kind in ("entries", "reports"):
        edit(files, record_of(files, kind), lambda said: said["artifact"].update(average=average))


def higher(said: dict[str, Any], tasks: str) -> None:
    for task in said[tasks]:
        task["value"] = min(1.0, task["value"] + 0.2)
        if "metrics" in task:
            task["metrics"][task["main_metric"]] = task["value"]


def other_flags(said: dict[str, Any], tasks: str) -> None:
    """Only the best task counts: the average that took rank 1."""
    best = max(task["value"] for task in said[tasks])
    for task in said[tasks]:
        task["scored"] = task["value"] == best


def fewer_tasks(said: dict[str, Any], tasks: str) -> None:
    said[tasks] = sorted(said[tasks], key=lambda task: -task["value"])[:2]


def own_task(said: dict[str, Any], tasks: str) -> None:
    said[tasks].append({**said[tasks][0], "key": "mine/easy", "name": "Easy", "value": 1.0})


def other_metric(said: dict[str, Any], tasks: str) -> None:
    for task in said[tasks]:
        task["main_metric" if "main_metric" in task else "metric"] = "acc5"


@pytest.mark.parametrize("change", [higher, other_flags, fewer_tasks, own_task, other_metric])
def test_scores_come_from_the_predictions(good: Files, tmp_path: Path, change: Callable[..., None]) -> None:
    files = dict(good)
    everywhere(files, change)
    found = check(consistent(files), tmp_path)
    assert not found.ok
    assert "files" not in broken(found), "the forger's hashes fit"
    assert broken(found) & {"scores", "bundle"}, found.findings


def test_an_unscored_task_is_one_of_the_report(good: Files, tmp_path: Path) -> None:
    extra = {"key": "mine/easy", "name": "Easy", "metric": "acc1", "scored": False, "value": 1.0}
    files = dict(good)
    edit(files, ENTRY, lambda said: said["tasks"].append(extra))
    found = check(consistent(files), tmp_path)
    assert "scores" in broken(found)
    assert any("does not have the score of mine/easy that its report has" in finding.reason for finding in found.findings)


def subset_of_one(files: Files) -> None:
    files["samples/subset.npy"] = uid.subset_bytes(uid.pack(pl.Series([world.row_uid(0)])))


def another_size(files: Files) -> None:
    edit(files, ENTRY, lambda said: said["size"].update(total=5, unique=5))
    edit(files, record_of(files, "subsets"), lambda said: said["artifact"].update(num_samples=5, num_unique=5))


def another_seed(files: Files) -> None:
    edit(files, ENTRY, lambda said: said["seeds"].update(training=7))
    edit(files, record_of(files, "checkpoints"), lambda said: said["artifact"].update(seed=7))
    edit(files, record_of(files, "entries"), lambda said: said["artifact"].update(seed=7))


def another_date(files: Files) -> None:
    edit(files, ENTRY, lambda said: said.update(date="2031-01-01T00:00:00+00:00"))


def another_method(files: Files) -> None:
    edit(files, ENTRY, lambda said: said.update(method="somebody else's"))
    edit(files, record_of(files, "entries"), lambda said: said["artifact"].update(recipe="somebody else's"))


def another_row(files: Files) -> None:
    edit(files, ENTRY, lambda said: said.update(same_but_for_seeds="0" * 64))


def another_scale(files: Files) -> None:
    edit(files, ENTRY, lambda said: said.update(scale="small"))
    for kind in ("entries", "checkpoints"):
        edit(files, record_of(files, kind), lambda said: said["artifact"].update(scale="small"))


def another_suite(files: Files) -> None:
    edit(files, ENTRY, lambda said: said.update(suite_version=99))
    edit(files, REPORT, lambda said: said.update(suite_version=99))
    edit(files, record_of(files, "reports"), lambda said: said["artifact"].update(suite_version=99))


def kept_rules(files: Files) -> None:
    edit(files, ENTRY, lambda said: said["checks"].clear())


def adopted(files: Files) -> None:
    """A record whose files nobody has read: its evidence would be bound to nothing."""
    edit(files, record_of(files, "reports"), lambda said: said.update(adopted_from="/etc"))


def submitted_by_another(files: Files) -> None:
    edit(files, ENTRY, lambda said: said.update(submitted={"id": "0" * 16, "by": "alice", "evaluated_again": True}))


def other_hits(files: Files) -> None:
    data = io.BytesIO()
    np.savez_compressed(data, **{"tiny/coarse|values": np.ones(400, np.uint8)})
    files["hits.npz"] = data.getvalue()


def no_predictions(files: Files) -> None:
    for name in [name for name in files if name.startswith("predictions/")]:
        del files[name]


def shorter_predictions(files: Files) -> None:
    with np.load(io.BytesIO(files["predictions/tiny-coarse.npz"])) as kept:
        arrays = {name: kept[name] for name in kept.files}
    arrays["labels"] = arrays["labels"][:10]
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    files["predictions/tiny-coarse.npz"] = data.getvalue()


@pytest.mark.parametrize(
    "forge",
    [
        subset_of_one,
        another_size,
        another_seed,
        another_date,
        another_method,
        another_row,
        another_scale,
        another_suite,
        kept_rules,
        adopted,
        submitted_by_another,
        other_hits,
        no_predictions,
        shorter_predictions,
    ],
)
def test_everything_on_the_page_comes_from_the_evidence(good: Files, tmp_path: Path, forge: Callable[[Files], None]) -> None:
    files = dict(good)
    forge(files)
    found = check(consistent(files), tmp_path)
    assert not found.ok
    assert "files" not in broken(found), "the forger's hashes fit"


def test_what_is_repacked_without_a_change_holds(good: Files, tmp_path: Path) -> None:
    """So that a refusal above is of the change."""
    found = check(consistent(dict(good)), tmp_path)
    assert found.ok, found.findings
    assert not any(str(tmp_path) in finding.reason for finding in found.findings)


# Files that a record names --------------------------------------------------------------------------------------------

FILES_NAMED: dict[str, Callable[[str], dict[str, Any]]] = {
    "listed": lambda name: {"kind": "listed", "uids": f"{name}.npy"},
    "column_of": lambda name: {
        "kind": "top_fraction",
        "score": {"kind": "column_of", "file": f"{name}.parquet", "column": "x"},
        "fraction": 0.3,
    },
    "image_based": lambda name: {"kind": "image_based", "targets": f"{name}.npy"},
}


@pytest.mark.parametrize("kind", FILES_NAMED)
def test_a_record_makes_this_machine_fetch_and_open_nothing(good: Files, tmp_path: Path, kind: str) -> None:
    assert "subsets" in {step.kind for step in STEPS.values() if step.function is select_subset.function}
    files = dict(good)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"http://127.0.0.1:{server.getsockname()[1]}/list"
        said = json.loads(files[record_of(files, "subsets")])
        said["spec"] = said["meaning"] = {"spec": {"filter": FILES_NAMED[kind](url)}}
        files[record_of(files, "subsets")] = json.dumps(said).encode()
        found = check(files, tmp_path)
        with pytest.raises(TimeoutError):
            server.accept()
    assert not found.ok
