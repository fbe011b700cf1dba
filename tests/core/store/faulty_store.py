"""A bucket in memory whose every request may fail, and processes that take turns at it, one request after the other.

The real `Store`, `Step`, `change` and `garbage_collection` run on it, through `Folder` and an fsspec file system. A process is a
greenlet that stops at each of its requests; what happens next (who goes on, which fault its request meets, who is killed) is
decided outside, so a schedule is a list of decisions and can be repeated. A killed process is never resumed: no `finally` of it
touches the bucket.
"""

from __future__ import annotations

import errno
import json
import random
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import greenlet
import polars as pl
from fsspec.spec import AbstractFileSystem

from datacomp_core.errors import DatacompError
from datacomp_core.store.record import is_record

R = TypeVar("R")

FAULTS = ("error before", "error after", "denied", "lost reply", "cut", "not found", "stale list", "empty list")
ROOT = "store"
NAMES = ("a", "b", "c")


class BrokenError(AssertionError):
    """An invariant does not hold."""


class Process:
    """One process of a cluster: `role` says what it does, and so what it may remove."""

    def __init__(self, bucket: Bucket, number: int, role: str, work: Callable[[str], Any]) -> None:
        self.bucket, self.number, self.role = bucket, number, role
        self.state = "running"
        self.outcome: Any = None
        self.lied = False
        self._work = work
        self._greenlet = greenlet.greenlet(lambda _="": self._run())

    @property
    def url(self) -> str:
        """The bucket's root; each process has another name for it, since locks of one process would serialise them."""
        return f"faulty://p{self.number}/{ROOT}"

    def _run(self) -> None:
        try:
            self.outcome = self._work(self.url)
        except DatacompError as problem:
            self.outcome = problem
        except (GeneratorExit, greenlet.GreenletExit):
            raise
        if self.state == "running":
            self.state = "ended"

    def go_on(self, fault: str = "") -> None:
        """Let it make its next request, which meets a fault, and run until the one after."""
        self.bucket.now = self
        self._greenlet.switch(fault)
        self.bucket.now = None

    def kill(self) -> None:
        self.state = "killed"

    def unwind(self) -> None:
        """Free what Python has of it; what its blocks do at their end no longer reaches the bucket."""
        if not self._greenlet.dead:
            self.state = "killed"
            self.bucket.now = self
            self._greenlet.throw()
            self.bucket.now = None


class Bucket:
    """Objects by key, what was ever published of them, and the processes at work."""

    def __init__(self, seed: int = 0) -> None:
        self.chance = random.Random(seed)
        self.objects: dict[str, bytes] = {}
        self.history: list[set[str]] = [set()]
        self.processes: list[Process] = []
        self.now: Process | None = None
        self.published: dict[str, str] = {}  # key of every file of an artifact that was ever in force: whose it is
        self.requests = 0
        self.was_spoiled = False

    def start(self, role: str, work: Callable[[str], Any]) -> Process:
        made = Process(self, len(self.processes), role, work)
        self.processes.append(made)
        made.go_on()
        return made

    @property
    def running(self) -> list[Process]:
        return [one for one in self.processes if one.state == "running"]

    def request(self, kind: str, answer: Callable[[], R], spoil: Callable[[str, R], R] = lambda _, found: found) -> R:
        """One request of the process that runs now: it waits for its turn, and meets the fault that it is given then."""
        process = self.now
        if process is None:
            return answer()
        if process.state == "killed":
            raise greenlet.GreenletExit
        scheduler: Any = greenlet.getcurrent().parent
        fault: str = scheduler.switch()
        if process.state == "killed":
            raise greenlet.GreenletExit
        self.requests += 1
        if fault == "error before":
            raise OSError(errno.EIO, "the server failed")
        if fault == "denied":
            raise PermissionError(errno.EACCES, "the token has expired")
        if fault == "not found" and kind in ("get", "head") and not process.lied:
            process.lied = True
            raise FileNotFoundError(errno.ENOENT, "nothing there, it says")
        if kind in ("get", "head"):
            process.lied = False
        found = answer()
        if fault == "error after":
            raise OSError(errno.EIO, "the connection was closed")
        if fault == "lost reply" and kind == "create":
            raise FileExistsError(errno.EEXIST, "precondition failed: the client tried twice")
        return spoil(fault, found)

    def put(self, key: str, data: bytes) -> None:
        before = self.objects.get(key)
        if before is not None and before != data:
            self._check_overwritten(key, before, data)
        self.objects[key] = data
        self.history.append(set(self.objects))
        if is_record(key):
            self._note_published(key)

    def delete(self, key: str) -> None:
        if key in self.objects:
            if key in self.published and self._role() not in ("gc", "person"):
                raise BrokenError(f"{self._role()} removed {key}, which was published at {self.published[key]}")
            del self.objects[key]
            if is_record(key):  # whoever deletes a record has said that its data may go too
                home = key.rpartition("/")[0]
                self.published = {name: whose for name, whose in self.published.items() if whose != home}
            self.history.append(set(self.objects))

    def _role(self) -> str:
        return self.now.role if self.now is not None else "person"

    def _check_overwritten(self, key: str, before: bytes, after: bytes) -> None:
        if is_record(key):
            old, new = json.loads(before), json.loads(after)
            kept = {name: value for name, value in old.items() if name not in ("state", "why")}
            if any(new[name] != value for name, value in kept.items()):
                raise BrokenError(f"{self._role()} wrote another record over {key}")
            if new["state"] == "lost" and not self.was_spoiled:
                raise BrokenError(f"{self._role()} called {key} lost, and all of it is there: {new['why']}")
            if new["state"] == "built" and old["state"] != "built":
                raise BrokenError(f"{self._role()} brought the record {key} back")
        elif key in self.published and self._role() not in ("takedown", "person"):
            raise BrokenError(f"{self._role()} wrote over {key}, which was published at {self.published[key]}")

    def _note_published(self, key: str) -> None:
        record = json.loads(self.objects[key])
        if record["state"] != "built":
            return
        home = key.rpartition("/")[0]
        self.published[key] = home
        for name in self.files_of(key):
            if name not in self.objects:
                raise BrokenError(f"{self._role()} published {key} without {name}")
            self.published[name] = home

    def files_of(self, key: str) -> dict[str, int]:
        """The keys and sizes of what a record names."""
        record, home = json.loads(self.objects[key]), key.rpartition("/")[0]
        manifest = f"{home}/{record['outputs']['manifest']}"
        if manifest not in self.objects:
            raise BrokenError(f"the manifest of {key} is not there")
        rows = _rows(self.objects[manifest])
        if [path for path, _ in rows] != list(NAMES):
            raise BrokenError(f"{key} was published with {rows}")
        return {
            manifest: len(self.objects[manifest]),
            **{f"{ROOT}/{record['artifact']['data']}/{path}": size for path, size in rows},
        }

    def in_force(self) -> list[str]:
        """Keys of the records that say they are built."""
        return [
            key
            for key in self.objects
            if is_record(key) and "/_lost/" not in key and json.loads(self.objects[key])["state"] == "built"
        ]


@cache
def _rows(manifest: bytes) -> list[tuple[str, int]]:
    return pl.read_parquet(manifest).select("path", "size").rows()


class FaultyFileSystem(AbstractFileSystem):
    """The bucket as an fsspec file system. The first part of a path is the process that asks."""

    protocol = "faulty"
    bucket = Bucket()

    def _key(self, path: str) -> str:
        return str(self._strip_protocol(path)).partition("/")[2]

    def _below(self, path: str, keys: set[str]) -> list[dict[str, Any]]:
        asker, _, key = str(self._strip_protocol(path)).partition("/")
        found: dict[str, dict[str, Any]] = {}
        for each in keys:
            if each.startswith(f"{key}/"):
                name, is_folder, _ = each[len(key) + 1 :].partition("/")
                full = f"{asker}/{key}/{name}"
                size = 0 if is_folder else len(self.bucket.objects.get(each, b""))
                found[full] = {"name": full, "size": size, "type": "directory" if is_folder else "file"}
        return [found[name] for name in sorted(found)]

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        process = self.bucket.now

        def spoil(fault: str, found: list[Any]) -> list[Any]:
            # A lie is not told twice in a row: what a store repeats is what is believed.
            if process is None or fault not in ("stale list", "empty list") or process.lied:
                if process is not None:
                    process.lied = False
                return found
            process.lied = True
            return [] if fault == "empty list" else self._below(path, self.bucket.history[max(0, len(self.bucket.history) - 4)])

        found = self.bucket.request("list", lambda: self._below(path, set(self.bucket.objects)), spoil)
        if not found:
            raise FileNotFoundError(errno.ENOENT, "nothing there", path)
        return found

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        key = self._key(path)

        def answer() -> dict[str, Any]:
            if key in self.bucket.objects:
                return {"name": self._strip_protocol(path), "size": len(self.bucket.objects[key]), "type": "file"}
            if any(each.startswith(f"{key}/") for each in self.bucket.objects):
                return {"name": self._strip_protocol(path), "size": 0, "type": "directory"}
            raise FileNotFoundError(errno.ENOENT, "nothing there", path)

        return self.bucket.request("head", answer)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        key = self._key(path)

        def answer() -> bytes:
            if key not in self.bucket.objects:
                raise FileNotFoundError(errno.ENOENT, "nothing there", path)
            return self.bucket.objects[key][start:end]

        return self.bucket.request("get", answer, lambda fault, found: found[: len(found) // 2] if fault == "cut" else found)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        key = self._key(path)

        def answer() -> None:
            if mode == "create" and key in self.bucket.objects:
                raise FileExistsError(errno.EEXIST, "precondition failed", path)
            self.bucket.put(key, bytes(value))

        self.bucket.request("create" if mode == "create" else "put", answer)

    def rm_file(self, path: str) -> None:
        self.bucket.request("delete", lambda: self.bucket.delete(self._key(path)))
