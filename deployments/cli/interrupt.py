"""Ends this process and everything it started within a few seconds of Ctrl-C. Finished work is kept, and the rest resumes.

Python's default would wait for every thread, and a training thread waits for its training.
"""

from __future__ import annotations

import contextvars
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

from deployments.cli import terminal

PATIENCE_SECONDS = 3
INTERRUPTED = 130


@contextmanager
def exits_at_interrupt() -> Generator[None]:
    """In this block an interrupt tells the server, then ends the process; children die with it (PR_SET_PDEATHSIG)."""
    before = signal.signal(signal.SIGINT, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop(number: int, frame: object) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C does not wait for anything
    for console in (terminal.out, terminal.notes):
        console.show_cursor()
    terminal.notes.print("\ninterrupted: run the same command again to resume")
    from flows.task_calls import cancel_running

    # A thread starts with its own context, in which prefect knows no server and would start one that outlives this process.
    telling = threading.Thread(target=contextvars.copy_context().run, args=(cancel_running,), daemon=True)
    telling.start()
    telling.join(PATIENCE_SECONDS)
    os._exit(INTERRUPTED)
