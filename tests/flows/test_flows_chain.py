"""The whole chain with real img2dataset, torchrun and evaluation: through Prefect, killed at random, on S3."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small_chain import RECIPES, small_chain

from datacomp_core.artifacts import BoardEntry, ShardSet, Subset
from datacomp_core.settings import settings
from datacomp_core.store import Store

sys.path.insert(0, str(Path(__file__).parents[1] / "core/store"))
from faulty_proxy import faulty_proxy

SCRIPT = Path(__file__).with_name("small_chain.py")
ROOT = Path(__file__).parents[2]
PATIENCE = 3000

pytestmark = pytest.mark.timeout(2 * PATIENCE)


def run_script(store: str, *, kill_after: float | None = None) -> str | None:
    """The chain in a process of its own; None if it was killed (-9, itself alone: its children must notice)."""
    environment = {**os.environ, "DATACOMP_STORE": store, "PYTHONPATH": str(ROOT), "PREFECT_LOGGING_TO_API_ENABLED": "false"}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        output, errors = process.communicate(timeout=kill_after or PATIENCE)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert kill_after is not None, f"the chain did not end within {PATIENCE} s"
        return None
    assert process.returncode == 0, errors[-4000:]
    return output.strip().splitlines()[-1]


def made(store: Store) -> dict[str, Any]:
    """What must be the same however a run went: every subset, and every shard, byte for byte, by the name of its artifact."""
    found: dict[str, Any] = {}
    for kind in (Subset, ShardSet):
        for record in store.records(kind.kind):
            artifact = store.artifact(kind, record)
            files = store.manifest(record)
            for path, digest in zip(files["path"], files["sha256"], strict=True):
                if path.endswith((".npy", ".tar")):
                    found[f"{artifact.address}/{path}"] = digest
                    assert hashlib.sha256(store.folder(artifact).read(path)).hexdigest() == digest
    return found


def entries(store: Store) -> list[dict[str, Any]]:
    return [store.folder(store.artifact(BoardEntry, record)).read_json("entry.json") for record in store.records("entries")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The store of one run that nothing disturbed."""
    url = str(tmp_path_factory.mktemp("undisturbed") / "store")
    run_script(url)
    return Store.open(url)


def test_the_chain_makes_a_complete_board(undisturbed: Store) -> None:
    found = entries(undisturbed)
    assert sorted(entry["recipe"] for entry in found) == sorted(RECIPES)
    for entry in found:
        assert len(entry["tasks"]) == 7
        assert all(0 <= task["value"] <= 1 for task in entry["tasks"])
        assert entry["average"] == pytest.approx(
            sum(task["value"] for task in entry["tasks"] if task["key"] != "tiny/digits") / 6
        )
    sizes = {entry["recipe"]: entry["size"]["total"] for entry in found}
    assert sizes["no_filter"] == 600
    assert 0 < sizes["basic_and_clip_tiny"] < 200


def test_a_second_run_builds_nothing(undisturbed: Store) -> None:
    before = {record.address: record.started for record in undisturbed.records()}
    run_script(undisturbed.root.url)
    assert {record.address: record.started for record in undisturbed.records()} == before


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bytes(undisturbed: Store, tmp_path: Path) -> None:
    seed = int(os.environ.get("DATACOMP_KILL_SEED", time.time()))
    moments = random.Random(seed)
    url, kills = str(tmp_path / "store"), 0
    while run_script(url, kill_after=moments.uniform(8, 25) if kills < 5 else None) is None:
        kills += 1
    assert kills > 0, f"nothing was killed (seed {seed})"
    store = Store.open(url)
    assert made(store) == made(undisturbed), f"seed {seed}"
    assert len(entries(store)) == len(RECIPES)


@pytest.mark.slow
@pytest.mark.s3
def test_the_same_chain_in_a_bucket_gives_the_same_bytes(undisturbed: Store, s3_url: str) -> None:
    addresses = json.loads(run_script(s3_url) or "[]")
    store = Store.open(s3_url)
    assert made(store) == made(undisturbed)
    assert {record.address for record in store.records("entries")} == set(addresses)


@pytest.mark.slow
@pytest.mark.s3
def test_the_same_chain_through_a_proxy_that_fails_ends_with_the_same_bytes(
    undisturbed: Store, s3_server: str, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500s, lost replies and cut bodies: a run may fail, and says so; the same command again ends it, and nothing is lost."""
    problems: list[str] = []
    with faulty_proxy(s3_server, share=0.03) as proxy, monkeypatch.context() as sick:
        sick.setenv("AWS_ENDPOINT_URL", proxy.url)
        for _ in range(12):  # what a person or Prefect does: run it again
            try:
                if told := run_script(s3_url, kill_after=1500):
                    break
            except AssertionError as problem:
                problems.append(str(problem))
        else:
            raise AssertionError(f"it did not end: {problems[-1]}")
        addresses = json.loads(told)
        assert min(proxy.met[fault] for fault in ("500", "lost reply", "cut")) > 5
    for problem in problems:
        assert re.search(r"(StoreError|DataError|IncompleteError|LostProcessError|DatacompError)\b", problem), problem
    store = Store.open(s3_url)
    assert made(store) == made(undisturbed)
    assert {record.address for record in store.records("entries")} == set(addresses)
    assert list(store.lost()) == []
    assert {record.generation for record in store.records()} == {1}, "nothing was made a second time"
    assert [store.missing(record) for record in store.records()] == ["" for _ in store.records()]


@pytest.mark.usefixtures("prefect_server")
def test_through_prefect_every_step_is_a_task_run_with_its_summary(
    undisturbed: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    from flows.task_calls import SubmittedCalls, options

    monkeypatch.setenv("DATACOMP_STORE", undisturbed.root.url)
    settings.cache_clear()

    @flow(name="small", **options("small"))
    def small() -> list[BoardEntry]:
        calls = SubmittedCalls()
        return calls.results(small_chain(calls.call))

    state = small(return_state=True)
    assert {entry.address for entry in state.result()} == {record.address for record in undisturbed.records("entries")}
    with get_client(sync_client=True) as client:
        flow_run = state.state_details.flow_run_id
        assert flow_run is not None
        kept = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run])))
    tables = [artifact for artifact in kept if artifact.type == "table"]
    pictures = [artifact for artifact in tables if str(artifact.key).startswith(("filter-", "overlap-"))]
    assert len(pictures) == 4  # for each recipe the rows by step, and what it shares with the other
    summaries = [artifact for artifact in tables if artifact not in pictures]
    assert len(summaries) == 17  # 5 of preparation, and for each recipe 2 of curation, the test sets and 3 of scoring
    assert all("reused: built before" in str(artifact.data) for artifact in summaries)
    [lineage] = [str(artifact.data) for artifact in kept if artifact.type == "markdown"]
    addresses = {str(artifact.id): _value(artifact, "address") for artifact in summaries}
    rows = {addresses[row.split("/artifacts/artifact/")[1][:36]]: row.split(" | ") for row in lineage.splitlines()[2:]}
    assert set(rows) == set(addresses.values())

    def linked(cell: str) -> set[str]:
        return {address for artifact, address in addresses.items() if artifact in cell}

    for record in undisturbed.records("reports"):  # up to the checkpoint that it scored, down to the entry on the board
        _, _, made_from, read_by = rows[record.address]
        assert linked(made_from) == {given["address"] for inputs in record.inputs.values() for given in inputs}
        entries = [one for one in undisturbed.records("entries") if one.inputs["report"][0]["address"] == record.address]
        assert linked(read_by) == {one.address for one in entries}


def _value(table: Any, what: str) -> str:
    """One row of a step's summary."""
    return next(row["value"] for row in json.loads(table.data) if row["what"] == what)
