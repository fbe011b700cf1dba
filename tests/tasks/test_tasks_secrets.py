"""What Prefect keeps of a run has no secret of a url: artifacts, logs, and the words of runs that failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from datacomp_core.artifacts import Pool, Spec
from datacomp_core.settings import settings
from datacomp_core.store import Folder, step
from tasks.run_step import run

SECRET = "hunter2"
URL = f"http://me:{SECRET}@proxy.example:3128/list?key={SECRET}"


class SecretSpec(Spec):
    fails: bool = False


@step("pools", version=991)
def secretive(spec: SecretSpec, *, out: Folder, progress: Any = None, http_proxy: str = "") -> Pool:
    """A step that tells a secret url wherever a step can tell something."""
    if spec.fails:
        raise ValueError(f"cannot reach {http_proxy}")
    out.write("it", b"")
    progress.start(2, f"files of {http_proxy}")
    progress.advance(1)
    progress.show()
    return Pool(scale="tiny", num_samples=1, num_parts=1, counts={f"from {http_proxy}": 1})


@task
def secret_task(spec: SecretSpec) -> None:
    run(secretive, spec, http_proxy=URL)


@flow
def secret_flow() -> None:
    secret_task(SecretSpec())
    secret_task(SecretSpec(fails=True))


@pytest.mark.usefixtures("prefect_server")
def test_artifacts_and_states_have_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATACOMP_STORE", str(tmp_path / "store"))
    settings.cache_clear()
    state = secret_flow(return_state=True)
    assert state.is_failed()
    with get_client(sync_client=True) as client:
        flow_run = state.state_details.flow_run_id
        assert flow_run is not None
        kept = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run])))
        runs = [client.read_flow_run(flow_run), *client.read_task_runs()]
    told = "".join(item.model_dump_json() for item in [*kept, *runs])
    assert "proxy.example" in told, "the rest of the url is told"
    assert SECRET not in told
