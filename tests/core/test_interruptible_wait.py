"""A wait hears of a signal that the kernel gave to another thread."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import signal, subprocess, sys, threading, time
from concurrent.futures import Future
from datacomp_core import interruptible_wait

never, given_up = Future(), threading.Event()
sleeper = subprocess.Popen(["sleep", "40"])

def elsewhere():
    time.sleep(1)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    time.sleep(30)
    print("the wait went on")
    given_up.set()
    never.set_result(None)
    sleeper.kill()

threading.Thread(target=elsewhere, daemon=True).start()
try:
    {wait}
except KeyboardInterrupt:
    print("interrupted")
finally:
    sleeper.kill()
"""


@pytest.mark.parametrize(
    "wait",
    [
        "interruptible_wait.wait_for_event(given_up)",
        "interruptible_wait.wait_for_first([never])",
        "interruptible_wait.wait_for_exit(sleeper)",
    ],
)
def test_a_signal_that_another_thread_gets_ends_it(wait: str) -> None:
    told = subprocess.run([sys.executable, "-c", SCRIPT.format(wait=wait)], capture_output=True, text=True, check=True)
    assert told.stdout == "interrupted\n"


def test_python_alone_would_wait_on() -> None:
    """What the waits are for: should a Python wake by itself one day, they can go."""
    script = SCRIPT.format(wait="given_up.wait()").replace("time.sleep(30)", "time.sleep(5)")
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("the wait went on\n")
