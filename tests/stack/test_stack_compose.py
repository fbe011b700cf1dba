"""docker-compose.yml as it is, in a Docker engine: services come up, runs are started, services are killed, data come back."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from concurrent.futures import Future
from pathlib import Path

import pytest
from client import FINAL, Api
from docker_engine import MARKS, PAGE, PATIENCE, ROOT, Engine
from stack import SECRETS, wait_for

pytestmark = MARKS
ENDED = FINAL - {"CRASHED"}
"""A run whose process was lost has crashed for a moment, and is started again."""
SERVICES = ("database", "store", "prefect", "worker-cpu")


def test_every_service_is_healthy_and_setup_ended_well(docker: Engine) -> None:
    wait_for(lambda: {docker.health(name) for name in SERVICES} == {"healthy"}, 120, "the health of every service")
    [setup] = docker.containers("setup")
    assert (setup["State"], setup["ExitCode"]) == ("exited", 0)


def test_the_page_is_there_and_asks_for_the_password(docker: Engine) -> None:
    with urllib.request.urlopen(PAGE, timeout=60) as answer:
        assert b"Prefect" in answer.read()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        Api(f"{PAGE}/api", "admin:wrong").runs()


def test_a_second_run_reuses_every_step(stack_api: Api, finished: str) -> None:
    reused_again(stack_api, finished)


def reused_again(api: Api, finished: str) -> None:
    again = api.start("experiment/experiment-tiny", api.run(finished)["parameters"])
    assert api.wait(again, PATIENCE)["state"]["type"] == "COMPLETED"
    statuses = [str(one["data"]) for one in api.artifacts(again) if one["type"] == "table" and "status" in str(one["data"])]
    assert statuses
    assert all("reused: built before" in status for status in statuses)


@pytest.mark.parametrize(("service", "seconds"), [("worker-cpu", 0), ("store", 5), ("database", 60), ("prefect", 100)])
def test_a_service_that_is_killed_in_mid_training_costs_no_run(
    docker: Engine, stack_api: Api, finished: str, gpu_image: Future[None], service: str, seconds: float
) -> None:
    run = in_training(docker, stack_api, finished, 100 + SERVICES.index(service))
    docker.compose("kill", "--signal", "SIGKILL", service)
    time.sleep(seconds)
    again = () if service == "worker-cpu" else ("--wait", "--no-deps", service)  # the first with `setup`, as after a reboot
    docker.compose("up", "--detach", "--no-build", *again)
    ended = stack_api.wait(run, PATIENCE, ENDED)
    assert ended["state"]["type"] == "COMPLETED", docker.compose("logs", "--tail", "60")
    assert (ended["run_count"] > 1) == (service == "worker-cpu")


def test_a_reboot_of_everything_twice_in_mid_training_ends_in_a_completed_run(
    docker: Engine, stack_api: Api, finished: str, gpu_image: Future[None]
) -> None:
    gpu_image.result()  # not while the engine builds
    run = in_training(docker, stack_api, finished, 110)
    docker.cut_power()
    wait_for(lambda: begun(stack_api, run) == 2 and trains(docker), PATIENCE, "the training's second attempt")
    docker.cut_power()
    docker.compose("up", "--detach", "--no-build")  # now with `setup`
    ended = stack_api.wait(run, PATIENCE, ENDED)
    assert (ended["state"]["type"], ended["run_count"]) == ("COMPLETED", 3), docker.compose("logs", "--tail", "60")


def in_training(docker: Engine, api: Api, finished: str, seed: int) -> str:
    """A run whose training is at work."""
    spec = {**api.run(finished)["parameters"]["spec"], "seed": seed}
    run = api.start("experiment/experiment-tiny", {"spec": spec})
    wait_for(lambda: trains(docker), PATIENCE, "the training")
    return run


def trains(docker: Engine) -> bool:
    return "training.worker" in docker.compose("exec", "-T", "worker-cpu", "sh", "-c", "cat /proc/[0-9]*/cmdline", check=False)


def begun(api: Api, run: str) -> int:
    """How often a run was begun, 0 while the server is away."""
    try:
        return api.run(run)["run_count"]
    except OSError:
        return 0


def test_a_database_in_another_encoding_is_refused_in_one_sentence(docker: Engine) -> None:
    create = "createdb --username prefect --encoding SQL_ASCII --locale C --template template0 ascii"
    docker.inside("database", create)
    url = f"postgresql+asyncpg://prefect:{SECRETS['DATABASE_PASSWORD']}@database:5432/ascii"
    words = ["run", "--rm", "--no-deps", "-T", "--env", f"PREFECT_API_DATABASE_CONNECTION_URL={url}", "prefect"]
    told = docker.refused(*words)
    docker.inside("database", "dropdb --username prefect ascii")
    assert told.count("error: ") == 1
    assert "has the encoding SQL_ASCII" in told.splitlines()[-1]


def test_down_and_up_keeps_runs_and_results(docker: Engine, stack_api: Api, finished: str) -> None:
    docker.compose("down")
    docker.start()
    assert stack_api.run(finished)["state"]["type"] == "COMPLETED"
    reused_again(stack_api, finished)


def test_what_was_backed_up_comes_back_after_every_volume_is_lost(
    docker: Engine, stack_api: Api, finished: str, tmp_path: Path
) -> None:
    back_up, restore = documented("Back-up and upgrade")[:2]
    in_shell(docker, back_up, tmp_path)
    docker.compose("down", "--volumes")
    in_shell(docker, restore, tmp_path)
    docker.start()
    assert stack_api.run(finished)["state"]["type"] == "COMPLETED"
    reused_again(stack_api, finished)


def documented(heading: str) -> list[str]:
    """The shell commands under a heading of docs/operations.md, a block each."""
    page = (ROOT / "docs/operations.md").read_text()
    [section] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    return re.findall(r"^```\n(.*?)^```", section, re.M | re.S)


def in_shell(docker: Engine, commands: str, folder: Path) -> None:
    """Run commands as a person does who stands in a folder for backups."""
    own = {**docker.environment, "COMPOSE_FILE": str(ROOT / "docker-compose.yml")}
    ran = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], env=own, cwd=folder, capture_output=True, text=True)
    assert ran.returncode == 0, json.dumps([commands, ran.stderr[-2000:]])
