"""What a person at the UI does, said to the API: start a deployment with a form, watch a run, read its artifacts."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Api:
    """Prefect's REST API, as the page in a browser uses it."""

    url: str
    auth: str

    def call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}", method=method, data=None if body is None else json.dumps(body).encode()
        )
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", f"Basic {base64.b64encode(self.auth.encode()).decode()}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def form(self, deployment: str) -> dict[str, Any]:
        return self.call("GET", f"/deployments/name/{deployment}")

    def start(self, deployment: str, parameters: dict[str, Any] | None = None) -> str:
        form = self.form(deployment)
        body = {"state": {"type": "SCHEDULED"}, "parameters": parameters or form["parameters"]}
        return self.call("POST", f"/deployments/{form['id']}/create_flow_run", body)["id"]

    def run(self, run: str) -> dict[str, Any]:
        return self.call("GET", f"/flow_runs/{run}")

    def state(self, run: str) -> str:
        return self.run(run)["state"]["type"]

    def wait(self, run: str, seconds: float, states: set[str] = FINAL) -> dict[str, Any]:
        """The run when it has ended. A server that is too busy for one answer (5xx) is asked again."""
        until, told = time.monotonic() + seconds, "not known"
        while True:
            try:
                found = self.run(run)
                if found["state"]["type"] in states:
                    return found
                told = f"{found['name']} is {found['state']['name']}"
            except urllib.error.HTTPError as problem:
                if problem.code < 500:
                    raise
                told = str(problem)
            assert time.monotonic() < until, f"after {seconds:.0f} s the run {run}: {told}"
            time.sleep(1)

    def runs(self, **body: Any) -> list[dict[str, Any]]:
        return self.call("POST", "/flow_runs/filter", body)

    def artifacts(self, run: str) -> list[dict[str, Any]]:
        return self.call("POST", "/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})

    def tasks(self, run: str) -> list[dict[str, Any]]:
        return self.call("POST", "/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run]}}})
