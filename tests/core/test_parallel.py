"""Processes: results, errors, deaths, and no orphan when the parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from datacomp_core.errors import DatacompError, DataError
from datacomp_core.parallel import prepared_map, process_map


def square(value: int) -> int:
    return value * value


def fail_at_three(value: int) -> int:
    if value == 3:
        raise DataError("three is broken")
    return value


def die(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return value


def no_model() -> int:
    raise DataError("no model here")


def add(prepared: int, value: int) -> int:
    return prepared + value


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_comes_back_once(workers: int) -> None:
    assert sorted(process_map(square, range(20), workers=workers)) == [(i, i * i) for i in range(20)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_is_raised_as_it_is(workers: int) -> None:
    with pytest.raises(DataError, match="three is broken"):
        list(process_map(fail_at_three, range(6), workers=workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_the_preparation_is_told_as_it_is(workers: int) -> None:
    with pytest.raises(DataError, match="no model here"):
        list(prepared_map(add, range(3), prepare=no_model, workers=workers))


def test_maps_in_threads_of_one_process_do_not_mix_what_was_prepared() -> None:
    first = prepared_map(add, range(5), prepare=partial(int, 100), workers=1)
    second = prepared_map(add, range(5), prepare=partial(int, 200), workers=1)
    pairs = [(a, b) for (_, a), (_, b) in zip(first, second, strict=True)]  # the two run in turn, item by item
    assert pairs == [(100 + i, 200 + i) for i in range(5)]


def test_a_killed_worker_is_one_sentence() -> None:
    with pytest.raises(DatacompError, match="worker process was killed"):
        list(process_map(die, range(3), workers=2))


def test_endless_items_are_taken_no_faster_than_they_are_done() -> None:
    taken: list[int] = []

    def items() -> object:
        for i in range(10**9):
            taken.append(i)
            yield i

    results = process_map(square, items(), workers=2)  # pyright: ignore
    next(results)
    assert len(taken) <= 4
    results.close()  # pyright: ignore


ORPHANS = """
import os, sys, time
from datacomp_core.parallel import prepared_map, process_map
def stay(value):
    open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
    time.sleep(600)
if __name__ == "__main__":
    list(process_map(stay, range(2), workers=2))
"""


def test_workers_die_with_a_killed_parent(tmp_path: Path) -> None:
    script, pids = tmp_path / "parent.py", tmp_path / "pids"
    pids.mkdir()
    script.write_text(ORPHANS)
    parent = subprocess.Popen([sys.executable, str(script), str(pids)])
    _until(lambda: len(list(pids.iterdir())) == 2)
    parent.kill()
    parent.wait()
    _until(lambda: not any(_lives(int(path.name)) for path in pids.iterdir()))


INTERRUPTED = """
import os, signal, sys, time
from pathlib import Path
ready = Path(sys.argv[1])
if __name__ != "__main__":  # a worker that imports
    (ready / str(os.getpid())).touch()
    time.sleep(3)
from datacomp_core.parallel import process_map
if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: (time.sleep(4), os._exit(130)))
    print(list(process_map(abs, range(4), workers=2)))
"""


def test_workers_that_still_import_say_nothing_of_an_interrupt(tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group; a worker imports for seconds before it can ignore it."""
    script, begun = tmp_path / "parent.py", tmp_path / "begun"
    begun.mkdir()
    script.write_text(INTERRUPTED)
    command = [sys.executable, str(script), str(begun)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    _until(lambda: len(list(begun.iterdir())) == 2)
    os.killpg(parent.pid, signal.SIGINT)
    told, _ = parent.communicate(timeout=60)
    assert parent.returncode == 130
    assert "Traceback" not in told
    assert "KeyboardInterrupt" not in told


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _until(condition: object, patience: float = 60) -> None:
    deadline = time.monotonic() + patience
    while not condition():  # pyright: ignore
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
