"""docker-compose.yml, the Dockerfile and the templates, read as what they are; `tests/stack` runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import kubernetes_validate
import pytest
import typer
import yaml
from stack import ROOT, SECRETS, compose

from datacomp_core.settings import Settings
from deployments.cli.main import app, register
from deployments.work_pools import POOLS, template

SECRET_NAMES = re.compile(r"PASSWORD|SECRET|AUTH|TOKEN|ACCESS_KEY")


def services() -> dict[str, Any]:
    return compose()["services"]


def test_every_secret_comes_from_the_environment() -> None:
    for name, service in services().items():
        for variable, value in service["environment"].items():
            if SECRET_NAMES.search(variable):
                assert re.fullmatch(r"\$\{\w+(:\?[^}]+)?\}", str(value)), f"{name}: {variable}"
    named = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    example = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / "deployments/docker/example.env").read_text(), re.M))
    assert named - {"STORE_IMAGE", "UI_PORT", "STORE_PORT"} == set(example)  # these have a default
    assert set(SECRETS) <= set(example)
    assert not [name for name, value in example.items() if re.search(r"PASSWORD|SECRET", name) and value]


def test_every_port_is_open_on_loopback_only() -> None:
    ports = [port for service in services().values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_is_waited_for_has_a_health_check() -> None:
    for name, service in services().items():
        for needed, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services()[needed], f"{name} waits for {needed}"
    assert {"database", "prefect", "store"} <= {name for name, service in services().items() if "healthcheck" in service}


def test_data_lie_in_named_volumes() -> None:
    declared = set(compose()["volumes"])
    used = {volume.partition(":")[0] for service in services().values() for volume in service.get("volumes", [])}
    assert used == declared


def test_every_worker_has_a_health_check_that_its_command_answers() -> None:
    for name in ("worker-cpu", "worker-gpu"):
        assert "--healthcheck" in services()[name]["command"]
        assert "127.0.0.1:8080/health" in " ".join(services()[name]["healthcheck"]["test"])


def test_images_of_others_have_a_version() -> None:
    for name in ("database", "store"):
        tag = re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", services()[name]["image"]).partition(":")[2]
        assert re.match(r"\d", tag), name


def test_the_gpu_worker_is_asked_for_by_its_profile() -> None:
    worker = services()["worker-gpu"]
    assert worker["profiles"] == ["gpu"]
    [device] = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert not [name for name, service in services().items() if name != "worker-gpu" and service.get("profiles")]


def test_settings_and_commands_are_ours() -> None:
    register()
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known = {f"DATACOMP_{name.upper()}" for name in Settings.model_fields}
    for service in services().values():
        assert {name for name in service["environment"] if name.startswith("DATACOMP_")} <= known
        if service.get("command", [""])[0] == "datacomp":
            assert service["command"][1] in commands
    assert {services()[f"worker-{pool.name}"]["command"][2] for pool in POOLS} == {pool.name for pool in POOLS}


def test_prefect_asks_for_a_password_and_tells_nobody() -> None:
    environment = services()["prefect"]["environment"]
    assert environment["PREFECT_SERVER_API_AUTH_STRING"] == "${PREFECT_AUTH}"
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert services()["worker-cpu"]["environment"]["PREFECT_API_AUTH_STRING"].startswith("${PREFECT_AUTH")


def test_the_image_has_all_packages_and_no_backport() -> None:
    dockerfile = (ROOT / "deployments/docker/Dockerfile").read_text()
    for package in ("datacomp_core", "tasks", "flows", "deployments"):
        assert f"COPY {package} {package}" in dockerfile
    assert "pip uninstall --python /opt/venv dataclasses" in dockerfile
    assert re.search(r"^USER (?!root)", dockerfile, re.M)


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
@pytest.mark.parametrize("pool", [pool.name for pool in POOLS])
def test_a_template_names_no_variable_that_it_does_not_declare(kind: Any, pool: str) -> None:
    made = template(kind, pool)
    used = set(re.findall(r"\{\{ *(\w+) *\}\}", json.dumps(made["job_configuration"])))
    assert used <= set(made["variables"]["properties"])
    assert {"gpus", "nodes", "memory_gib"} <= set(made["variables"]["properties"])


VALUES: dict[str, Any] = {"gpus": 8, "nodes": 4, "memory_gib": 512, "env": {"DATACOMP_GPU_DEPLOYMENT": ""}}


def job_of(kind: str, pool: str) -> Any:
    """What Prefect's own worker makes of a template for one run."""
    import asyncio

    from prefect.client.schemas.objects import FlowRun
    from prefect_docker.worker import DockerWorkerJobConfiguration
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    configuration = {"docker": DockerWorkerJobConfiguration, "kubernetes": KubernetesWorkerJobConfiguration}[kind]
    values = {name: value for name, value in VALUES.items() if pool == "gpu" or name not in ("gpus", "nodes")}

    async def made() -> Any:
        job = await configuration.from_template_and_values(template(kind, pool), values)  # pyright: ignore
        job.prepare_for_flow_run(FlowRun(id=uuid4(), flow_id=uuid4(), name="checkpoints-no filter"))
        return job

    return asyncio.run(made())


@pytest.mark.usefixtures("prefect_server")
def test_a_kubernetes_run_is_a_pod_a_node_and_they_meet_by_name() -> None:
    manifest = job_of("kubernetes", "gpu").job_manifest
    job, pod = manifest["spec"], manifest["spec"]["template"]
    assert (job["completionMode"], job["completions"], job["parallelism"], job["backoffLimit"]) == ("Indexed", 4, 4, 0)
    [container] = pod["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "512Gi", "nvidia.com/gpu": 8}
    documents = list(yaml.safe_load_all((ROOT / "deployments/kubernetes/workers.yaml").read_text()))
    [service] = [document for document in documents if document["kind"] == "Service"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == pod["spec"]["subdomain"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    told = told_by([*container["command"], *container["args"]], HOSTNAME="no-filter-x7k2p-3", JOB_COMPLETION_INDEX="3")
    assert told == {
        "--nodes": "4",
        "--node": "3",
        "--processes": "8",
        "--run-id": "no-filter-x7k2p",
        "--rendezvous": "no-filter-x7k2p-0.datacomp-nodes:29500",
        "--": "prefect flow-run execute",
    }


def valid(manifest: Any) -> None:
    """Raises unless the manifest fits the schemas of the API, and has no field that they do not know."""
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_the_manifests_of_the_workers_fit_the_schemas_of_kubernetes() -> None:
    documents = list(yaml.safe_load_all((ROOT / "deployments/kubernetes/workers.yaml").read_text()))
    for document in documents:
        valid(document)
    [wrong] = [document for document in documents if document["metadata"]["name"] == "datacomp-worker-cpu"]
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(wrong)


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("pool", [pool.name for pool in POOLS])
def test_the_job_of_a_run_fits_the_schemas_of_kubernetes(pool: str) -> None:
    manifest = job_of("kubernetes", pool).job_manifest
    for name in ("completions", "parallelism"):  # Prefect's worker wants them in the pod too; the API warns and leaves them out
        manifest["spec"]["template"]["spec"].pop(name)
    valid(manifest)


@pytest.mark.usefixtures("prefect_server")
def test_pods_are_the_user_of_the_image_and_may_write_into_their_claim() -> None:
    documents = list(yaml.safe_load_all((ROOT / "deployments/kubernetes/workers.yaml").read_text()))
    workers = [document["spec"]["template"]["spec"] for document in documents if document["kind"] == "Deployment"]
    runs = [job_of("kubernetes", pool.name).job_manifest["spec"]["template"]["spec"] for pool in POOLS]
    [user] = re.findall(r"useradd .*--uid (\d+)", (ROOT / "deployments/docker/Dockerfile").read_text())
    for pod in workers + runs:
        rights = pod["securityContext"]
        assert (rights["runAsNonRoot"], rights["runAsUser"], rights["runAsGroup"]) == (True, int(user), int(user))
        assert pod["containers"][0]["securityContext"] == {"allowPrivilegeEscalation": False}
    assert all(pod["securityContext"]["fsGroup"] == int(user) for pod in runs)


@pytest.mark.usefixtures("prefect_server")
def test_other_runs_in_containers_are_the_flow_run_alone() -> None:
    cpu = job_of("kubernetes", "cpu").job_manifest["spec"]["template"]["spec"]["containers"][0]
    assert "command" not in cpu
    assert cpu["args"] == ["prefect", "flow-run", "execute"]
    gpu = job_of("docker", "gpu")
    assert gpu.container_create_kwargs["device_requests"][0]["Count"] == 8
    told = told_by([*gpu.container_create_kwargs["entrypoint"], *gpu.command.split()])
    assert told == {"--processes": "8", "--": "prefect flow-run execute"}
    assert job_of("docker", "cpu").command == "prefect flow-run execute"


def told_by(command: list[str], **environment: str) -> dict[str, str]:
    """What the command of a container asks of `datacomp node`; each option is one that it has."""
    with TemporaryDirectory() as folder:
        teller = Path(folder) / "datacomp"
        teller.write_text('#!/bin/sh\nshift\nfor word; do echo "$word"; done\n')
        teller.chmod(0o755)
        own = {"PATH": f"{folder}:{os.environ['PATH']}", **environment}
        words = subprocess.run(command, env=own, capture_output=True, text=True, check=True).stdout.splitlines()
    cut = words.index("--")
    told = dict(word.split("=", 1) for word in words[:cut])
    register()
    known: Any = typer.main.get_command(app)
    assert set(told) <= {option for parameter in known.commands["node"].params for option in parameter.opts}
    return {**told, "--": " ".join(words[cut + 1 :])}


def test_kubernetes_workers_may_start_jobs_and_nothing_else() -> None:
    documents = list(yaml.safe_load_all((ROOT / "deployments/kubernetes/workers.yaml").read_text()))
    [role] = [document for document in documents if document["kind"] == "Role"]
    writes = {resource for rule in role["rules"] if {"create", "delete"} & set(rule["verbs"]) for resource in rule["resources"]}
    assert writes == {"jobs"}
    pools = {d["spec"]["template"]["spec"]["containers"][0]["command"][4] for d in documents if d["kind"] == "Deployment"}
    assert pools == {pool.name for pool in POOLS}


@pytest.mark.parametrize("script", sorted((ROOT / "deployments/slurm").glob("*.sbatch")), ids=lambda path: path.name)
def test_slurm_scripts_are_valid_shell_and_drain(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert re.search(r"^#SBATCH --signal=(B:)?TERM@", script.read_text(), re.M)


@pytest.mark.slow
def test_an_element_of_the_slurm_array_brings_a_worker_for_each_gpu_to_a_dask_cluster() -> None:
    import distributed

    with distributed.LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster, distributed.Client(cluster) as client:
        slurm = {"SLURM_GPUS_ON_NODE": "2", "SLURM_CPUS_PER_TASK": "6", "DATACOMP_STORE": "s3://bucket/store"}
        environment = {name: value for name, value in os.environ.items() if name not in ("CUDA_VISIBLE_DEVICES", "RAY_ADDRESS")}
        path = f"{Path(sys.executable).parent}:{environment['PATH']}"
        element = subprocess.Popen(
            ["bash", str(ROOT / "deployments/slurm/engine-worker.sbatch")],
            env={**environment, **slurm, "PATH": path, "DASK_SCHEDULER_ADDRESS": cluster.scheduler_address},
        )
        try:
            client.wait_for_workers(2, timeout=120)
            found = client.scheduler_info(n_workers=-1)["workers"].values()
            assert [worker["resources"] for worker in found] == [{"GPU": 1}] * 2
            seen = client.run(lambda: (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["DATACOMP_WORKERS"]))
            assert sorted(seen.values()) == [("0", "3"), ("1", "3")]
        finally:
            element.terminate()
            assert element.wait(60) is not None
