"""On which device a worker of a cluster works: a GPU that is only declared is told of, and never replaced by a CPU in silence."""

from __future__ import annotations

import logging
import socket

import pytest

from datacomp_core.cluster_workers import ClusterWorkers
from datacomp_core.device import has_cuda
from datacomp_core.errors import SpecError
from datacomp_core.settings import settings


@pytest.fixture(autouse=True)
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATACOMP_DEVICE", raising=False)
    settings.cache_clear()


@pytest.mark.parametrize("device", ["", "cuda"])
@pytest.mark.skipif(has_cuda(), reason="this machine has a CUDA device")
def test_a_worker_with_a_gpu_that_torch_cannot_use_is_refused(device: str) -> None:
    with pytest.raises(SpecError, match=rf"the machine {socket.gethostname()} has a GPU, and torch finds no CUDA device there"):
        ClusterWorkers(2, 1, device, "cuda").open()


def test_a_worker_that_is_told_to_use_its_cpu_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("DATACOMP_DEVICE", "cpu")
    settings.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert ClusterWorkers(2, 1, "", "cpu").open() == "cpu"
    assert "encodes on the CPU, because DATACOMP_DEVICE is cpu" in caplog.text


def test_a_worker_without_a_gpu_works_on_its_cpu() -> None:
    assert ClusterWorkers(2, 0, "cpu", "cpu").open() == "cpu"


def test_a_worker_that_works_on_its_cpu_among_ones_with_gpus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATACOMP_DEVICE", "cpu")
    settings.cache_clear()
    with pytest.raises(SpecError, match="would work on cpu and another one of the cluster works on cuda"):
        ClusterWorkers(2, 1, "", "cuda").open()
