"""A run started by the form in headless Chromium: at the server's port, and through nginx with TLS, as is its worker."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from browser import NEEDS_BROWSER, Page, chromium
from client import Api
from docker_engine import MARKS, PAGE, PATIENCE, Engine
from kubernetes_jobs import NETWORK, secret
from s3_servers import free_ports
from stack import SECRETS, wait_for

pytestmark = [*MARKS, NEEDS_BROWSER]
FILTER = "name: long captions\nfilter: {kind: words, at_least: 6}\n"


def asked(api: Api) -> set[str]:
    """The runs that somebody asked for, not a schedule."""
    return {run["id"] for run in api.runs() if not run["auto_scheduled"]}


def run_by_form(page: Page, server: str, api: Api, recipe: str) -> str:
    """The run that the form of `experiment-tiny` starts with a filter of one's own, once the password is given."""
    page.visit(f"{server}/v2/deployments")
    page.until("location.pathname.endsWith('/login')", "the question for the password")
    page.write("input", SECRETS["PREFECT_AUTH"])
    page.click("Login")
    page.until("document.body.innerText.includes('Deployments')", "the list of deployments")
    page.visit(f"{server}/v2/deployments?flowOrDeploymentName=experiment-tiny")  # sixty are more than one page
    page.click("experiment-tiny", brings="Deployment ID")
    page.click("Run", brings="Custom run")
    page.click("Custom run", brings="Your own")
    fields = page.do("[...document.querySelectorAll('label')].map((one) => one.innerText)")
    assert fields.index("Recipe") < fields.index("Name (Optional)"), fields
    page.click("Your own")
    page.write("[role=tabpanel] textarea", recipe)
    before = asked(api)
    page.click("Submit")

    def started() -> set[str]:
        told = page.text()
        assert not [one for one in page.refusals if "create_flow_run" in one], (told, page.refusals)
        return asked(api) - before

    return wait_for(started, 300, "the run").pop()


def test_the_form_starts_a_run(docker: Engine, stack_api: Api, finished: str, tmp_path: Path) -> None:
    with chromium(tmp_path / "browser") as page:
        run = run_by_form(page, PAGE, stack_api, FILTER)
        assert stack_api.wait(run, PATIENCE)["state"]["type"] == "COMPLETED", docker.compose("logs", "--tail", "60")
        page.visit(f"{PAGE}/v2/runs/flow-run/{run}")
        page.until("document.body.innerText.includes('Completed')", "the run's page")
    assert not [url for url in page.requests if not url.startswith((PAGE, "data:", "blob:"))], "the page asked another host"


@pytest.fixture
def tls(docker: Engine, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The proxy of deployments/docker/tls.yml: its address, and the hash by which a browser knows its certificate."""
    folder = tmp_path / "tls"
    folder.mkdir()
    key, certificate = folder / "server.key", folder / "server.crt"
    names = ["-subj", "/CN=proxy", "-addext", "subjectAltName=DNS:proxy,IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    public = subprocess.run(
        ["openssl", "pkey", "-in", str(key), "-pubout", "-outform", "DER"], check=True, capture_output=True
    ).stdout
    port = str(free_ports(1)[0])
    files = ("--file", "docker-compose.yml", "--file", "deployments/docker/tls.yml")
    both = replace(docker, environment=docker.environment | {"TLS_FOLDER": str(folder), "TLS_PORT": port}, options=files)
    both.compose("up", "--detach", "--no-build", "proxy")
    yield f"https://127.0.0.1:{port}", base64.b64encode(hashlib.sha256(public).digest()).decode()
    both.compose("rm", "--stop", "--force", "proxy")


def test_browser_and_worker_go_through_a_proxy_with_tls(
    docker: Engine, stack_api: Api, finished: str, tls: tuple[str, str], tmp_path: Path
) -> None:
    server, known = tls
    docker.compose("stop", "worker-cpu")
    own = secret() | {"PREFECT_API_URL": "https://proxy/api", "PREFECT_API_SSL_CERT_FILE": "/tls/server.crt"}
    words = [word for name, value in own.items() for word in ("--env", f"{name}={value}")]
    mount = ["--volume", f"{tmp_path / 'tls' / 'server.crt'}:/tls/server.crt:ro", "--volume", "datacomp_work:/var/lib/datacomp"]
    worker = ["datacomp", "worker", "cpu", "--limit", "1"]
    docker.docker("run", "--detach", "--name", "tls", "--network", NETWORK, *words, *mount, "datacomp:latest", *worker)
    try:
        with chromium(tmp_path / "browser", (f"--ignore-certificate-errors-spki-list={known}",)) as page:
            run = run_by_form(page, server, stack_api, FILTER.replace("6", "7"))
            assert stack_api.wait(run, PATIENCE)["state"]["type"] == "COMPLETED", docker.docker("logs", "--tail", "60", "tls")
            page.visit(f"{server}/v2/runs/flow-run/{run}")
            page.until("document.body.innerText.includes('Completed')", "the run's page")
            password = base64.b64encode(SECRETS["PREFECT_AUTH"].encode()).decode()  # typed by a person
            page.call("Network.setExtraHTTPHeaders", headers={"Authorization": f"Basic {password}"})
            page.visit(f"{server}/report/tiny.html")
            page.until("document.body.innerText.includes('long captions')", "the report")
        assert not [url for url in page.requests if not url.startswith((server, "data:", "blob:"))], "the page left the proxy"
    finally:
        docker.docker("rm", "--force", "tls")
        docker.start()
