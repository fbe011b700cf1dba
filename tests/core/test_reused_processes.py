"""Worker processes serve one map after another; nothing of one map reaches the next."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from datacomp_core import reused_processes
from datacomp_core.errors import DatacompError, DataError
from datacomp_core.parallel import prepared_map, process_map


@pytest.fixture(autouse=True)
def kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, the processes of one map are there for the next."""
    monkeypatch.setattr(reused_processes, "IDLE_SECONDS", 600.0)


def pid_of(prepared: object, seconds: float) -> tuple[int, object]:
    time.sleep(seconds)
    return os.getpid(), prepared


def pids(number: int = 4, *, workers: int = 2, prepared: int = 0) -> set[int]:
    found = list(prepared_map(pid_of, [0.1] * number, prepare=partial(int, prepared), workers=workers))
    assert {one for _, (_, one) in found} == {prepared}
    return {pid for _, (pid, _) in found}


def in_environment(prepared: object, name: str) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get(name)


def count_preparations(path: Path) -> int:
    with path.open("a") as file:
        file.write(f"{os.getpid()}\n")
    return 7


def no_model() -> int:
    raise DataError("no model here")


def fail_at(bad: int, value: int) -> int:
    if value == bad:
        raise DataError("this one is broken")
    return os.getpid()


def die(value: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return value


def folder_of(value: int) -> str:
    return str(Path.cwd())


def test_the_next_map_has_the_same_processes_with_what_it_prepares() -> None:
    first = pids(prepared=1)
    assert len(first) == 2
    assert os.getpid() not in first
    assert [pids(prepared=prepared) for prepared in (2, 3)] == [first, first]


def test_a_map_prepares_each_process_once(tmp_path: Path) -> None:
    file = tmp_path / "prepared"
    for times in (1, 2):
        list(prepared_map(pid_of, [0.05] * 6, prepare=partial(count_preparations, file), workers=2))
        made = file.read_text().split()
        assert len(made) == len(set(made)) * times
        assert 1 <= len(set(made)) <= 2


def test_a_map_from_a_thread_that_has_ended_leaves_its_processes_to_the_next() -> None:
    """The kernel ends a process with the thread that started it."""
    found: list[set[int]] = []
    for _ in range(2):
        thread = threading.Thread(target=lambda: found.append(pids()))
        thread.start()
        thread.join()
    assert found[0] == found[1] == pids()


def test_two_maps_at_once_have_processes_of_their_own() -> None:
    one = prepared_map(pid_of, [0.0] * 6, prepare=partial(int, 1), workers=2)
    two = prepared_map(pid_of, [0.0] * 6, prepare=partial(int, 2), workers=2)
    pairs = [(a, b) for (_, a), (_, b) in zip(one, two, strict=True)]
    assert {a[1] for a, _ in pairs} == {1}
    assert {b[1] for _, b in pairs} == {2}
    assert not {a[0] for a, _ in pairs} & {b[0] for _, b in pairs}


def test_an_error_or_an_early_end_leaves_usable_processes() -> None:
    first = pids()
    with pytest.raises(DataError, match="this one is broken"):
        list(process_map(partial(fail_at, 2), range(8), workers=2))
    with pytest.raises(DataError, match="no model here"):
        list(prepared_map(pid_of, [0.0] * 4, prepare=no_model, workers=2))
    some: Iterator[object] = process_map(partial(fail_at, -1), range(100), workers=2)
    next(some)
    some.close()  # pyright: ignore
    assert pids() == first


def test_a_killed_process_ends_its_map_and_not_the_next_one() -> None:
    with pytest.raises(DatacompError, match="worker process was killed"):
        list(process_map(die, range(3), workers=2))
    found = pids()
    os.kill(next(iter(found)), signal.SIGKILL)  # while it waits for a map
    again = pids()
    assert len(again) == 2
    assert not found & again


def test_processes_of_another_environment_or_folder_are_not_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pids()
    monkeypatch.setenv("DATACOMP_DEVICE", "cpu")
    [(_, (pid, said))] = prepared_map(in_environment, ["DATACOMP_DEVICE"], prepare=int, workers=2)
    assert pid not in first
    assert said == "cpu"
    monkeypatch.chdir(tmp_path)
    assert [found for _, found in process_map(folder_of, [1], workers=2)] == [str(tmp_path.resolve())]


def test_processes_that_are_not_needed_end(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pids()
    monkeypatch.setattr(reused_processes, "IDLE_SECONDS", 0.05)
    pids(2, workers=3)  # the thread sees the new time when it has something to do
    deadline = time.monotonic() + 60
    while any(_lives(pid) for pid in found):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_too_large_to_be_sent_with_every_item_goes_to_new_processes() -> None:
    first = pids()
    large = bytes(2 * reused_processes.MAX_BYTES)
    assert not reused_processes.fits(partial(bytes, large))
    found = dict(prepared_map(pid_of, [0.0], prepare=partial(bytes, large), workers=2))
    [(pid, given)] = found.values()
    assert pid not in first
    assert given == large


def test_processes_that_hold_a_device_end_with_their_map() -> None:
    [(_, (pid, _))] = prepared_map(pid_of, [0.0], prepare=int, workers=2, processes="own")
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
