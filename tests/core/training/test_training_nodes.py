"""Ranks on several nodes, ranks that are replaced, ranks that crash, and a machine that is lost: whole trainings on a CPU."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import free_port
from training_world import NoiseSpec, noise, ranks, reach, recipe, run_folder, start, store_at, training, wait_for

from datacomp_core.artifacts import Checkpoint, ShardSet
from datacomp_core.clip import state_dict
from datacomp_core.errors import DatacompError, LostProcessError, SpecError
from datacomp_core.store import Store
from datacomp_core.training import nodes
from datacomp_core.training.arguments import RuntimeOptions
from datacomp_core.training.job import Failure, RankJob, first_failure
from datacomp_core.training.launch import NoMemoryError, TorchrunLayout, _reason  # pyright: ignore[reportPrivateUsage]
from datacomp_core.training.nodes import join
from datacomp_core.training.spec import TrainSpec
from datacomp_core.training.train import train

SPEC = training(train_num_samples=96)


def weights(store: Store, made: Checkpoint, tmp_path: Path) -> dict[str, Any]:
    copy = tmp_path / "weights.pt"
    copy.write_bytes(store.folder(made).read("checkpoint.pt"))
    return state_dict(copy, made.model)


def undisturbed(tmp_path: Path, processes: int) -> dict[str, Any]:
    store = store_at(tmp_path / "calm")
    made = train(SPEC, (noise(NoiseSpec(), store=store),), store=store, device="cpu", processes=processes, threads=1)
    return weights(store, made, tmp_path)


def same(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in theirs)


def built(store: Store, spec: TrainSpec, shards: ShardSet) -> Checkpoint:
    """The checkpoint that another process has made; nothing is trained here."""
    planned = train.plan(spec, (shards,), store=store)
    assert planned.artifact is not None
    return planned.artifact


def two_nodes(port: int, **more: Any) -> list[TorchrunLayout]:
    """Two "nodes" of one process each, on this machine."""
    return [TorchrunLayout(nodes=2, node=n, rendezvous=f"127.0.0.1:{port}", run_id="pair", threads=1, **more) for n in (0, 1)]


@pytest.mark.slow
def test_two_nodes_meet_and_train_what_two_ranks_of_one_node_train(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    shards = noise(NoiseSpec(), store=store)
    nodes = [start(store, SPEC, layout) for layout in two_nodes(free_port())]
    for node in nodes:
        _, told = node.communicate(timeout=300)
        assert node.returncode == 0, told.decode()
    assert not store.root.files(".json") or not any(name.startswith("_trainings/") for name in store.root.files())
    assert same(weights(store, built(store, SPEC, shards), tmp_path), undisturbed(tmp_path, 2))


@pytest.mark.slow
def test_a_node_that_dies_ends_the_other_within_a_minute(tmp_path: Path) -> None:
    store, spec = store_at(tmp_path), training(train_num_samples=4000)
    nodes = [start(store, spec, layout) for layout in two_nodes(free_port())]
    folder = reach(nodes[0], lambda: run_folder(store), 3)
    nodes[1].kill()
    _, told = nodes[0].communicate(timeout=60)
    assert nodes[0].returncode != 0
    assert b"LostProcessError" in told or b"DatacompError" in told
    wait_for(lambda: not ranks(folder), 60)


@pytest.mark.slow
def test_a_rank_that_is_replaced_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    """An elastic restart: torchrun starts the ranks again, in one call of `train`, and the same bits come out."""
    store = store_at(tmp_path)
    shards = noise(NoiseSpec(), store=store)
    started = start(store, SPEC, TorchrunLayout(processes=2, restarts=1, threads=1))
    folder = reach(started, lambda: run_folder(store), 4)
    os.kill(ranks(folder)[-1], signal.SIGKILL)
    _, told = started.communicate(timeout=300)
    assert started.returncode == 0, told.decode()
    assert same(weights(store, built(store, SPEC, shards), tmp_path), undisturbed(tmp_path, 2))


@pytest.mark.slow
def test_a_rank_that_crashes_ends_the_run_with_its_traceback(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    started = start(store, training(train_num_samples=4000), TorchrunLayout(processes=2, threads=1))
    folder = reach(started, lambda: run_folder(store), 2)
    (folder / "run" / "checkpoints").rename(tmp_path / "gone")  # rank 0 cannot save any more
    _, told = started.communicate(timeout=60)
    assert b"Rank 0 of the training failed: " in told
    assert b"saving.py" in told
    assert b"in save" in told
    wait_for(lambda: not ranks(folder), 60)


@pytest.mark.slow
@pytest.mark.s3
def test_a_lost_machine_is_replaced_by_another_that_goes_on_from_the_bucket(tmp_path: Path, s3_url: str) -> None:
    store = Store.open(s3_url)
    shards = noise(NoiseSpec(), store=store)
    spec = training(train_num_samples=400)
    first = tmp_path / "first"
    started = start(store, spec, TorchrunLayout(threads=1), DATACOMP_HOME=str(first))
    reach(started, lambda: next(iter(first.glob("training/*")), None), 6)
    wait_for(lambda: any(name.endswith("resume/latest.json") for name in store.root.files()))
    started.kill()
    started.wait(60)
    shutil.rmtree(first)
    made = train(spec, (shards,), store=store, device="cpu", threads=1)
    log = store.folder(made).read("out.log").decode()
    assert "resuming checkpoint" in log
    steps = [line for line in store.folder(made).read("history.jsonl").splitlines() if line]
    assert len(steps) == spec.steps, "the history is whole, although it began elsewhere"
    assert set(store.folder(made).files()) == {
        *("checkpoint.pt", "checkpoint.safetensors", "training.json", "history.jsonl", "out.log", "curve.svg"),
        "preflight.parquet",
    }
    calm = store_at(tmp_path / "calm")
    again = train(spec, (noise(NoiseSpec(), store=calm),), store=calm, device="cpu", threads=1)
    assert same(weights(store, made, tmp_path), weights(calm, again, tmp_path))


@pytest.mark.slow
def test_a_debug_shaped_model_trains_on_two_ranks_and_reports_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    store = store_at(tmp_path)
    spec = TrainSpec(recipe=recipe(model="ViT-B-32", batch_size=8, train_num_samples=24, num_checkpoints=1))
    made = train(
        spec,
        (noise(NoiseSpec(), store=store),),
        store=store,
        device="cpu",
        processes=2,
        threads=1,
        report_to=("tensorboard", "wandb"),
        checkpointing="on",
    )
    names = store.folder(made).files()
    assert any(name.startswith("tensorboard/events") for name in names)
    assert len(store.folder(made).read("history.jsonl").splitlines()) == 3
    assert b"custom-seed0-" in b"".join(store.folder(made).read(name) for name in names if "wandb" in name)


def test_what_cannot_be_is_said_at_once(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    with pytest.raises(ValueError, match="a rendezvous"):
        TorchrunLayout(nodes=2)
    with pytest.raises(ValueError, match="no node 2 among 2"):
        TorchrunLayout(nodes=2, node=2, rendezvous="here:1")
    node = two_nodes(1)[1]
    with pytest.raises(SpecError, match="Node 1 joins a training that node 0 runs"):
        train(SPEC, (noise(NoiseSpec(), store=store),), store=store, device="cpu", layout=node)
    with pytest.raises(DatacompError, match="This node found no training 'pair' within 0 s"):
        join(store, node, wait_seconds=0.0)
    with pytest.raises(SpecError, match="Node 0 runs the training itself"):
        join(store, two_nodes(1)[0])


def failed(tmp_path: Path, kind: str, trace: str, log: str, machine: RuntimeOptions | None = None) -> DatacompError:
    """The error made of what the ranks left behind."""
    job = RankJob(spec=SPEC, machine=machine or RuntimeOptions(), sources=(), folder=str(tmp_path))
    failure = Failure(rank=1, time=1.0, kind=kind, message="told", trace=trace)
    (tmp_path / "failure-rank1.json").write_text(failure.model_dump_json())
    (tmp_path / "ranks.log").write_text(log)
    assert first_failure(tmp_path) == failure
    return _reason(job, 1, tmp_path / "ranks.log", 0)


def test_out_of_memory_names_what_would_fit(tmp_path: Path) -> None:
    problem = failed(tmp_path, "OutOfMemoryError", "", "", RuntimeOptions(device="cuda", checkpointing="off", accumulation=2))
    assert isinstance(problem, NoMemoryError)
    assert "is too small for 4 samples per process: use accumulation 4, or gradient checkpointing" in str(problem)


def test_a_killed_rank_is_told_from_its_peers_complaint(tmp_path: Path) -> None:
    told = failed(tmp_path, "RuntimeError", "gloo: Connection closed by peer", "exitcode: -9")
    assert isinstance(told, LostProcessError)
    told = failed(tmp_path, "RuntimeError", "gloo: Connection closed by peer", "  exitcode  : -9 (pid: 77)\n")
    assert isinstance(told, LostProcessError)
    own = failed(tmp_path, "RuntimeError", "in ProcessGroupNCCL", "host : gpu-node-9\nexitcode  : 1 (pid: 8)\nerror_file: /a--9b")
    assert "Rank 1 of the training failed: RuntimeError: told" in str(own)
    own = failed(tmp_path, "ZeroDivisionError", "line 3, in step", "exitcode: 1")
    assert "Rank 1 of the training failed: ZeroDivisionError: told\nline 3, in step" in str(own)


def test_a_node_that_does_not_see_the_run_folder_of_node_0_says_so_at_once_on_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the other node has a folder of that name on a disk of its own."""
    monkeypatch.setattr(nodes, "MOUNT_TRIES", 1)
    monkeypatch.setattr(nodes, "POLL_SECONDS", 0.1)
    monkeypatch.setattr(nodes, "BEAT_SECONDS", 0.1)
    store, folder = store_at(tmp_path), tmp_path / "run"
    folder.mkdir()
    first, second = two_nodes(free_port())
    with nodes.announce_run(store, first, folder) as others:
        others()
        folder.rename(tmp_path / "on-another-disk")
        folder.mkdir()
        with pytest.raises(SpecError, match=r"does not see .*/run, the run folder of node 0: .* share a disk"):
            join(store, second, wait_seconds=60)
        heard: list[SpecError] = []

        def told() -> bool:
            try:
                others()
            except SpecError as problem:
                heard.append(problem)
            return bool(heard)

        wait_for(told)
        assert re.search(r"Another node cannot take part in this training. The machine .* does not see .*/run", str(heard[0]))
    with nodes.announce_run(store, first, folder) as others:
        time.sleep(1)
        others()  # what was said about the one before does not count
    assert not [name for name in store.root.files() if name.startswith("_trainings")]


def test_a_rank_whose_launcher_is_gone_ends_at_once(tmp_path: Path) -> None:
    """The launcher may die before its rank asks the kernel to die with it; then the rank would wait for the others."""
    command = [sys.executable, "-m", "datacomp_core.training.worker", str(tmp_path)]
    gone = {"DATACOMP_LAUNCHER": "1", "TORCHELASTIC_RUN_ID": "x", "RANK": "0"}
    ended = subprocess.run(command, env=os.environ | gone, capture_output=True, timeout=300)
    assert (ended.returncode, ended.stderr, list(tmp_path.iterdir())) == (1, b"", [])
