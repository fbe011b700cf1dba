"""Chunks handed out to devices as they become free: one process a device, and none of them waits for another.

With one device everything runs in this process. Writing and joining are done in a thread, so that no device waits for a disk.
"""

from __future__ import annotations

import multiprocessing
import queue
import traceback
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from datacomp_core import errors
from datacomp_core.embedding.assemble import Chunk, Parts, Span, keep
from datacomp_core.embedding.encode import Work, encode
from datacomp_core.errors import DatacompError, LostProcessError
from datacomp_core.imports import imports_told
from datacomp_core.parallel import die_with_parent
from datacomp_core.progress import Progress
from datacomp_core.store import Folder

AHEAD = 2  # chunks a device holds at most: the one at work and the next
WRITES = 2  # full chunks that wait to be written
POLL_SECONDS = 1.0
DONE, KEPT, FAILED, ENDED = "done", "kept", "failed", "ended"


def encode_on(devices: tuple[str, ...], work: Work, chunks: Iterable[Span], parts: Parts, progress: Progress) -> None:
    """Encode all chunks on all devices, and join the parts. The first error of a device ends the others and is raised."""
    if len(devices) == 1:
        with imports_told(), _writer() as later:

            def full(span: Span, chunk: Chunk) -> None:
                later(_keep_and_join, parts, span, chunk)

            encode(work, devices[0], chunks, full, lambda rows, tally: progress.advance(rows, **tally))
        return
    _apart(devices, work, chunks, parts, progress)


def _keep_and_join(parts: Parts, span: Span, chunk: Chunk) -> None:
    keep(parts.out, span, chunk)
    parts.kept(span)


def _apart(devices: tuple[str, ...], work: Work, chunks: Iterable[Span], parts: Parts, progress: Progress) -> None:
    context = multiprocessing.get_context("spawn")
    wanted: Any = context.Queue(AHEAD * len(devices))
    told: Any = context.Queue()
    processes = [
        context.Process(target=_serve, args=(device, work, parts.out, wanted, told), name=f"embed-{device}") for device in devices
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
    """Hand out chunks and hear what became of them, until every device has ended. One that is lost ends the others at once."""
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
            why = "was killed, most likely for want of memory" if process.exitcode < 0 else "could not start, see its error above"
            raise LostProcessError(
                f"The process {process.name} {why} (status {process.exitcode}): run again; finished chunks are kept."
            )


def _serve(device: str, work: Work, out: Folder, wanted: Any, told: Any) -> None:
    """The process of one device: chunks until there are no more."""
    die_with_parent()
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
