"""The server that a run starts for itself: it serves, it ends with its owner, and what stands in its way is named."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from processes import wait_until_gone

from datacomp_core.errors import DatacompError
from deployments.local_server import _wait_until_healthy, refuse_backport, require_free

OWNER = """
import os, time
from deployments.local_server import prefect_api
with prefect_api() as api:
    print(api, flush=True)
    time.sleep(600)
"""


def answers(api: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        return opener.open(f"{api}/health", timeout=5).status == 200
    except OSError:
        return False


def page_asks(api: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{api.removesuffix('/api')}/ui-settings", timeout=5) as answer:
        return json.load(answer)["api_url"]


def test_the_server_serves_and_dies_with_its_owner_even_by_kill_9() -> None:
    home = os.environ["DATACOMP_HOME"]
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    api = owner.stdout.readline().strip()
    assert answers(api)
    assert api.startswith("http://127.0.0.1:")
    assert page_asks(api) == "/api"  # whatever the port
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert wait_until_gone(home) == []
    assert not answers(api)


def test_the_backport_that_ends_every_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_backport()
    (tmp_path / "dataclasses-0.8.dist-info").mkdir()
    (tmp_path / "dataclasses-0.8.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: dataclasses\nVersion: 0.8\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DatacompError, match=r"'dataclasses'.*pip uninstall"):
        refuse_backport()


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(DatacompError, match=rf"Port {taken.getsockname()[1]} .* in use"):
            require_free(taken.getsockname()[1])


LATE = """
import sys
from deployments import local_server
local_server.UI_PORT = int(sys.argv[1])
local_server._is_free = lambda port: True  # as it was when it looked
with local_server.prefect_api() as api:
    print(api, flush=True)
"""


@pytest.mark.slow
def test_a_port_that_is_taken_between_look_and_start_costs_no_run(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        done = subprocess.run(
            [sys.executable, "-c", LATE, port],
            env={**environment, "DATACOMP_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("http://127.0.0.1:")
    assert port not in done.stdout


def test_a_server_of_somebody_else_on_our_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"true")

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        ours = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        try:
            with pytest.raises(DatacompError, match="Another server took port"):
                _wait_until_healthy(ours, other.server_address[1], tmp_path / "server.log", "our mark")
        finally:
            ours.kill()
            ours.wait()
            other.shutdown()
