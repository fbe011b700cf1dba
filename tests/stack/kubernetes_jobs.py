"""Kubernetes without a cluster: an API that kubectl can ask what kinds there are, and a job's pods as containers of Docker."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

from client import Api
from docker_engine import Engine
from stack import environment_of

from deployments.work_pools import template

NETWORK = "datacomp_default"
KINDS = {
    "v1": ("ServiceAccount", "Service"),
    "apps/v1": ("Deployment",),
    "batch/v1": ("Job",),
    "rbac.authorization.k8s.io/v1": ("Role", "RoleBinding"),
}


def _answers() -> dict[str, Any]:
    """What a fresh API server says of the kinds that our manifests use."""
    groups = [group for group in KINDS if "/" in group]
    versions = {group: {"groupVersion": group, "version": group.partition("/")[2]} for group in groups}
    listed = [
        {"name": group.partition("/")[0], "versions": [version], "preferredVersion": version}
        for group, version in versions.items()
    ]
    verbs = ["create", "get", "list", "patch"]
    resources = {
        f"/{'apis' if '/' in group else 'api'}/{group}": {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": group,
            "resources": [
                {"name": f"{kind.lower()}s", "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": verbs}
                for kind in kinds
            ],
        }
        for group, kinds in KINDS.items()
    }
    own = {
        "/version": {"major": "1", "minor": "32", "gitVersion": "v1.32.0"},
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed},
    }
    return own | resources


@contextmanager
def discovery() -> Generator[str]:
    """The address of an API without objects: kubectl asks it for kinds even where it sends nothing (`--dry-run=client`)."""
    answers = _answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answers.get(self.path.partition("?")[0])
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            self.wfile.write(json.dumps(found or missing).encode())

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def job_of(api: Api, run: str, pool: str, values: dict[str, Any]) -> dict[str, Any]:
    """The manifest that Prefect's own worker makes for a run of our server."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    async def made() -> dict[str, Any]:
        async with get_client() as client:
            flow_run = await client.read_flow_run(UUID(run))
        job = await KubernetesWorkerJobConfiguration.from_template_and_values(template("kubernetes", pool), values)  # pyright: ignore
        job.prepare_for_flow_run(flow_run)
        return job.job_manifest

    with temporary_settings({PREFECT_API_URL: api.url, PREFECT_API_AUTH_STRING: api.auth}):
        return asyncio.run(made())


def secret() -> dict[str, str]:
    """The secret `datacomp` of docs/operations.md: how a run reaches the server and the store."""
    of_worker = environment_of("worker-cpu", {})
    return {name: value for name, value in of_worker.items() if name.startswith(("PREFECT_API_", "DATACOMP_STORE", "AWS_"))}


def container(docker: Engine, manifest: dict[str, Any], claim: str, job: str, index: int = 0) -> list[str]:
    """The words after `docker` that run one pod of a job: command, environment, user, volumes and limits are the manifest's.

    `nvidia.com/gpu` is left out: there is none here. The address of the server is that of the network of containers.
    """
    pod = manifest["spec"]["template"]["spec"]
    [made] = pod["containers"]
    rights = pod["securityContext"]
    own = {one["name"]: one["value"] for one in made["env"]} | {"PREFECT_API_URL": secret()["PREFECT_API_URL"]}
    host = f"{job}-{index}"
    if manifest["spec"].get("completionMode") == "Indexed":
        own["JOB_COMPLETION_INDEX"] = str(index)
    words = ["run", "--name", host, "--hostname", host, "--network", NETWORK]
    if "subdomain" in pod:
        words += ["--network-alias", f"{host}.{pod['subdomain']}"]
    words += [word for name, value in (secret() | own).items() for word in ("--env", f"{name}={value}")]
    words += ["--user", f"{rights['runAsUser']}:{rights['runAsGroup']}", "--group-add", str(rights["fsGroup"])]
    words += ["--memory", re.sub("i$", "", made["resources"]["limits"]["memory"]).lower()]
    words += ["--security-opt", "no-new-privileges"] if not made["securityContext"]["allowPrivilegeEscalation"] else []
    for volume, mount in zip(pod["volumes"], made["volumeMounts"], strict=True):
        assert volume["name"] == mount["name"]
        if "emptyDir" in volume:
            size = volume["emptyDir"]["sizeLimit"].removesuffix("i").lower()
            words += ["--tmpfs", f"{mount['mountPath']}:size={size},mode=2777,gid={rights['fsGroup']}"]
        else:
            words += ["--volume", f"{claim}:{mount['mountPath']}:nocopy"]
    command = made.get("command", [])
    words += ["--entrypoint", command[0]] if command else []
    return [*words, "datacomp:latest", *command[1:], *made["args"]]


def claim(docker: Engine, name: str, group: int) -> str:
    """A volume as Kubernetes hands it over: made by root, and given to the pod's `fsGroup`."""
    docker.docker("volume", "create", name)
    given = f"chgrp {group} /claim && chmod 2775 /claim"
    docker.docker("run", "--rm", "--user", "0", "--volume", f"{name}:/claim", "datacomp:latest", "sh", "-c", given)
    return name
