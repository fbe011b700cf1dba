"""docker-compose.yml, the Dockerfile and the templates, read as what they are: nothing on our machines can run them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
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
    assert named - {"STORE_IMAGE"} == set(example)
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
    assert "pip uninstall -y dataclasses" in dockerfile
    assert re.search(r"^USER (?!root)", dockerfile, re.M)


@pytest.mark.parametrize("kind", ["process", "docker", "kubernetes"])
@pytest.mark.parametrize("pool", [pool.name for pool in POOLS])
def test_a_template_names_no_variable_that_it_does_not_declare(kind: Any, pool: str) -> None:
    made = template(kind, pool)
    used = set(re.findall(r"\{\{ *(\w+) *\}\}", json.dumps(made["job_configuration"])))
    assert used <= set(made["variables"]["properties"])
    assert {"gpus", "nodes", "memory_gib"} <= set(made["variables"]["properties"])


def test_kubernetes_workers_may_start_jobs_and_nothing_else() -> None:
    documents = list(yaml.safe_load_all((ROOT / "deployments/kubernetes/workers.yaml").read_text()))
    [role] = [document for document in documents if document["kind"] == "Role"]
    writes = {resource for rule in role["rules"] if {"create", "delete"} & set(rule["verbs"]) for resource in rule["resources"]}
    assert writes == {"jobs"}
    pools = {d["spec"]["template"]["spec"]["containers"][0]["command"][4] for d in documents if d["kind"] == "Deployment"}
    assert pools == {pool.name for pool in POOLS}


@pytest.mark.parametrize("script", sorted((ROOT / "deployments/slurm").glob("*.sbatch")), ids=lambda path: path.name)
def test_slurm_scripts_are_valid_shell_and_drain(script: Path) -> None:
    import subprocess

    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "#SBATCH --signal=B:TERM@" in script.read_text()
