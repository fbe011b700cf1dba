"""Runs one training on several nodes: node 0 runs the step and announces its run folder in the store; the others join it.
Nodes share the store and the run's folder (a shared disk: the store's, or `DATACOMP_HOME` if the store is a bucket). A node
that does not see this folder reports it to node 0, which ends the training with that sentence. Every message is renewed while
its writer lives, so that a lost node is detected by missing renewals.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datacomp_core.errors import DatacompError, DataError, LostProcessError, SpecError, StoreError
from datacomp_core.settings import settings
from datacomp_core.store import Store
from datacomp_core.training.job import JOB, RankJob
from datacomp_core.training.launch import TorchrunLayout, run_node

log = logging.getLogger(__name__)

MEETINGS = "_trainings"
MEETING = "meeting-"
"""Of a file in the run folder, with the number that node 0 tells: who sees it sees the same folder."""
POLL_SECONDS = 2.0
BEAT_SECONDS = 15.0
SILENCE_SECONDS = 120.0
GRACE_SECONDS = 60.0
WAIT_SECONDS = 1800.0
MOUNT_TRIES = 5


def this_node() -> TorchrunLayout:
    """The layout that the settings name: this machine alone, unless a scheduler's script said more."""
    own = settings()
    return TorchrunLayout(
        processes=own.processes,
        nodes=own.nodes,
        node=own.node,
        rendezvous=own.rendezvous,
        run_id=own.run_id,
        threads=own.num_threads,
    )


@contextmanager
def announce_node_0(store: Store, layout: TorchrunLayout) -> Generator[None]:
    """Announce node 0 during the block: it may begin trainings, and the others wait for them."""
    try:
        with _said(store, _presence(layout), {"nodes": layout.nodes}):
            yield
    finally:
        store.root.remove(f"{MEETINGS}/{layout.run_id}")


@contextmanager
def announce_run(store: Store, layout: TorchrunLayout, folder: Path) -> Generator[Callable[[], None]]:
    """Tell the other nodes of `layout.run_id` the folder of the run, during the block. A single node writes nothing.

    It yields a function to call now and then: it raises the SpecError of another node that cannot take part.
    """
    if layout.nodes == 1:
        yield lambda: None
        return
    (folder / JOB).unlink(missing_ok=True)
    meeting = uuid.uuid4().hex
    for stale in folder.glob(f"{MEETING}*"):
        stale.unlink()
    (folder / f"{MEETING}{meeting}").touch()
    answers = _Answers(store, layout, meeting)
    message = {"folder": str(folder), "nodes": layout.nodes, "meeting": meeting}
    with _said(store, _training(layout), message, answers.read):
        try:
            yield answers.check
        finally:
            store.root.remove(_refusal(layout))


def follow(
    store: Store, layout: TorchrunLayout, *, wait_seconds: float = WAIT_SECONDS, ended: Callable[[], bool] = lambda: False
) -> int:
    """Join one training after the other, until node 0 is gone or `ended` says so; how many were joined and completed.

    A training that fails is node 0's to report and to begin again, so it ends nothing here. DatacompError if node 0 does not
    appear within `wait_seconds`.
    """
    _refuse_first(layout)
    node_0, training, completed = _Heard(store, _presence(layout)), _Heard(store, _training(layout)), 0
    until = time.monotonic() + wait_seconds
    while node_0.message() is None:
        if ended():
            return completed
        if time.monotonic() > until:
            raise DatacompError(
                f"Node 0 of {layout.run_id!r} did not appear in {store.root} within {wait_seconds:.0f} s: give all nodes the "
                "same store and run id."
            )
        time.sleep(POLL_SECONDS)
    while not ended() and node_0.message() is not None:
        if training.message() is not None:
            try:
                join(store, layout, wait_seconds=SILENCE_SECONDS)
                completed += 1
            except DatacompError as problem:
                log.error("a training that node %d took part in ended: %s", layout.node, problem)
        time.sleep(POLL_SECONDS)
    return completed


def join(store: Store, layout: TorchrunLayout, *, wait_seconds: float = WAIT_SECONDS) -> None:
    """Take part in a training as node `layout.node`, in every launch of it, until node 0 says that it is over.

    DatacompError if its last launch failed here, if nobody begins one in time, or if node 0 falls silent.
    """
    _refuse_first(layout)
    heard = _Heard(store, _training(layout))
    try:
        folder, launched, problem = _found(heard, layout, wait_seconds), "", None
    except SpecError as refusal:
        _answer(heard, layout, refusal)
        raise
    while heard.message() is not None:
        job = _job(folder)
        if job is not None and job.launch != launched:
            launched = job.launch
            problem = _part(job, layout, heard)
            if isinstance(problem, SpecError):
                _answer(heard, layout, problem)
        time.sleep(POLL_SECONDS)
    if problem is not None:
        raise problem


def _part(job: RankJob, layout: TorchrunLayout, heard: _Heard) -> DatacompError | None:
    """This node's ranks of one launch; the error they ended with. Ended early if node 0 launches again, or is gone."""
    if job.machine.world_size != layout.world_size:
        return SpecError(
            f"The training {layout.run_id!r} has {job.machine.world_size} processes in total, but this node expects "
            f"{layout.world_size}: give every node the same numbers of nodes and processes."
        )
    alone_since: list[float] = []

    def watch() -> None:
        now = _job(Path(job.folder))
        if now is not None and now.launch == job.launch and heard.message() is not None:
            alone_since.clear()
            return
        alone_since.append(time.monotonic())
        if time.monotonic() - alone_since[0] > GRACE_SECONDS:
            raise LostProcessError(f"Node 0 of {layout.run_id!r} has left the training {job.folder}.")

    try:
        run_node(job, layout, watch)
    except DatacompError as problem:
        return problem
    return None


def _found(heard: _Heard, layout: TorchrunLayout, wait_seconds: float) -> Path:
    until = time.monotonic() + wait_seconds
    log.info("waiting for the training %s", layout.run_id)
    while time.monotonic() < until:
        message = heard.message()
        if message is not None and _job(Path(message["folder"])) is not None:
            return Path(message["folder"])
        if message is not None and not _is_same(message):
            raise SpecError(
                f"The machine {socket.gethostname()} does not see {message['folder']}, the run folder of node 0: the nodes of a "
                "training share a disk, so set DATACOMP_HOME (or the store) to a folder that all of them mount at the same place."
            )
        time.sleep(min(POLL_SECONDS, wait_seconds))
    raise DatacompError(
        f"This node found no training {layout.run_id!r} within {wait_seconds:.0f} s: start node 0 with the same run id and "
        f"store ({heard.store.root}), and let the nodes share the disk of its run folder."
    )


def _is_same(message: dict[str, Any]) -> bool:
    """Whether the run folder is the one in which node 0 left its mark, a disk that comes late allowed for."""
    for _ in range(MOUNT_TRIES):
        if Path(message["folder"], f"{MEETING}{message['meeting']}").exists():
            return True
        time.sleep(POLL_SECONDS)
    return False


def _answer(heard: _Heard, layout: TorchrunLayout, refusal: SpecError) -> None:
    """Tell node 0 why this node cannot take part: it would wait for its ranks."""
    message = heard.message()
    if message is None:
        return
    told = {"meeting": message["meeting"], "why": str(refusal)}
    try:
        heard.store.root.write_json(_refusal(layout), told)
    except StoreError as problem:
        log.warning("could not report to node 0 that this node cannot take part: %s", problem)


class _Answers:
    """In node 0: what another node said that cannot take part in this training."""

    def __init__(self, store: Store, layout: TorchrunLayout, meeting: str) -> None:
        self._of_others = _Heard(store, _refusal(layout))
        self._meeting, self._why = meeting, ""

    def read(self) -> None:
        found = self._of_others.message()
        if found is not None and found.get("meeting") == self._meeting:
            self._why = str(found["why"])

    def check(self) -> None:
        if self._why:
            raise SpecError(f"Another node cannot take part in this training. {self._why}")


def _job(folder: Path) -> RankJob | None:
    """Return the launch in a folder; none between two launches."""
    try:
        return RankJob.model_validate_json((folder / JOB).read_bytes())
    except FileNotFoundError:
        return None


def _refuse_first(layout: TorchrunLayout) -> None:
    if not layout.node:
        raise SpecError("Node 0 runs the training itself; the others join it.")


def _presence(layout: TorchrunLayout) -> str:
    return f"{MEETINGS}/{layout.run_id}/node0.json"


def _training(layout: TorchrunLayout) -> str:
    return f"{MEETINGS}/{layout.run_id}/training.json"


def _refusal(layout: TorchrunLayout) -> str:
    return f"{MEETINGS}/{layout.run_id}/refusal.json"


@contextmanager
def _said(store: Store, name: str, message: dict[str, Any], listen: Callable[[], None] = lambda: None) -> Generator[None]:
    """A message in the store, renewed while the block lasts; `listen` is called as often."""
    over = threading.Event()
    store.root.write_json(name, {**message, "beat": 0})

    def renew() -> None:
        beat = 0
        while not over.wait(BEAT_SECONDS):
            beat += 1
            try:
                store.root.write_json(name, {**message, "beat": beat})
            except StoreError as problem:
                log.warning("could not report to the other nodes that this node is alive: %s", problem)
            listen()

    teller = threading.Thread(target=renew, name="node-0-beats", daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
        store.root.remove(name)


class _Heard:
    """A message of another node, read at most every `POLL_SECONDS`; none once it is gone or no longer renewed."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self._name = name
        self._last: dict[str, Any] | None = None
        self._read_at = self._changed_at = -SILENCE_SECONDS

    def message(self) -> dict[str, Any] | None:
        now = time.monotonic()
        if now - self._read_at >= POLL_SECONDS:
            self._read_at = now
            found = self._read()
            if found != self._last:
                self._last, self._changed_at = found, now
        silent = now - self._changed_at > SILENCE_SECONDS
        return None if silent else self._last

    def _read(self) -> dict[str, Any] | None:
        try:
            return self.store.root.read_json(self._name) if self.store.root.exists(self._name) else None
        except DataError:  # it was taken away in between
            return None
        except StoreError as problem:
            log.warning("%s", problem)
            return self._last
