"""The step: addresses, reuse, rebuild, races, kills, plans and adoption, on a disk and on a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pydantic import ValidationError

from datacomp_core.artifacts import Pool, Spec, Subset
from datacomp_core.errors import DataError, StoreError
from datacomp_core.store import Folder, Store, step

CALLS: list[str] = []


class PoolSpec(Spec):
    scale: str = "tiny"
    rows: int = 3

    def label(self) -> str:
        return f"rows{self.rows}"


class PickSpec(Spec):
    every: int = 2


class CrawlSpec(Spec):
    scale: str = "tiny"


class TwoPartSpec(Spec):
    scale: str = "tiny"


@step("pools", version=1)
def make_pool(spec: PoolSpec, *, out: Folder, workers: int = 1) -> Pool:
    CALLS.append("pool")
    out.write("metadata/part.txt", "\n".join(map(str, range(spec.rows))).encode())
    return Pool(num_samples=spec.rows, num_parts=1)


@step("subsets", version=1, name=lambda spec, pool: f"every{spec.every}-of-{pool.name}")
def pick(spec: PickSpec, pool: Pool, *, out: Folder, store: Store, gate: threading.Barrier | None = None) -> Subset:
    CALLS.append("pick")
    rows = store.folder(pool).read("metadata/part.txt").split()[:: spec.every]
    if gate is not None:
        gate.wait()
    out.write("subset.txt", b"\n".join(rows))
    return Subset(recipe="every", num_samples=len(rows), num_unique=len(rows), counts={"kept": len(rows)})


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    CALLS.clear()
    return Store.open(str(tmp_path / "store") if request.param == "local" else request.getfixturevalue("s3_url"))


def test_a_step_runs_once_and_is_reused(store: Store) -> None:
    first = make_pool.run(PoolSpec(), store=store, workers=1)
    again = make_pool.run(PoolSpec(), store=store, workers=7)
    assert (first.status, again.status) == ("built", "reused")
    assert first.artifact == again.artifact
    assert CALLS == ["pool"]


def test_the_address_is_readable_first_and_hash_last(store: Store) -> None:
    subset = pick(PickSpec(), make_pool(PoolSpec(), store=store), store=store)
    assert subset.address.startswith("subsets/tiny/every2-of-rows3--")
    assert subset.address.endswith(subset.fingerprint[:12])
    assert len(subset.fingerprint) == 64
    assert not subset.data.startswith("/")


def test_every_field_and_input_changes_the_address_and_nothing_else_does(store: Store) -> None:
    pool, other = make_pool(PoolSpec(), store=store), make_pool(PoolSpec(rows=4), store=store)
    addresses = {pick.address(PickSpec(), pool), pick.address(PickSpec(every=3), pool), pick.address(PickSpec(), other)}
    assert len(addresses) == 3
    renamed = pool.model_copy(update={"name": "other", "data": "elsewhere", "counts": {"x": 1}})
    assert pick.fingerprint(PickSpec(), renamed) == pick.fingerprint(PickSpec(), pool)


def test_a_raised_version_is_another_address() -> None:
    again = step("pools", version=2)(make_pool.function)
    assert again.fingerprint(PoolSpec()) != make_pool.fingerprint(PoolSpec())


def test_the_record_tells_what_from_what_and_how(store: Store) -> None:
    pool = make_pool(PoolSpec(), store=store, workers=3)
    record = pick.run(PickSpec(), pool, store=store).record
    assert record.spec == {"spec": {"every": 2}}
    assert record.inputs == {"pool": [{"address": pool.address, "fingerprint": pool.fingerprint}]}
    assert record.artifact["counts"] == {"kept": 2}
    assert record.outputs.num_files == 1
    manifest = store.manifest(record)
    assert manifest["path"].to_list() == ["subset.txt"]
    import hashlib

    assert manifest["sha256"].to_list() == [hashlib.sha256(b"0\n2").hexdigest()]
    pool_record = store.record(pool.address)
    assert pool_record is not None
    assert pool_record.options == {"workers": 3, "engine": "local"}
    assert {"python", "torch", "polars"} <= set(record.versions)


def test_lost_data_is_built_again_and_the_reason_is_told(store: Store) -> None:
    pool = make_pool(PoolSpec(), store=store)
    store.folder(pool).remove("metadata/part.txt")
    plan = make_pool.plan(PoolSpec(), store=store)
    assert not plan.is_built
    assert "metadata/part.txt is gone" in plan.why
    outcome = make_pool.run(PoolSpec(), store=store)
    assert outcome.status == "built"
    assert "gone" in outcome.why
    assert store.folder(outcome.artifact).read("metadata/part.txt") == b"0\n1\n2"
    assert outcome.artifact.fingerprint == pool.fingerprint


def test_a_truncated_output_is_noticed(store: Store) -> None:
    pool = make_pool(PoolSpec(), store=store)
    store.folder(pool).write("metadata/part.txt", b"0")
    assert "instead of" in make_pool.plan(PoolSpec(), store=store).why


def test_content_enters_the_fingerprint_of_what_inputs_do_not_determine(store: Store) -> None:
    arrived = ["a"]

    @step("pools", version=1)
    def crawl(spec: CrawlSpec, *, out: Folder) -> Pool:
        out.write("x", arrived[0].encode())
        return Pool(num_samples=1, num_parts=1, content=arrived[0])

    first = crawl(CrawlSpec(), store=store)
    store.folder(first).remove("x")
    arrived[0] = "b"
    second = crawl(CrawlSpec(), store=store)
    assert first.address == second.address
    assert first.fingerprint != second.fingerprint
    assert pick.address(PickSpec(), first) != pick.address(PickSpec(), second)


def test_two_runs_at_one_address_one_publishes_and_both_agree(tmp_path: Path) -> None:
    """Two processes' worth: two stores whose locks do not know each other."""
    CALLS.clear()
    store = Store.open(str(tmp_path / "store"))
    pool = make_pool(PoolSpec(), store=store)
    gate = threading.Barrier(2, timeout=60)
    twin = Store(Folder(store.root.url + "/"))
    twin.root.url += "/."  # another name for the same place, so the in-process lock does not serialise them
    results: list[Subset] = []
    threads = [
        threading.Thread(target=lambda s=s: results.append(pick(PickSpec(), pool, store=s, gate=gate))) for s in (store, twin)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert CALLS.count("pick") == 2
    assert results[0].data == results[1].data
    assert store.root.exists(results[0].address + "/_artifact.json")
    leftovers = [name for name in store.home(results[0].address).files() if ".lease" in name or "subset.txt" in name]
    assert leftovers == [results[0].data.rsplit("/", 1)[1] + "/subset.txt"]


def test_calls_in_threads_of_one_process_build_once(store: Store) -> None:
    threads = [threading.Thread(target=make_pool, args=(PoolSpec(rows=9),), kwargs={"store": store}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert CALLS == ["pool"]


def test_a_failed_step_leaves_no_record_and_the_next_run_goes_on_in_its_folder(store: Store) -> None:
    seen: list[list[str]] = []

    @step("pools", version=1)
    def two_parts(spec: TwoPartSpec, *, out: Folder) -> Pool:
        seen.append(list(out.files()))
        out.write("one", b"1")
        if len(seen) == 1:
            if out.is_local:
                (out.path / ".half.1234abcd.tmp").write_bytes(b"what a killed writer leaves")
            raise RuntimeError("power cut")
        out.write("two", b"2")
        return Pool(num_samples=2, num_parts=2)

    with pytest.raises(RuntimeError, match="power cut"):
        two_parts(TwoPartSpec(), store=store)
    assert not two_parts.plan(TwoPartSpec(), store=store).is_built
    outcome = two_parts.run(TwoPartSpec(), store=store)
    assert seen == [[], ["one"]]
    assert outcome.record.attempts == 2
    if store.root.is_local:
        assert not list(store.root.path.rglob("*.tmp"))
    assert set(store.manifest(outcome.record)["path"]) == {"one", "two"}


KILLED = """
import sys, time
from datacomp_core.artifacts import Pool, Spec
from datacomp_core.store import Folder, Store, step

class SlowSpec(Spec):
    scale: str = "tiny"

@step("pools", version=1)
def slow(spec: SlowSpec, *, out: Folder) -> Pool:
    found = out.files()
    print("found", sorted(found), flush=True)
    for name in "abc":
        if name not in found:
            out.write(name, name.encode())
            print("wrote", name, flush=True)
            if sys.argv[2] == "hang":
                time.sleep(600)
    return Pool(num_samples=3, num_parts=3)

slow(SlowSpec(), store=Store.open(sys.argv[1]))
print("done", flush=True)
"""


def test_kill_9_then_rerun_resumes_at_once(store: Store, tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(textwrap.dedent(KILLED))
    command = [sys.executable, str(script), store.root.url]
    victim = subprocess.Popen([*command, "hang"], stdout=subprocess.PIPE, text=True)
    assert victim.stdout is not None
    assert victim.stdout.readline() == "found []\n"
    assert victim.stdout.readline() == "wrote a\n"
    # While it lives its folder is its own: another run starts from nothing.
    other = subprocess.run([*command, "go"], capture_output=True, text=True, check=True)
    assert other.stdout.startswith("found []\n")
    record = next(iter(store.records("pools")))
    store.forget(record)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    rerun = subprocess.run([*command, "go"], capture_output=True, text=True, check=True)
    assert rerun.stdout.splitlines() == ["found ['a']", "wrote b", "wrote c", "done"]


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_a_lease_of_another_host_is_respected_until_it_is_old(store: Store, hours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the clock of the store, whatever the other host's says."""
    address = make_pool.address(PoolSpec())
    home = store.home(address)
    lease = {"host": "elsewhere", "boot": "x", "pid": 1, "started": "1", "renewed": time.time() + 3600 * hours}
    home.write("attempt-00000000.lease-1", json.dumps(lease).encode())
    assert "attempt-00000000" not in make_pool(PoolSpec(), store=store).data
    record = store.record(address)
    assert record is not None
    store.forget(record)
    monkeypatch.setattr("datacomp_core.store.lease.DEAD_AFTER_SECONDS", 1)
    time.sleep(3)  # a bucket knows seconds
    assert "attempt-00000000" in make_pool(PoolSpec(), store=store).data


def test_plan_runs_nothing_and_sees_through_what_is_not_built(store: Store) -> None:
    before = set(store.root.files())
    pool = make_pool.plan(PoolSpec(), store=store)
    subset = pick.plan(PickSpec(), pool, store=store)
    assert (pool.is_built, subset.is_built, subset.address) == (False, False, None)
    assert subset.name == "every2-of-rows3"
    assert "pools must be built first" in subset.why
    assert CALLS == []
    assert set(store.root.files()) == before
    built = make_pool(PoolSpec(), store=store)
    planned = pick.plan(PickSpec(), make_pool.plan(PoolSpec(), store=store), store=store)
    assert planned.address == pick.address(PickSpec(), built)


def test_adopt_takes_in_without_copying(store: Store, tmp_path: Path) -> None:
    source = Folder(tmp_path / "download")
    source.write("metadata/part.txt", b"7\n8\n9")
    made = Pool(num_samples=3, num_parts=1, content="abc", scale="tiny")
    outcome = make_pool.adopt(PoolSpec(rows=99), made=made, source=source, store=store)
    assert CALLS == []
    assert store.folder(outcome.artifact) == source
    assert make_pool.run(PoolSpec(rows=99), store=store).status == "reused"
    subset = pick(PickSpec(), outcome.artifact, store=store)
    assert store.folder(subset).read("subset.txt") == b"7\n9"
    source.remove("metadata/part.txt")
    for use in (make_pool, make_pool.plan):
        with pytest.raises(DataError, match=r"adopted from .*/download, are lost: metadata/part\.txt is gone"):
            use(PoolSpec(rows=99), store=store)


def test_adopting_nothing_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing to adopt"):
        make_pool.adopt(PoolSpec(), made=Pool(num_samples=0, num_parts=0), source=Folder(tmp_path / "empty"), store=store)


def test_a_damaged_record_is_never_believed(store: Store) -> None:
    pool = make_pool(PoolSpec(), store=store)
    store.home(pool.address).write("_artifact.json", b'{"kind": "pools"')
    with pytest.raises(StoreError, match="is damaged"):
        make_pool(PoolSpec(), store=store)


class CarelessFileSystem(MemoryFileSystem):
    """A server that takes the condition and ignores it, as two of five S3 servers tried did."""

    protocol = "careless"

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: object) -> None:
        super().pipe_file(path, value, mode="overwrite")


def test_a_store_that_ignores_the_condition_is_refused() -> None:
    fsspec.register_implementation("careless", CarelessFileSystem, clobber=True)
    with pytest.raises(StoreError, match="does not enforce conditional writes"):
        Store.open("careless://bucket/store")


def test_a_place_that_is_no_store_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Cannot use"):
        Store.open(str(tmp_path / "file" / "store"))
    with pytest.raises(StoreError, match="Cannot open nonsense://x"):
        Store.open("nonsense://x")


# The star rule ------------------------------------------------------------------------------------------------------


def test_left_of_the_star_only_what_it_is() -> None:
    def bad(spec: PoolSpec, workers: int, *, out: Folder) -> Pool: ...  # pyright: ignore

    with pytest.raises(TypeError, match="'workers' is left of the star"):
        step("pools", version=1)(bad)


def test_right_of_the_star_only_how_it_is_run() -> None:
    def bad(spec: PoolSpec, *, pool: Pool, out: Folder) -> Pool: ...  # pyright: ignore

    with pytest.raises(TypeError, match="must stand left of the star"):
        step("pools", version=1)(bad)


def test_a_step_needs_an_out_folder_and_returns_its_kind() -> None:
    def no_out(spec: PoolSpec) -> Pool: ...  # pyright: ignore

    def no_artifact(spec: PoolSpec, *, out: Folder) -> int: ...  # pyright: ignore

    def wrong_kind(spec: PoolSpec, *, out: Folder) -> Subset: ...  # pyright: ignore

    for function, what in ((no_out, "out"), (no_artifact, "returns an Artifact"), (wrong_kind, "it makes 'subsets'")):
        with pytest.raises(TypeError, match=what):
            step("pools", version=1)(function)  # pyright: ignore


def test_a_typo_is_an_error_at_the_door() -> None:
    with pytest.raises(ValidationError, match="row"):
        PoolSpec(row=3)  # pyright: ignore
