"""Replay, and clearing what no result needs, on a real store."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import board_world as world
import polars as pl
import pytest

from datacomp_core.artifacts import Artifact
from datacomp_core.errors import DataError, SpecError
from datacomp_core.leaderboard.board.garbage_collection import remove, unused
from datacomp_core.leaderboard.entries.provenance import walk
from datacomp_core.leaderboard.entries.recorded_call import artifact_of, call_of
from datacomp_core.leaderboard.entries.replay import replay
from datacomp_core.scores.column_of import ColumnOf
from datacomp_core.scores.compute import score_pool
from datacomp_core.store import Store
from datacomp_core.store.record import RECORD


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def test_what_is_made_again_is_the_same_to_the_byte(store: Store, tmp_path: Path) -> None:
    made = world.run(store, "clip_score", world.results(0.14, 0))
    other = Store.open(str(tmp_path / "other"))
    subset = next(link.address for link in walk(store, made.address) if link.kind == "subsets")
    [alone] = replay(store, subset, lambda step, *identity: step(*identity, store=other), other)
    assert (alone.address, alone.again, alone.differences) == (subset, subset, [])
    assert alone.is_same
    every = replay(store, subset, lambda step, *identity: step(*identity, store=other), other, depth=9)
    assert [one.address.partition("/")[0] for one in every] == ["pools", "shards", "embeddings", "subsets"]
    assert all(one.is_same for one in every)


def test_what_comes_out_differently_is_named_by_file_and_field(store: Store, tmp_path: Path) -> None:
    made = world.run(store, "clip_score", world.results(0.14, 0))
    record = store.record(made.address)
    assert record is not None
    report, other = record.inputs["report"][0]["address"], Store.open(str(tmp_path / "other"))

    def run(step: Any, *identity: Any) -> Any:
        return step(*identity, store=other, scores={**world.results(0.14, 0), "flags": 0.5})

    [told] = replay(store, report, run, other)
    assert not told.is_same
    differs = {difference.file: difference for difference in told.differences}
    assert differs.keys() == {"report.json", "eval_results.jsonl", "predictions/tiny-flags.npz"}
    assert any(field.startswith("tasks[3].value:") and field.endswith("0.5 now") for field in differs["report.json"].fields)


def test_a_replay_that_cannot_be_is_refused(store: Store, tmp_path: Path) -> None:
    made = world.run(store, "clip_score", world.results(0.14, 0))
    other, chain = Store.open(str(tmp_path / "other")), walk(store, made.address)
    with pytest.raises(SpecError, match="a separate store"):
        replay(store, made.address, lambda step, *identity: step(*identity, store=store), store)
    pool = next(link.address for link in chain if link.kind == "pools")
    home = store.home(pool)
    record = json.loads(home.read(RECORD))
    home.write(RECORD, json.dumps({**record, "spec": {"spec": {**record["spec"]["spec"], "seed": 7}}}).encode())
    with pytest.raises(SpecError, match="No step of this code has the fingerprint"):
        replay(store, pool, lambda step, *identity: step(*identity, store=other), other)
    home.remove()
    subset = next(link.address for link in chain if link.kind == "subsets")
    with pytest.raises(DataError, match="is gone"):
        replay(store, subset, lambda step, *identity: step(*identity, store=other), other)


def test_only_what_no_entry_needs_is_listed_and_removed(store: Store) -> None:
    made = world.run(store, "clip_score", world.results(0.14, 0))
    loose = world.world_pool(world.WorldPoolSpec(seed=9), store=store)
    needed = {link.address for link in walk(store, made.address)}
    assert unused(store) == [], "younger than a day"
    found = unused(store, older_than_hours=0)
    assert [(one.what, one.path) for one in found] == [("artifact", loose.address)]
    assert unused(store, older_than_hours=0, keep=[loose.fingerprint[:10]]) == []
    freed = remove(store, found)
    assert freed == found[0].num_bytes > 0
    assert not store.home(loose.address).exists()
    assert needed <= set(store.addresses())
    assert unused(store, older_than_hours=0) == []


def test_an_attempt_goes_only_when_nobody_is_at_work_in_it(store: Store) -> None:
    home = store.home("subsets/tiny/half--0123456789ab")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    started = Path(f"/proc/{os.getpid()}/stat").read_text().rsplit(")", 1)[1].split()[19]
    import socket

    lease = {"host": socket.gethostname(), "boot": boot, "pid": os.getpid(), "started": started, "renewed": time.time()}
    home.write("attempt-00000001/part", b"half")
    home.write("attempt-00000001.lease-1", json.dumps(lease).encode())
    assert unused(store, older_than_hours=0) == [], "this process is alive"
    home.write("attempt-00000001.lease-1", json.dumps({**lease, "pid": 1, "started": "0", "renewed": 0}).encode())
    found = unused(store, older_than_hours=0)
    assert [(one.what, one.num_bytes) for one in found] == [("attempt", 4)]
    remove(store, found)
    assert home.files() == {}


def test_the_record_of_a_computed_score_leads_back_to_its_call(tmp_path: Path) -> None:
    """The kind of a score stands in its spec; the step takes any."""
    store = Store.open(str(tmp_path / "store"))
    pool = world.world_pool(world.WorldPoolSpec(), store=store)
    uids = [world.row_uid(number) for number in range(world.NUM)]
    pl.DataFrame({"uid": uids, "score": [float(number) for number in range(world.NUM)]}).write_parquet(tmp_path / "t.parquet")
    made = score_pool(ColumnOf(file=str(tmp_path / "t.parquet")), pool, None, None, None, store=store)
    record = store.record(made.address)
    assert record is not None

    def recorded(address: str) -> Artifact | None:
        found = store.record(address)
        return None if found is None else artifact_of(found)

    call = call_of(record, recorded)
    assert call is not None
    assert call.step is score_pool
    other = Store.open(str(tmp_path / "other"))
    [again] = replay(store, made.address, lambda step, *identity: step(*identity, store=other), other)
    assert again.is_same
