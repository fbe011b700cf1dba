"""A task whose store fails for a while is tried again by Prefect, goes on where it stopped, and publishes once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from datacomp_core.artifacts import Pool, Spec
from datacomp_core.settings import settings
from datacomp_core.store import Folder, Store, failures, step
from datacomp_core.store import format as store_format

sys.path.insert(0, str(Path(__file__).parents[1] / "core" / "store"))
from faulty_proxy import FAULTS, faulty_proxy

pytestmark = [pytest.mark.slow, pytest.mark.s3]
WRITTEN: list[str] = []


class TaskSpec(Spec):
    scale: str = "tiny"
    number: int = 0


@step("pools", version=1)
def made(spec: TaskSpec, *, out: Folder) -> Pool:
    there = out.files()
    for name in ("a", "b", "c"):
        if name not in there:
            out.write(name, f"{name}{spec.number}".encode() * 100)
            WRITTEN.append(f"{spec.number}{name}")
    return Pool(num_samples=3, num_parts=3)


@pytest.mark.usefixtures("prefect_server")
def test_a_task_is_tried_again_and_publishes_once(s3_server: str, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs
    from prefect import flow, task
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    from tasks import run_step
    from tasks.retry_policies import NETWORK

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(failures, "PAUSES", (0.01, 0.02))
    policy: Any = {**NETWORK, "retries": 12, "retry_delay_seconds": 0, "retry_jitter_factor": None}

    @task(**policy)
    def one(number: int) -> Pool:
        return run_step.run(made, TaskSpec(number=number))

    @flow
    def several() -> list[Pool]:
        return [future.result() for future in [one.submit(number) for number in range(6)]]

    with faulty_proxy(s3_server) as proxy:
        proxy.faults, proxy.share = FAULTS, 0.35
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setenv("DATACOMP_STORE", s3_url)
        monkeypatch.setattr(store_format, "_known", set[str]())
        settings.cache_clear()
        run_step._opened.cache_clear()  # pyright: ignore[reportPrivateUsage]
        s3fs.S3FileSystem.clear_instance_cache()
        state = several(return_state=True)
        met = proxy.met.copy()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    s3fs.S3FileSystem.clear_instance_cache()
    run_step._opened.cache_clear()  # pyright: ignore[reportPrivateUsage]
    assert state.is_completed(), state
    assert min(met[fault] for fault in FAULTS) > 3
    with get_client(sync_client=True) as client:
        asked = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        tries = [run.run_count for run in client.read_task_runs(flow_run_filter=asked)]
    assert len(tries) == 6
    assert max(tries) > 1, "some were tried again"
    store = Store(Folder(s3_url))
    records = list(store.records("pools"))
    assert [record.generation for record in records] == [1] * 6
    for record in records:
        assert store.missing(record) == ""
        number = int(record.spec["spec"].get("number", 0))
        assert store.data(record).read("c") == f"c{number}".encode() * 100
    assert list(store.lost()) == []
