"""The GPUs of a machine: one holder at a time, among threads and among processes, and given back by a killed one."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from tasks.concurrency import the_gpus

HOLD = """
import sys, time
from pathlib import Path
from tasks.concurrency import the_gpus
with the_gpus(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_killed_process_gives_the_gpus_back(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "gpu"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    entered = threading.Event()

    def enter() -> None:
        with the_gpus(lock):
            entered.set()

    thread = threading.Thread(target=enter)
    thread.start()
    time.sleep(0.3)
    assert not entered.is_set()
    holder.kill()
    holder.wait()
    thread.join(20)
    assert entered.is_set()


def test_threads_of_one_process_take_turns(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with the_gpus(tmp_path / "gpu"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.05)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1, 1]
