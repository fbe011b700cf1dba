"""Killed at any moment and run again: the same bytes, and finished shards are not written again. Through the step as well."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reshard_world import expected, files_of, read_tars, write_pool, write_subset

from datacomp_core.artifacts import ShardSet, Subset
from datacomp_core.resharding.reshard import ReshardSpec, reshard, reshard_folders
from datacomp_core.store import Folder, Store

RUN = """
import sys
from datacomp_core.resharding import copy, reshard
from datacomp_core.store import Folder
import time
whole = copy.copy_shards
def slow(job):
    time.sleep(0.05)
    return whole(job)
reshard.copy_shards = slow
print("ready", flush=True)
reshard.reshard_folders(Folder(sys.argv[1]), sys.argv[2], Folder(sys.argv[3]), reshard.ReshardSpec(samples_per_shard=5))
"""


@pytest.mark.parametrize("seed", range(2))
def test_kill_and_rerun_gives_the_bytes_of_an_undisturbed_run(tmp_path: Path, seed: int) -> None:
    uids = write_pool(tmp_path / "pool")
    subset = write_subset(tmp_path / "s.npy", uids + uids[::5])
    spec = ReshardSpec(samples_per_shard=5)
    reshard_folders(Folder(tmp_path / "pool"), subset, Folder(tmp_path / "calm"), spec)
    out = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "pool"), subset, str(out)], stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    while not list(out.glob("*_stats.json")):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.Random(seed).random() * 0.4)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*_stats.json")}
    assert 0 < len(finished) < len(list((tmp_path / "calm").glob("*.tar")))
    reshard_folders(Folder(tmp_path / "pool"), subset, Folder(out), spec)
    assert {name: data for name, data in files_of(out).items() if not name.endswith(".tmp")} == files_of(tmp_path / "calm")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_the_step_records_hashes_and_counts_and_is_reused(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    uids = write_pool(tmp_path / "store/pool")
    chosen = uids[::2]
    (tmp_path / "store/subset").mkdir()
    write_subset(tmp_path / "store/subset/subset.npy", chosen)
    shards = ShardSet(scale="tiny", data="pool", fingerprint="a" * 64, num_samples=80, num_unique=80, num_shards=5)
    subset = Subset(name="half", data="subset", fingerprint="b" * 64, recipe="half", num_samples=50, num_unique=50)
    outcome = reshard.run(ReshardSpec(samples_per_shard=10), subset, shards, store=store, workers=2)
    made = outcome.artifact
    wanted = expected(tmp_path / "store/pool", chosen)
    assert read_tars(store.folder(made).path) == wanted
    assert made.num_samples == made.num_unique == len(wanted)
    assert made.num_shards == 4
    assert made.counts["subset"] == 50 == made.counts["written"] + made.counts["missing_never_downloaded"]
    assert made.address.startswith("shards/tiny/half--")
    assert (store.manifest(outcome.record)["sha256"].str.len_bytes() == 64).all()
    assert reshard.run(ReshardSpec(samples_per_shard=10), subset, shards, store=store).status == "reused"
