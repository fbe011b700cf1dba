"""Worker processes serve one map after another; nothing of one map reaches the next."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

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


def meet(prepared: object, place: tuple[str, int]) -> tuple[int, object]:
    """Wait until this number of processes of one map are here, so that each of them has an item."""
    folder, number = place
    Path(folder, str(os.getpid())).touch()
    _until(lambda: len(os.listdir(folder)) >= number)
    return os.getpid(), prepared


def pids(*, workers: int = 2, prepared: int = 0) -> set[int]:
    """The processes of one map, all of which have had an item."""
    with tempfile.TemporaryDirectory() as folder:
        found = list(prepared_map(meet, [(folder, workers)] * workers, prepare=partial(int, prepared), workers=workers))
    assert {one for _, (_, one) in found} == {prepared}
    assert len(found) == workers
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
    processes = pids()
    for number in range(2):
        file = tmp_path / f"prepared-{number}"
        found = list(prepared_map(pid_of, [0.05] * 6, prepare=partial(count_preparations, file), workers=2))
        made = [int(pid) for pid in file.read_text().split()]
        assert len(made) == len(set(made))
        assert set(made) == {pid for _, (pid, _) in found} <= processes


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
    killed = next(iter(found))
    os.kill(killed, signal.SIGKILL)  # while it waits for a map
    _until(lambda: not _lives(killed))
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
    pids(workers=3)  # the thread sees the new time when it has something to do
    _until(lambda: not any(_lives(pid) for pid in found))


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


def _map_in(path: Path) -> None:
    path.write_text(" ".join(map(str, sorted(pids()))))


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_process_of_multiprocessing_that_ran_a_map_ends_and_its_processes_too(method: str, tmp_path: Path) -> None:
    pids()  # of this process: a forked one has neither their thread nor them
    process: Any = multiprocessing.get_context(method).Process(target=_map_in, args=(tmp_path / "pids",))
    process.start()
    process.join(120)
    ended = process.exitcode
    process.kill()
    assert ended == 0
    assert not [pid for pid in map(int, (tmp_path / "pids").read_text().split()) if _lives(pid)]


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _until(condition: Callable[[], bool], patience: float = 120) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
