"""The store through a proxy that fails, before a real S3 server: every fault at random, and at every request of a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import pytest

from datacomp_core.artifacts import Pool, Spec
from datacomp_core.errors import StoreError
from datacomp_core.leaderboard.board.garbage_collection import unused
from datacomp_core.store import Folder, Store, failures, step
from datacomp_core.store import format as store_format
from datacomp_core.store.folder_request import INPUTS, REQUEST, bind_folder, free_if_nothing_is_made

sys.path.insert(0, str(Path(__file__).parent))
from faulty_proxy import ALL_FAULTS, FaultyProxy, faulty_proxy

FILES = {f"part-{number}": os.urandom(50_000) for number in range(4)}


class ProxySpec(Spec):
    scale: str = "tiny"
    number: int = 0


@step("pools", version=1)
def download(spec: ProxySpec, *, out: Folder) -> Pool:
    there = out.files()
    for name, data in FILES.items():
        if name not in there:
            out.write(name, data)
    return Pool(num_samples=len(FILES), num_parts=len(FILES))


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr(failures, "PAUSES", (0.05, 0.1))
    monkeypatch.setattr("faulty_proxy.SLOW_SECONDS", 0.3)
    with faulty_proxy(s3_server) as served:
        served.faults = ALL_FAULTS
        yield served


@contextmanager
def through(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch, url: str) -> Iterator[Store]:
    """The store behind the proxy; its clients, and what is known of it, are made anew."""
    import s3fs

    with monkeypatch.context() as there:
        there.setenv("AWS_ENDPOINT_URL", proxy.url)
        there.setattr(store_format, "_known", set[str]())
        s3fs.S3FileSystem.clear_instance_cache()
        yield Store(Folder(url))
    s3fs.S3FileSystem.clear_instance_cache()


def status(spec: ProxySpec, store: Store) -> str:
    try:
        return download.run(spec, store=store).status
    except StoreError as problem:
        return type(problem).__name__


def check(spec: ProxySpec, store: Store) -> None:
    """It is published once, and all of it is there."""
    outcome = download.run(spec, store=store)
    assert (outcome.status, outcome.record.generation) == ("reused", 1), "nothing was called lost"
    found = store.folder(outcome.artifact)
    assert {name: found.read(name) for name in found.files()} == FILES
    assert store.missing(outcome.record) == ""


def test_one_answer_that_nothing_is_there_is_believed_by_no_reader(
    proxy: FaultyProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty listing or a 404 at any request of a reading, and of a removal, as the real client meets them."""
    calm = Folder(s3_url)
    for name in ("a/x", "a/y", "b"):
        calm.write(name, name.encode())
    asked: dict[str, tuple[Callable[[Folder], Any], Any]] = {
        "files": (lambda folder: list(folder.files()), ["a/x", "a/y", "b"]),
        "files below": (lambda folder: list((folder / "a").files()), ["x", "y"]),
        "details": (lambda folder: list((folder / "a").details()), ["x", "y"]),
        "names": (lambda folder: (folder.names(), folder.folders()), (["b"], ["a"])),
        "exists": (lambda folder: [folder.exists(name) for name in ("a/x", "b", "a", "c")], [True, True, True, False]),
        "mark": (lambda folder: folder.mark("b"), calm.mark("b")),
        "size": (lambda folder: folder.size("a/y"), 3),
        "read": (lambda folder: folder.read("a/x"), b"a/x"),
        "range": (lambda folder: folder.read_range("a/x", 1, 3), b"/x"),
        "stream": (lambda folder: folder.open("b").read(), b"b"),
    }
    for what, (ask, expected) in asked.items():
        for fault in ("empty list", "404"):
            with through(proxy, monkeypatch, s3_url) as store:
                proxy.number, proxy.planned = 0, {}
                assert ask(store.root) == expected
                for number in range(proxy.number):
                    proxy.number, proxy.planned = 0, {number: fault}
                    assert ask(store.root) == expected, (what, fault, number)
    for number in range(6):
        calm.write("gone/z", b"z")
        with through(proxy, monkeypatch, s3_url) as store:
            proxy.number, proxy.planned = 0, {number: "empty list"}
            store.root.remove("gone")
        assert calm.size("gone/z") is None, "a removal that says it is done has removed"


def test_a_clock_that_is_wrong_is_named(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server refuses what is signed at another time; no permission is missing. Some minutes do no harm."""
    folder, clock = Folder(s3_url), botocore.auth.get_current_datetime
    folder.write("a", b"a")
    for minutes, skewed in ((10, False), (40, True)):
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda by=minutes, **_: clock() + timedelta(minutes=by))
        with pytest.raises(StoreError, match="the clock of this machine differs") if skewed else nullcontext():
            assert folder.files() == {"a": 1}


def test_a_store_that_lists_nothing_at_all_is_not_an_empty_one(
    proxy: FaultyProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A takedown that finds nothing there, or `gc` that has nothing to do, would say what is not so."""
    download.run(ProxySpec(), store=Store(Folder(s3_url)))
    with through(proxy, monkeypatch, s3_url) as sick:
        proxy.faults, proxy.share = ("empty list",), 1.0
        for ask in (lambda: list(sick.standing("shards")), lambda: list(sick.records()), lambda: unused(sick)):
            with pytest.raises(StoreError, match="omits existing files"):
                ask()
        proxy.share = 0.0
        assert list(sick.standing("shards")) == [], "no shard set is there"
        assert [record.kind for record in sick.records()] == ["pools"]


@pytest.mark.slow
def test_runs_through_a_faulty_proxy_end_with_what_a_run_without_one_gives(
    proxy: FaultyProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy.share = 0.15
    for number in range(12):
        spec = ProxySpec(number=number)
        with through(proxy, monkeypatch, s3_url) as sick:
            statuses = [status(spec, sick) for _ in range(8)]  # what a person or Prefect does: run it again
        assert statuses.count("built") <= 1, "once built it is not built again"
        download.run(spec, store=Store(Folder(s3_url)))
        check(spec, Store(Folder(s3_url)))
    assert min(proxy.met[fault] for fault in ALL_FAULTS) > 5


@pytest.mark.slow
@pytest.mark.parametrize("fault", ALL_FAULTS)
def test_each_request_of_a_run_may_meet_a_fault(
    fault: str, proxy: FaultyProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with through(proxy, monkeypatch, s3_url) as store:
        assert status(ProxySpec(number=-1), store) == "built"
    requests, told = proxy.number, list[str]()
    assert requests > 20
    for number in range(requests):
        spec = ProxySpec(number=number)
        with through(proxy, monkeypatch, s3_url) as sick:
            proxy.number, proxy.planned = 0, {number: fault}
            told.append(status(spec, sick))
            proxy.planned = {}
            assert status(spec, sick) == ("reused" if told[-1] == "built" else "built") or told[-1] == "StoreError"
        check(spec, Store(Folder(s3_url)))
    assert fault == "403" or set(told) == {"built"}, "one fault that may be another time's luck is not noticed"
    assert list(Store(Folder(s3_url)).lost()) == []


def test_a_command_that_fails_while_listings_are_empty_leaves_its_folder_to_be_resumed(
    proxy: FaultyProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(s3_url) / "out"
    bind_folder(folder, {"seed": 0})
    folder.write("part.parquet", b"made")
    with through(proxy, monkeypatch, s3_url) as sick:
        proxy.faults, proxy.share = ("empty list",), 1.0
        with pytest.raises(ValueError, match="of the command"), free_if_nothing_is_made(sick.root / "out"):
            raise ValueError("of the command")
        proxy.share = 0.0
    assert sorted(folder.files()) == sorted([INPUTS, REQUEST, "part.parquet"])
