"""The store through a proxy that fails, before a real S3 server: 500s, lost replies and cut bodies, met by the real client."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from datacomp_core.artifacts import Pool, Spec
from datacomp_core.errors import StoreError
from datacomp_core.store import Folder, Store, failures, step

sys.path.insert(0, str(Path(__file__).parent))
from faulty_proxy import FaultyProxy, faulty_proxy

FILES = {f"part-{number}": os.urandom(50_000) for number in range(4)}


class ProxySpec(Spec):
    scale: str = "tiny"
    number: int = 0


@step("pools", version=1)
def download(spec: ProxySpec, *, out: Folder) -> Pool:
    there = out.files()
    for name, data in FILES.items():
        if name not in there:
            out.write(name, data)
    return Pool(num_samples=len(FILES), num_parts=len(FILES))


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr(failures, "PAUSES", (0.05, 0.1))
    with faulty_proxy(s3_server, 0.15) as served:
        yield served


@pytest.mark.slow
def test_runs_through_a_faulty_proxy_end_with_what_a_run_without_one_gives(
    proxy: FaultyProxy, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    endpoint = os.environ["AWS_ENDPOINT_URL"]
    store = Store(Folder(s3_url))
    for number in range(12):
        spec = ProxySpec(number=number)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        sick, statuses = Store(Folder(s3_url)), list[str]()
        for _ in range(8):  # what a person or Prefect does: run it again
            try:
                statuses.append(download.run(spec, store=sick).status)
            except StoreError as problem:
                statuses.append(type(problem).__name__)
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        s3fs.S3FileSystem.clear_instance_cache()
        store = Store(Folder(s3_url))
        assert statuses.count("built") <= 1, "once built it is not built again"
        outcome = download.run(spec, store=store)
        assert outcome.record.generation == 1, "nothing was called lost"
        found = store.folder(outcome.artifact)
        assert {name: found.read(name) for name in found.files()} == FILES
        assert store.missing(outcome.record) == ""
    assert min(proxy.met[fault] for fault in ("500", "lost reply", "cut")) > 5
