"""`datacomp ui`, `deploy` and `worker cpu` on a fresh home, and what a person does with the forms of that UI in a browser."""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from browser import Page
from client import Api
from conftest import free_port
from stack import answers, end, spawn, wait_for

PATIENCE = 1800


class LocalUi(NamedTuple):
    """The address of the page, and the home of server and worker."""

    server: str
    home: Path

    def api(self) -> Api:
        return Api(f"{self.server}/api", "")


@contextmanager
def local_ui(folder: Path) -> Generator[LocalUi]:
    """Server and worker, ended with the block; their logs are in `folder`."""
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    own = {"DATACOMP_HOME": str(folder / "home"), "DATACOMP_WORKERS": "2"}
    with_api = own | {"PREFECT_API_URL": f"{page}/api"}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.append(spawn(["-m", "deployments.cli", "ui", "--port", str(port)], folder / "ui.log", own))
        wait_for(lambda: answers(f"{page}/api/health"), PATIENCE, "the server")
        deploy = spawn(["-m", "deployments.cli", "deploy"], folder / "deploy.log", with_api)
        assert deploy.wait(PATIENCE) == 0, (folder / "deploy.log").read_text()
        processes.append(spawn(["-m", "deployments.cli", "worker", "cpu"], folder / "worker.log", with_api))
        yield LocalUi(page, folder / "home")
    finally:
        for process in reversed(processes):
            end(process)


def open_form(page: Page, server: str, deployment: str, sign: str) -> None:
    """Open the form of a deployment from the list, which says `sign`."""
    page.visit(f"{server}/v2/deployments")
    page.click(deployment, brings="Deployment ID")
    page.click("Run", brings="Custom run")
    page.click("Custom run", brings=sign)


def submitted(page: Page, api: Api) -> str:
    """Submit the form; the run that it made."""
    before = {run["id"] for run in api.runs()}
    page.click("Submit", brings="Deployment ID")
    return wait_for(lambda: {run["id"] for run in api.runs()} - before, 300, "the run").pop()
