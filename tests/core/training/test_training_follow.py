"""What nodes say to one another through the store: who waits for whom, and for how long."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from training_world import store_at, training

from datacomp_core.errors import DatacompError, SpecError
from datacomp_core.training import nodes
from datacomp_core.training.arguments import RuntimeOptions
from datacomp_core.training.job import JOB, RankJob
from datacomp_core.training.launch import TorchrunLayout, command
from datacomp_core.training.nodes import announce_node_0, announce_run, follow, join

PAIR = [TorchrunLayout(nodes=2, node=n, rendezvous="127.0.0.1:1", run_id="pair", threads=1) for n in (0, 1)]


def job(folder: Path, launch: str, world_size: int = 2) -> RankJob:
    made = RankJob(spec=training(), machine=RuntimeOptions(world_size=world_size), sources=(), folder=str(folder), launch=launch)
    (folder / JOB).write_text(made.model_dump_json())
    return made


def test_a_node_waits_for_the_first_and_leaves_with_it(tmp_path: Path) -> None:
    store, joined = store_at(tmp_path), list[int]()
    waiting = threading.Thread(target=lambda: joined.append(follow(store, PAIR[1])))
    waiting.start()
    with announce_node_0(store, PAIR[0]):
        time.sleep(2.5)
        assert waiting.is_alive()
    waiting.join(30)
    assert joined == [0]
    assert not [name for name in store.root.files() if name.startswith("_trainings")]


def test_a_node_that_is_told_to_stop_leaves(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    assert follow(store, PAIR[1], ended=lambda: True) == 0
    with announce_node_0(store, PAIR[0]):
        assert follow(store, PAIR[1], ended=lambda: True) == 0


def test_a_first_node_that_never_comes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatacompError, match="Node 0 of 'pair' did not appear"):
        follow(store_at(tmp_path), PAIR[1], wait_seconds=0.0)
    with pytest.raises(SpecError, match="Node 0 runs the training itself"):
        follow(store_at(tmp_path), PAIR[0])


def test_a_first_node_that_falls_silent_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill -9: what it said stays in the store, and is not renewed."""
    monkeypatch.setattr(nodes, "SILENCE_SECONDS", 4.0)
    store = store_at(tmp_path)
    store.root.write_json("_trainings/pair/node0.json", {"nodes": 2, "beat": 7})
    assert follow(store, PAIR[1]) == 0


def test_nodes_that_were_told_of_other_numbers_say_so(tmp_path: Path) -> None:
    store, folder, problems = store_at(tmp_path), tmp_path / "run", list[Exception]()
    folder.mkdir()

    def part() -> None:
        try:
            join(store, PAIR[1])
        except DatacompError as problem:
            problems.append(problem)

    with announce_run(store, PAIR[0], folder):
        job(folder, "first", world_size=16)
        joining = threading.Thread(target=part)
        joining.start()
        time.sleep(2.5)
    joining.join(30)
    assert "has 16 processes in total, but this node expects 2" in str(problems[0])


def test_two_launches_of_a_training_never_meet(tmp_path: Path) -> None:
    """A node that is late in a launch that is over waits elsewhere than those of the next; node 0 is the host."""
    first, second = (command(job(tmp_path, launch), PAIR[0]) for launch in ("a", "b"))
    assert first[first.index("--rdzv-id") + 1] != second[second.index("--rdzv-id") + 1]
    assert ["is_host=1" in command(job(tmp_path, "a"), layout) for layout in PAIR] == [True, False]
