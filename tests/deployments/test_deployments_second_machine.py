"""Links that a run leaves are opened from another machine: the server in one network namespace, who reads in another.

The loopback of the reader is not the server's, so a link to 127.0.0.1, and one to a file, leads nowhere there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from stack import ROOT, end, spawn, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.getuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"),
]
SERVER, READER, ADDRESS, PORT = f"dc{os.getpid()}s", f"dc{os.getpid()}r", "10.213.7.1", 4200
PATIENCE = 600
RUN = """
from prefect import flow, task
from datacomp_core.artifacts import Subset
from tasks import reporting
from tasks.board import publish_board

@task
def picture():
    made = Subset(scale="tiny", name="mine", address="subsets/tiny/mine--0123456789ab", recipe="r", num_samples=1, num_unique=1)
    reporting.publish_picture(made, b"<svg xmlns='http://www.w3.org/2000/svg'/>", "curves", suffix=".svg")

@flow
def leaves():
    picture()
    publish_board("tiny")

leaves()
"""
READ = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
request = urllib.request.Request(sys.argv[1], headers={"Accept": "text/html,*/*"})
if len(sys.argv) > 2:
    request.data = sys.argv[2].encode()
    request.add_header("Content-Type", "application/json")
sys.stdout.buffer.write(opener.open(request, timeout=60).read())
"""


def within(name: str, *command: str) -> list[str]:
    return ["ip", "netns", "exec", name, *command]


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    """Two machines with a cable between them."""
    with ExitStack() as stack:
        for name in (SERVER, READER):
            made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
            if made.returncode != 0:
                pytest.skip(f"no network namespace can be made here: {made.stderr.strip()}")
            stack.callback(subprocess.run, ["ip", "netns", "del", name])
        for line in (
            f"-n {SERVER} link add cable type veth peer name cable netns {READER}",
            f"-n {SERVER} addr add {ADDRESS}/24 dev cable",
            f"-n {READER} addr add 10.213.7.2/24 dev cable",
            *(f"-n {name} link set {device} up" for name in (SERVER, READER) for device in ("lo", "cable")),
        ):
            subprocess.run(["ip", *line.split()], check=True)
        yield


def read(url: str, body: str = "") -> bytes | None:
    """What the other machine gets; None if it gets nothing."""
    ran = subprocess.run(within(READER, sys.executable, "-c", READ, url, *([body] if body else [])), capture_output=True)
    return ran.stdout if ran.returncode == 0 else None


@pytest.mark.usefixtures("network")
def test_every_link_of_a_run_leads_somewhere_from_another_machine(tmp_path: Path) -> None:
    own = {
        "DATACOMP_HOME": str(tmp_path / "home"),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_SERVER_UI_API_URL": "/api",
    }
    own |= {"PREFECT_UI_STATIC_DIRECTORY": str(tmp_path / "ui"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    page = f"http://{ADDRESS}:{PORT}"
    command = ["-m", "deployments.prefect_server", "--host", "0.0.0.0", "--port", str(PORT)]
    server = spawn(command, tmp_path / "server.log", own, before=within(SERVER))
    try:
        wait_for(lambda: read(f"{page}/api/health"), PATIENCE, "the server")
        flow = {**os.environ, **own, "PREFECT_API_URL": f"http://127.0.0.1:{PORT}/api", "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(within(SERVER, sys.executable, "-c", RUN), env=flow, cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-3000:]
        artifacts: list[dict[str, Any]] = json.loads(read(f"{page}/api/artifacts/filter", "{}") or b"[]")
        links = {link for one in artifacts for link in _links(one)}
        assert {"/report/tiny.html", "/report/pictures/subsets-mine-curves.svg"} <= links
        for link in links:
            assert re.match(r"/[a-z]", link), f"{link} names a machine or a file"
            assert read(urljoin(f"{page}/v2/", link)), link
        assert b"No result yet at scale tiny" in (read(f"{page}/report/tiny.html") or b"")
    finally:
        end(server)


def _links(artifact: dict[str, Any]) -> Iterator[str]:
    for text in (artifact["data"], artifact["description"]):
        told = text if isinstance(text, str) else json.dumps(text)
        yield from re.findall(r"\]\(([^)\s]+)\)", told)
        yield from re.findall(r"\b[a-z]+://[^\s)\"'<>]+", told)
    if artifact["type"] == "image":
        yield artifact["data"]
