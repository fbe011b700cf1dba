"""Trainings over two "nodes" of this machine: under `datacomp node` alone, and as a run of the pool `gpu` under a real Slurm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
from client import Api
from conftest import free_port
from processes import wait_until_gone
from stack import ROOT, SECRETS, started, wait_for

sys.path.append(str(ROOT / "tests/core/training"))
from training_world import NoiseSpec, noise, recipe, store_at

from datacomp_core.artifacts import Checkpoint
from datacomp_core.store import Store
from datacomp_core.training.spec import TrainSpec
from datacomp_core.training.train import train
from tasks.remote import key, packed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SPEC = TrainSpec(recipe=recipe(train_num_samples=96))
DATACOMP = str(Path(sys.executable).with_name("datacomp"))


def weights(store: Store, made: Checkpoint) -> bytes:
    return store.folder(made).read("checkpoint.safetensors")


def as_two_ranks(folder: Path) -> bytes:
    store = store_at(folder)
    return weights(store, train(SPEC, (noise(NoiseSpec(), store=store),), store=store, device="cpu", processes=2, threads=1))


def test_a_command_under_datacomp_node_trains_on_all_nodes(tmp_path: Path) -> None:
    store, port = store_at(tmp_path), free_port()
    shards = noise(NoiseSpec(), store=store)
    command = [sys.executable, str(ROOT / "tests/core/training/train_once.py"), store.root.url, SPEC.model_dump_json()]
    own = {**os.environ, "PYTHONPATH": str(ROOT), "DATACOMP_STORE": store.root.url, "DATACOMP_DEVICE": "cpu"}
    meet = ["--nodes", "2", "--rendezvous", f"127.0.0.1:{port}", "--run-id", "pair"]
    nodes = [
        subprocess.Popen([DATACOMP, "node", "--node", str(n), *meet, "--", *command], env=own, stderr=subprocess.PIPE, text=True)
        for n in (0, 1)
    ]
    told = [node.communicate(timeout=600)[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], told
    assert "node 1 took part in 1 trainings that completed" in told[1]
    made = train.plan(SPEC, (shards,), store=store).artifact
    assert made is not None
    assert weights(store, made) == as_two_ranks(tmp_path / "calm")


def test_the_first_node_passes_stops_on_and_tells_its_commands_status(tmp_path: Path) -> None:
    own = {**os.environ, "PYTHONPATH": str(ROOT), "DATACOMP_STORE": str(tmp_path / "store")}
    meet = ["--nodes", "2", "--rendezvous", "127.0.0.1:1", "--run-id", "alone"]
    for script, status in (("exit 7", 7), ("trap 'exit 9' TERM; kill -TERM $PPID; sleep 60 & wait", 9), ("kill -9 $$", 137)):
        ran = subprocess.run([DATACOMP, "node", *meet, "--", "bash", "-c", script], env=own, check=False, timeout=120)
        assert ran.returncode == status
    wrong = subprocess.run([DATACOMP, "node", *meet, "--", "no-such"], env=own, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr == "error: This node has no command 'no-such': install it or correct its name.\n"


@pytest.mark.skipif(not slurm_cluster.HERE, reason="needs Debian's slurm-wlm, and root")
def test_a_worker_under_slurm_trains_on_all_nodes_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(tmp_path / "stack", "tiny") as stack, slurm_cluster.two_nodes(tmp_path / "slurm") as cluster:
        for name, value in stack.environment.items():
            monkeypatch.setenv(name, value)
        store = Store.open(stack.environment["DATACOMP_STORE"])
        shards = noise(NoiseSpec(), store=store)
        home = str(tmp_path / "shared")
        own = {
            **os.environ,
            **stack.environment,
            **cluster,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DATACOMP_HOME": home,
            "DATACOMP_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            "DATACOMP_RENDEZVOUS": f"127.0.0.1:{free_port()}",
        }
        log = tmp_path / "job.log"
        asked = ["--nodes=2", "--gpus-per-node=0", "--cpus-per-task=2", f"--output={log}"]
        script = str(ROOT / "deployments/slurm/gpu-worker.sbatch")
        subprocess.run(["sbatch", *asked, script], env=own, cwd=tmp_path, check=True)
        api = Api(stack.api, SECRETS["PREFECT_AUTH"])
        step: dict[str, Any] = {"step": key(train), "identity": packed((SPEC, (shards,)))}
        ended = api.wait(api.start("gpu-step/gpu-step-tiny", step), 900)
        assert ended["state"]["type"] == "COMPLETED", (ended["state"], log.read_text())
        made = train.plan(SPEC, (shards,), store=store).artifact
        assert made is not None
        record = store.folder(made).read_json("training.json")
        assert record["machine"]["world_size"] == 2
        assert record["layout"]["run_id"].startswith("slurm-")
        subprocess.run(["scancel", "--batch", "--signal=TERM", "--name=datacomp-gpu"], env=own, check=True)
        wait_for(lambda: "took part in 1 trainings that completed" in log.read_text(), 120, "the end of the second node")
        wait_for(lambda: not subprocess.check_output(["squeue", "-h"], env=own), 120, "the end of the job")
        assert wait_until_gone(home) == []
        assert "SIGKILL" not in log.read_text(), "the worker was asked once, and drained"
        theirs = weights(store, made)
    assert theirs == as_two_ranks(tmp_path / "calm")
