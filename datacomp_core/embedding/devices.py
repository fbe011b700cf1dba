"""Chunks handed out to devices as they become free: one process per device, and none of them waits for another.

With one device everything runs in this process. Writing and joining are done in a thread, so that no device waits for a disk.
"""

from __future__ import annotations

import queue
import traceback
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from datacomp_core import errors
from datacomp_core.cluster_workers import ClusterWorkers, decoders, send_checkpoint
from datacomp_core.driver_files import exchange
from datacomp_core.embedding.assemble import Chunk, PartAssembler, Span, keep, kept_name
from datacomp_core.embedding.encode import EncodeWork, Encoding, encode
from datacomp_core.errors import DatacompError, LostProcessError
from datacomp_core.import_errors import explain_import_errors
from datacomp_core.parallel import SPAWN, die_with_parent, leave_interrupts, prepared_map
from datacomp_core.progress import Progress
from datacomp_core.store import Folder

CHUNKS_OF_A_RUN = 16  # that a station of a cluster is given at once: between runs it waits for its last batch
AHEAD = 2  # chunks a device holds at most: the one at work and the next
WRITES = 2  # full chunks that wait to be written
POLL_SECONDS = 1.0
DONE, KEPT, FAILED, ENDED = "done", "kept", "failed", "ended"


def encode_on_cluster(
    stations: ClusterWorkers, work: EncodeWork, chunks: list[Span], parts: PartAssembler, progress: Progress
) -> None:
    """Encode all chunks with the stations of a cluster, a run of chunks after another as they become free, and join the parts.

    Every machine decodes for its own devices. A lost station's run is given to another, which skips the chunks that are kept.
    """
    size = max(1, min(CHUNKS_OF_A_RUN, len(chunks) // (4 * stations.count)))
    runs = (_run(work, chunks[first : first + size]) for first in range(0, len(chunks), size))
    with exchange(parts.out) as shared, _writer() as later:
        models = tuple(send_checkpoint(model, shared) for model in work.models)
        told = replace(work, models=models, located=SentLocations(), workers=max(1, work.workers // stations.count))
        prepare = partial(DeviceWorker, told, stations, Folder(parts.out.url))
        for run, found in prepared_map(
            DeviceWorker.encode, runs, prepare=prepare, workers=stations.count, one_worker="apart", gpus=stations.gpus
        ):
            for rows, tally in found:
                progress.advance(rows, **tally)
            for span, _ in run:
                later(parts.kept, span)


Run = tuple[tuple[Span, pl.DataFrame], ...]
"""Chunks, each with the places of its rows."""


def _run(work: EncodeWork, chunks: list[Span]) -> Run:
    made: list[tuple[Span, pl.DataFrame]] = []
    for chunk in chunks:
        places = work.located.of(chunk)
        first, last = np.searchsorted(places["row"].to_numpy(), [chunk.start, chunk.stop]).tolist()
        made.append((chunk, places.slice(first, last - first)))
    return tuple(made)


class SentLocations:
    """The places that came with a run."""

    def __init__(self) -> None:
        self.known: dict[Span, pl.DataFrame] = {}

    def of(self, span: Span) -> pl.DataFrame:
        return self.known[span]


class DeviceWorker:
    """One worker of a cluster: its models, loaded once on its device, and processes that decode for it."""

    def __init__(self, work: EncodeWork, stations: ClusterWorkers, out: Folder) -> None:
        self.out, self.sent = out, SentLocations()
        self.told: list[tuple[int, dict[str, int]]] = []
        own = replace(work, located=self.sent, workers=decoders(work.workers))
        self.encoding = Encoding(own, stations.open(), self._full, self._done)

    def encode(self, run: Run) -> list[tuple[int, dict[str, int]]]:
        """Encode a run and keep its chunks; the rows of each batch and how many of them had what."""
        there = self.out.files()
        self.sent.known = dict(run)
        self.told = []
        with _writer() as self.later:
            self.encoding.run(span for span, _ in run if kept_name(span) not in there)
        return self.told

    def _full(self, span: Span, chunk: Chunk) -> None:
        self.later(keep, self.out, span, chunk)

    def _done(self, rows: int, tally: dict[str, int]) -> None:
        self.told.append((rows, tally))


def encode_on(
    devices: tuple[str, ...], work: EncodeWork, chunks: Iterable[Span], parts: PartAssembler, progress: Progress
) -> None:
    """Encode all chunks on all devices, and join the parts. The first error of a device ends the others and is raised."""
    if len(devices) == 1:
        with explain_import_errors(), _writer() as later:

            def full(span: Span, chunk: Chunk) -> None:
                later(_keep_and_join, parts, span, chunk)

            encode(work, devices[0], chunks, full, lambda rows, tally: progress.advance(rows, **tally))
        return
    _apart(devices, work, chunks, parts, progress)


def _keep_and_join(parts: PartAssembler, span: Span, chunk: Chunk) -> None:
    keep(parts.out, span, chunk)
    parts.kept(span)


def _apart(devices: tuple[str, ...], work: EncodeWork, chunks: Iterable[Span], parts: PartAssembler, progress: Progress) -> None:
    wanted: Any = SPAWN.Queue(AHEAD * len(devices))
    told: Any = SPAWN.Queue()
    processes = [
        SPAWN.Process(target=_serve, args=(device, work, parts.out, wanted, told), name=f"embed-{device}") for device in devices
    ]
    for process in processes:
        process.start()
    try:
        with _writer() as later:
            _listen(processes, iter(chunks), wanted, told, lambda span: later(parts.kept, span), progress)
    finally:
        for process in processes:
            process.kill()
            process.join()
        for line in (wanted, told):
            line.cancel_join_thread()
            line.close()


def _listen(processes: list[Any], chunks: Iterator[Span], wanted: Any, told: Any, kept: Any, progress: Progress) -> None:
    """Hand out chunks and receive their results, until every device has ended. A lost device ends the others at once."""
    left, coming = len(processes), next(chunks, None)
    ends = len(processes)
    while left:
        while coming is not None or ends:
            try:
                wanted.put_nowait(coming)
            except queue.Full:
                break
            ends -= coming is None
            coming = next(chunks, None) if coming is not None else None
        _all_alive(processes)
        try:
            kind, value = told.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        if kind == DONE:
            progress.advance(value[0], **value[1])
        elif kind == KEPT:
            kept(value)
        elif kind == FAILED:
            raise value
        else:
            left -= 1


def _all_alive(processes: list[Any]) -> None:
    for process in processes:
        if process.exitcode not in (None, 0):
            why = (
                "was killed, most likely because memory ran out"
                if process.exitcode < 0
                else "could not start: see its error above"
            )
            raise LostProcessError(
                f"The process {process.name} {why} (status {process.exitcode}): run again; finished chunks are kept."
            )


def _serve(device: str, work: EncodeWork, out: Folder, wanted: Any, told: Any) -> None:
    """The process of one device: chunks until there are no more."""
    die_with_parent()
    leave_interrupts()
    try:
        with _writer() as later:

            def full(span: Span, chunk: Chunk) -> None:
                later(_keep_and_tell, out, told, span, chunk)

            encode(work, device, iter(wanted.get, None), full, lambda rows, tally: told.put((DONE, (rows, tally))))
    except DatacompError as problem:
        kind = next(kind for kind in type(problem).__mro__ if kind.__module__ == errors.__name__)
        told.put((FAILED, kind(str(problem))))
    except BaseException as problem:
        trace = "".join(traceback.format_exception(problem))
        told.put((FAILED, DatacompError(f"Embedding on {device} failed: {type(problem).__name__}: {problem}\n{trace}")))
    else:
        told.put((ENDED, device))
    told.close()
    told.join_thread()


def _keep_and_tell(out: Folder, told: Any, span: Span, chunk: Chunk) -> None:
    keep(out, span, chunk)
    told.put((KEPT, span))


@contextmanager
def _writer() -> Generator[Any]:
    """`later(function, *arguments)`: in a thread, in order, few at a time. Its error is raised by a later call or the end."""
    with ThreadPoolExecutor(1, thread_name_prefix="writer") as pool:
        waiting: list[Future[None]] = []

        def later(function: Any, *arguments: Any) -> None:
            if len(waiting) >= WRITES:
                waiting.pop(0).result()
            waiting.append(pool.submit(function, *arguments))

        yield later
        for future in waiting:
            future.result()
