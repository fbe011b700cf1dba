"""What Kubernetes is given: manifests that kubectl takes, and jobs that run as containers as they are written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client import Api
from docker_engine import MARKS, PATIENCE, ROOT, Engine, of_trixie
from kubernetes_jobs import claim, container, discovery, job_of

pytestmark = MARKS
CLAIM = "datacomp-work"
MEMORY_GIB = 4


@pytest.fixture(scope="module")
def kubectl(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The client's command, over an API in the engine's network that knows the kinds and has no object."""
    program = shutil.which("kubectl") or str(of_trixie("kubectl", "kubectl"))
    home = tmp_path_factory.mktemp("kubectl")
    with discovery() as address:
        yield ["env", f"HOME={home}", program, "--server", address]


@pytest.fixture(scope="module")
def volume(docker: Engine) -> Iterator[str]:
    yield claim(docker, CLAIM, 1000)
    pods = docker.docker("ps", "--all", "--quiet", "--filter", f"volume={CLAIM}").split()
    if pods:
        docker.docker("rm", "--force", *pods)
    docker.docker("volume", "rm", "--force", CLAIM)


def applied(kubectl: list[str], file: Path) -> list[str]:
    """What `kubectl apply --dry-run=client` would make."""
    words = [*kubectl, "apply", "--dry-run=client", "--validate=false", "--filename", str(file)]
    ran = subprocess.run(words, env=os.environ, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_kubectl_takes_the_manifests_of_the_workers(kubectl: list[str], tmp_path: Path) -> None:
    manifests = ROOT / "deployments/kubernetes/workers.yaml"
    told = applied(kubectl, manifests)
    assert len(told) == manifests.read_text().count("\nkind: ")
    assert {line.partition(" ")[2] for line in told} == {"created (dry run)"}
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(manifests.read_text().replace("kind: Deployment", "kind: Deploiment"))
    with pytest.raises(AssertionError, match="Deploiment"):
        applied(kubectl, wrong)


def pending(api: Api, finished: str, seed: int) -> str:
    """A run of an experiment as Prefect's Kubernetes worker takes it over: no other worker will."""
    spec = {**api.run(finished)["parameters"]["spec"], "seed": seed}
    form = api.form("experiment/experiment-tiny")
    body = {"state": {"type": "PENDING"}, "parameters": {"spec": spec}}
    return api.call("POST", f"/deployments/{form['id']}/create_flow_run", body)["id"]


def manifest_of(api: Api, run: str, pool: str, tmp_path: Path, kubectl: list[str], **values: Any) -> dict[str, Any]:
    given = api.form("experiment/experiment-tiny")["job_variables"]
    job = {**values, "env": {**given.get("env", {}), **values.get("env", {})}, "memory_gib": MEMORY_GIB}
    manifest = job_of(api, run, pool, job)
    file = tmp_path / "job.json"
    file.write_text(json.dumps({**manifest, "metadata": {**manifest["metadata"], "name": "a-job"}}))
    assert applied(kubectl, file) == ["job.batch/a-job created (dry run)"]
    return manifest


def test_the_job_of_a_run_does_the_run_as_a_container(
    docker: Engine, stack_api: Api, finished: str, volume: str, kubectl: list[str], tmp_path: Path
) -> None:
    run = pending(stack_api, finished, 201)
    manifest = manifest_of(stack_api, run, "cpu", tmp_path, kubectl)
    docker.docker(*container(docker, manifest, volume, "experiment-x7k2p"))
    assert stack_api.run(run)["state"]["type"] == "COMPLETED"
    [limits] = json.loads(docker.docker("inspect", "experiment-x7k2p-0"))
    assert limits["HostConfig"]["Memory"] == MEMORY_GIB << 30


def test_an_indexed_job_trains_over_two_containers(
    docker: Engine, stack_api: Api, finished: str, volume: str, kubectl: list[str], tmp_path: Path
) -> None:
    run = pending(stack_api, finished, 202)
    cpu = {"DATACOMP_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
    manifest = manifest_of(stack_api, run, "gpu", tmp_path, kubectl, nodes=2, gpus=1, env=cpu)
    assert manifest["spec"]["completions"] == 2
    nodes = [container(docker, manifest, volume, "pair-x7k2p", index) for index in (0, 1)]
    started = [
        subprocess.Popen(["docker", *words], env=docker.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for words in nodes
    ]
    told = [node.communicate(timeout=PATIENCE)[0] for node in started]
    assert [node.returncode for node in started] == [0, 0], told
    assert stack_api.run(run)["state"]["type"] == "COMPLETED"
    assert "node 1 took part in 1 trainings that completed" in told[1]
