"""Runs, changes, clearing and kills on a bucket that fails in every way: nothing published vanishes, and reruns converge.

A few thousand random schedules, and a hypothesis machine that finds and shortens a schedule which breaks an invariant.
"""

from __future__ import annotations

import random
import threading
import uuid
from types import SimpleNamespace
from typing import Any

import fsspec
import hypothesis.strategies as st
import pytest
from faulty_store import FAULTS, NAMES, ROOT, BrokenError, Bucket, FaultyFileSystem
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from datacomp_core.artifacts import Pool, Spec
from datacomp_core.errors import DatacompError
from datacomp_core.leaderboard.board import garbage_collection
from datacomp_core.store import Folder, Store, failures, lease, listing, process, step
from datacomp_core.store import format as store_format
from datacomp_core.store.artifact_changes import exclusive_change, finish

SCHEDULES = 2_500
LONG = 60_000
LONGEST = 7200
"""Seconds: twenty minutes on a free core."""


class DownloadSpec(Spec):
    scale: str = "tiny"


@step("pools", version=1)
def download(spec: DownloadSpec, *, out: Folder) -> Pool:
    """Goes on where it stopped: skips what is there, and ends with the same bytes."""
    there = out.files()
    for name in NAMES:
        if name not in there:
            out.write(f"{name}", name.encode() * 10)
    return Pool(num_samples=3, num_parts=3)


ADDRESS = download.address(DownloadSpec())


def run(url: str) -> str:
    return download.run(DownloadSpec(), store=Store(Folder(url))).status


def check(url: str) -> None:
    Store(Folder(url)).check()


def take_down(url: str) -> None:
    """What a takedown does: one file is written anew without a sample."""
    store = Store(Folder(url))
    with exclusive_change(store, ADDRESS) as record:
        stat = store.data(record).write("a", b"aaa")
        finish(store, record, {}, {"a": stat})


def collect_garbage(url: str) -> None:
    """`gc --delete` that keeps what is published."""
    store = Store(Folder(url))
    keep = [ADDRESS] if store.record(ADDRESS) else []
    garbage_collection.remove(
        store, [one for one in garbage_collection.unused(store, keep=keep, older_than_hours=0) if one.what == "attempt"]
    )


def delete_all(url: str) -> None:
    store = Store(Folder(url))
    garbage_collection.remove(store, garbage_collection.unused(store, older_than_hours=0))


WORK = {"run": run, "takedown": take_down, "collector": collect_garbage, "gc": delete_all, "check": check}


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operating system of the simulated processes: they know each other, and no time passes."""
    fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)
    for module, pauses in ((failures, (0, 0)), (listing, (0, 0, 0))):
        monkeypatch.setattr(module, "PAUSES", pauses)
    monkeypatch.setattr(lease, "threading", SimpleNamespace(Event=threading.Event, Lock=threading.Lock, Thread=NoThread))
    monkeypatch.setattr(process, "identity", identity)
    monkeypatch.setattr(process, "is_gone", is_gone)
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=FaultyFileSystem.bucket.chance.getrandbits(128), version=4))


class NoThread:
    """In place of the thread that renews a lease: no time passes."""

    def __init__(self, **_: Any) -> None:
        pass

    def start(self) -> None:
        pass

    def join(self) -> None:
        pass


def identity() -> dict[str, Any]:
    now = FaultyFileSystem.bucket.now
    return {"host": "simulated", "pid": -1 if now is None else now.number}


def is_gone(other: dict[str, Any]) -> bool:
    number = int(other["pid"])
    return number < 0 or FaultyFileSystem.bucket.processes[number].state != "running"


class Schedule:
    """One world: processes are started, let go on with or without a fault, and killed."""

    def __init__(self, seed: int = 0) -> None:
        self.bucket = FaultyFileSystem.bucket = Bucket(seed)
        store_format._known.clear()  # pyright: ignore[reportPrivateUsage]
        self.roles: list[str] = []

    def start(self, role: str) -> None:
        self.roles.append(role)
        self.bucket.start(role, WORK[role])

    def go_on(self, which: int, fault: str = "") -> None:
        running = self.bucket.running
        if running:
            running[which % len(running)].go_on(fault)

    def kill(self, which: int) -> None:
        running = self.bucket.running
        if running:
            running[which % len(running)].kill()

    def spoil(self) -> None:
        """A disk loses a file of what is in force."""
        for key in self.bucket.in_force():
            for name in self.bucket.files_of(key):
                if name.endswith("/b"):
                    self.bucket.delete(name)
                    self.bucket.was_spoiled = True

    def check(self) -> None:
        for key in self.bucket.in_force():
            for name, size in self.bucket.files_of(key).items():
                there = self.bucket.objects.get(name)
                if not (self.bucket.was_spoiled or (there is not None and len(there) == size)):
                    raise BrokenError(f"{key} is in force, and {name} is not what it says")

    def converge(self) -> None:
        """Everybody ends; then, without faults, the interrupted change is taken up and the step run twice."""
        for one in self.bucket.running:
            while one.state == "running":
                one.go_on()
        for one in self.bucket.processes:
            one.unwind()
            if isinstance(one.outcome, BaseException) and not isinstance(one.outcome, DatacompError):
                raise BrokenError(f"a {one.role} ended with {one.outcome!r}")
            if "conditional writes" in str(one.outcome):
                raise BrokenError(f"a {one.role} calls this store one that cannot be used: {one.outcome}")
        self.check()
        store = Store(Folder(f"faulty://person/{ROOT}"))
        if store.interrupted(ADDRESS) is not None:
            try:
                take_down(store.root.url)
            except DatacompError:
                assert self.bucket.was_spoiled
        run(store.root.url)
        assert run(store.root.url) == "reused"
        record = store.record(ADDRESS)
        assert record is not None
        found = {name: store.data(record).read(name) for name in store.data(record).files()}
        assert found in ({**EXPECTED}, {**EXPECTED, "a": b"aaa"}), found
        for _ in range(2):  # what a killed clearing left of its own is seen once the rest is gone
            delete_all(store.root.url)
        stays = ("/_c", "/_store.json", "_manifest-")
        left = [key for key in self.bucket.objects if not any(part in key for part in stays)]
        assert left == [], "a clearing leaves nothing behind"


EXPECTED = {name: name.encode() * 10 for name in NAMES}


def play(seed: int, num_faults: float = 0.12) -> Schedule:
    """A random schedule: up to five processes, a fault now and then, a kill, sometimes a lost file."""
    chance, schedule = random.Random(seed), Schedule(seed)
    roles = ["run", *chance.choices(["run", "takedown", "collector", "gc", "check"], [5, 3, 3, 1, 1], k=chance.randint(1, 4))]
    spoils = chance.random() < 0.2
    try:
        for role in roles:
            schedule.start(role)
            for _ in range(chance.choice((0, 3, 10, 40))):
                schedule.go_on(chance.randrange(5), chance.choice(FAULTS) if chance.random() < num_faults else "")
                if chance.random() < 0.01:
                    schedule.kill(chance.randrange(5))
            if spoils and chance.random() < 0.3:
                schedule.spoil()
        while schedule.bucket.running:
            schedule.go_on(chance.randrange(5), chance.choice(FAULTS) if chance.random() < num_faults else "")
            if chance.random() < 0.01:
                schedule.kill(chance.randrange(5))
        schedule.check()
        schedule.converge()
    except BaseException as problem:
        problem.add_note(f"schedule {seed}: {roles}")
        raise
    return schedule


def test_random_schedules_lose_nothing() -> None:
    requests = sum(play(seed).bucket.requests for seed in range(SCHEDULES))
    assert requests > 50 * SCHEDULES


@pytest.mark.slow
@pytest.mark.timeout(LONGEST)
def test_very_many_random_schedules_lose_nothing() -> None:
    for seed in range(SCHEDULES, LONG):
        play(seed, num_faults=0.05 + seed % 5 * 0.05)


@pytest.mark.parametrize("stops", range(14))
def test_a_record_is_not_published_behind_ones_that_are_deleted_meanwhile(stops: int) -> None:
    """A run stops somewhere in publishing; another one publishes and is cleared away; then the first goes on."""
    schedule = Schedule()
    for _ in range(2):  # two generations are lost
        run(f"faulty://person/{ROOT}")
        schedule.bucket.was_spoiled = False
        schedule.spoil()
    slow = schedule.bucket.start("run", run)
    manifests = {key for key in schedule.bucket.objects if "_manifest" in key}
    while {key for key in schedule.bucket.objects if "_manifest" in key} == manifests:
        slow.go_on()
    for _ in range(stops):
        if slow.state == "running":
            slow.go_on()
    for role in ("run", "gc"):
        other = schedule.bucket.start(role, WORK[role])
        while other.state == "running":
            other.go_on()
    schedule.converge()


class Machine(RuleBasedStateMachine):
    """As the random schedules; hypothesis looks for one that breaks an invariant, and shortens it."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule()

    @rule(role=st.sampled_from(sorted(WORK)))
    def start(self, role: str) -> None:
        if len(self.schedule.bucket.running) < 4:
            self.schedule.start(role)

    @rule(which=st.integers(0, 3), steps=st.integers(1, 40))
    def go_on(self, which: int, steps: int) -> None:
        for _ in range(steps):
            self.schedule.go_on(which)

    @rule(which=st.integers(0, 3), fault=st.sampled_from(FAULTS))
    def fail(self, which: int, fault: str) -> None:
        self.schedule.go_on(which, fault)

    @rule(which=st.integers(0, 3))
    def kill(self, which: int) -> None:
        self.schedule.kill(which)

    @rule()
    def spoil(self) -> None:
        self.schedule.spoil()

    @invariant()
    def holds(self) -> None:
        self.schedule.check()

    def teardown(self) -> None:
        self.schedule.converge()


def test_no_schedule_that_hypothesis_finds_loses_anything() -> None:
    run_state_machine_as_test(Machine, settings=machine_settings(60))


@pytest.mark.slow
@pytest.mark.timeout(LONGEST)
def test_no_schedule_that_a_long_search_finds_loses_anything() -> None:
    run_state_machine_as_test(Machine, settings=machine_settings(5_000))


def machine_settings(examples: int) -> settings:
    return settings(
        max_examples=examples, stateful_step_count=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
