"""docker-compose.yml as it is, in a Docker engine: the image is made, services come up, runs are started, services are killed."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from client import Api
from docker_engine import PORTS, Engine, engine, missing
from stack import SECRETS, wait_for

pytestmark = [
    pytest.mark.stack,
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]
PAGE = f"http://127.0.0.1:{PORTS['UI_PORT']}"
PATIENCE = 3600
SERVICES = ("database", "store", "prefect", "worker-cpu")


@pytest.fixture(scope="module")
def docker() -> Iterator[Engine]:
    with engine(SECRETS) as made:
        made.compose("build", "prefect")
        made.compose("down", "--volumes")
        made.compose("up", "--detach", "--no-build")
        wait_for(lambda: made.health("worker-cpu") == "healthy", PATIENCE, "the stack")
        yield made
        made.compose("down", "--volumes")


@pytest.fixture(scope="module")
def api(docker: Engine) -> Api:
    return Api(f"{PAGE}/api", SECRETS["PREFECT_AUTH"])


@pytest.fixture(scope="module")
def finished(docker: Engine, api: Api) -> str:
    """A run of experiment/tiny that is done."""
    run = api.start("experiment/experiment-tiny")
    assert api.wait(run, PATIENCE)["state"]["type"] == "COMPLETED", docker.compose("logs", "--tail", "60")
    return run


def inside(docker: Engine, service: str, command: str) -> str:
    return docker.compose("exec", "-T", service, "sh", "-c", command)


def test_every_service_is_healthy_and_setup_ended_well(docker: Engine) -> None:
    assert {name: docker.health(name) for name in SERVICES} == dict.fromkeys(SERVICES, "healthy")
    assert docker.health("setup") == "exited"
    assert '"ExitCode":0' in docker.compose("ps", "--all", "--format", "json", "setup").replace(" ", "")


def test_the_page_is_there_and_asks_for_the_password(docker: Engine) -> None:
    with urllib.request.urlopen(PAGE, timeout=60) as answer:
        assert b"Prefect" in answer.read()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        Api(f"{PAGE}/api", "admin:wrong").runs()


def test_containers_run_as_a_user_that_owns_its_volume_and_have_no_compiler(docker: Engine) -> None:
    assert inside(docker, "worker-cpu", "id -un; stat -c %U /var/lib/datacomp").split() == ["datacomp", "datacomp"]
    assert inside(docker, "worker-cpu", "command -v gcc cc make git || true") == ""


def test_torch_trains_in_the_image_without_the_libraries_that_were_removed(docker: Engine) -> None:
    code = (
        "import torch, torchvision; torch.nn.Conv2d(3, 4, 3)(torch.ones(1, 3, 8, 8)).sum().backward(); print(torch.__version__)"
    )
    assert inside(docker, "worker-cpu", f"python -c '{code}'").startswith("2.")


def test_a_second_run_reuses_every_step(api: Api, finished: str) -> None:
    again = api.start("experiment/experiment-tiny", api.run(finished)["parameters"])
    assert api.wait(again, PATIENCE)["state"]["type"] == "COMPLETED"
    statuses = [str(one["data"]) for one in api.artifacts(again) if one["type"] == "table" and "status" in str(one["data"])]
    assert statuses
    assert all("reused: built before" in status for status in statuses)


@pytest.mark.parametrize(("service", "seconds"), [("worker-cpu", 0), ("store", 5), ("database", 60), ("prefect", 100)])
def test_a_service_that_is_killed_in_mid_training_costs_no_run(
    docker: Engine, api: Api, finished: str, service: str, seconds: float
) -> None:
    spec = {**api.run(finished)["parameters"]["spec"], "seed": 100 + SERVICES.index(service)}
    run = api.start("experiment/experiment-tiny", {"spec": spec})
    mark = "ps -eo args 2>/dev/null || cat /proc/[0-9]*/cmdline"
    wait_for(lambda: "training.worker" in inside(docker, "worker-cpu", mark), PATIENCE, "the training")
    docker.compose("kill", "--signal", "SIGKILL", service)
    time.sleep(seconds)
    docker.compose("up", "--detach", "--no-build")  # `setup` too, as after a reboot
    ended = api.wait(run, PATIENCE)
    assert ended["state"]["type"] == "COMPLETED", docker.compose("logs", "--tail", "60")
    assert (ended["run_count"] > 1) == (service == "worker-cpu")


def test_down_and_up_keeps_runs_and_results(docker: Engine, api: Api, finished: str) -> None:
    docker.compose("down")
    docker.compose("up", "--detach", "--no-build")
    wait_for(lambda: docker.health("worker-cpu") == "healthy", PATIENCE, "the stack")
    assert api.run(finished)["state"]["type"] == "COMPLETED"
    test_a_second_run_reuses_every_step(api, finished)


def test_a_dump_of_the_database_can_be_loaded(docker: Engine, api: Api, finished: str) -> None:
    """As docs/operations.md says it."""
    dump = docker.compose("exec", "-T", "database", "pg_dump", "-U", "prefect", "--clean", "--if-exists", "prefect")
    api.call("DELETE", f"/flow_runs/{finished}")
    docker.compose("stop", "prefect", "worker-cpu")
    load = ["docker", "compose", "exec", "-T", "database", "psql", "-q", "-v", "ON_ERROR_STOP=1", "-U", "prefect", "prefect"]
    loaded = subprocess.run(load, env=os.environ | docker.environment, input=dump, text=True, capture_output=True)
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    docker.compose("up", "--detach", "--no-build")
    wait_for(lambda: docker.health("worker-cpu") == "healthy", PATIENCE, "the stack")
    assert api.run(finished)["state"]["type"] == "COMPLETED"
