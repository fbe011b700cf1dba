"""Fixtures for all tests: an isolated home, and a real S3 server on loopback."""

from __future__ import annotations

import os
import socket
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import expected_skips
import hypothesis
import pytest
import s3_servers

if TYPE_CHECKING:
    from concurrent.futures import Future

    from client import Api
    from docker_engine import Engine

BUCKET = "datacomp-tests"

hypothesis.settings.register_profile("ours", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("ours")

pytest_configure = expected_skips.pytest_configure


@pytest.fixture(autouse=True)
def isolated_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees or touches the user's store, settings file or proxies, nor leaves its own environment behind."""
    from datacomp_core.settings import settings

    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("DATACOMP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATACOMP_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield
    settings.cache_clear()
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "PYTHONSAFEPATH")) and name not in before]:
        del os.environ[name]


@pytest.fixture(autouse=True)
def output_given_back() -> Iterator[None]:
    """A test that only parses `--json`, and does not run the command to its end, leaves standard output to the next test."""
    yield
    terminal = sys.modules.get("deployments.cli.terminal")
    if terminal is not None:
        terminal.JsonOutput.give_back()


@pytest.fixture(autouse=True)
def forgotten_files() -> Iterator[None]:
    """Files of code that a test loads are forgotten after it, so that the tables of kinds are those that the next test knows."""
    yield
    code = sys.modules.get("datacomp_core.external_code")
    names = [name for name in sys.modules if code is not None and name.startswith(code.PREFIX)]
    if not names:
        return
    from datacomp_core import registry

    for table in (registry.FILTERS, registry.SCORES, registry.PROTOCOLS, registry.TASKS, registry.RECIPES):
        for module in names:
            for name in table._added.pop(module, {}):
                if table._modules.get(name) == module:
                    del table._known[name], table._modules[name]
    for module in names:
        del sys.modules[module]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of a real S3 server, with the credentials set in this process's environment."""
    with s3_servers.s3_server() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        s3_servers.make_bucket(BUCKET)
        yield environment["AWS_ENDPOINT_URL"]


@pytest.fixture
def s3_url(s3_server: str) -> str:
    """A fresh prefix in a bucket of the real S3 server."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A real Prefect server on a temporary database."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield


@pytest.fixture(scope="session")
def docker() -> Iterator[Engine]:
    """A Docker engine of our own with docker-compose.yml up in it: for the tests in `stack/`, all of them together."""
    from docker_engine import engine
    from stack import SECRETS

    with engine(SECRETS) as made:
        made.compose("build", "prefect")
        made.compose("down", "--volumes")
        made.start()
        yield made
        made.compose("down", "--volumes")


@pytest.fixture(scope="session")
def gpu_image(docker: Engine) -> Iterator[Future[None]]:
    """The build of the image for GPUs: it begins with the first test that mostly waits, and goes on beside it."""
    from docker_engine import gpu_image

    with gpu_image(docker) as build:
        yield build


@pytest.fixture(scope="session")
def stack_api(docker: Engine) -> Api:
    """The API of that stack's server."""
    from client import Api
    from docker_engine import PAGE
    from stack import SECRETS

    return Api(f"{PAGE}/api", SECRETS["PREFECT_AUTH"])


@pytest.fixture(scope="session")
def finished(docker: Engine, stack_api: Api) -> str:
    """A run of `experiment-tiny` on that stack that is done."""
    run = stack_api.start("experiment/experiment-tiny")
    assert stack_api.wait(run, 3600)["state"]["type"] == "COMPLETED", docker.compose("logs", "--tail", "60")
    return run
