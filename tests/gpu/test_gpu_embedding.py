"""Embedding on CUDA devices: the features of the CPU within rounding, and the same bytes on one device and on two processes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "core" / "embedding"))
from test_embedding_encode import digests, inputs, read

from datacomp_core.embedding.embed import embed
from datacomp_core.embedding.spec import EmbedSpec
from datacomp_core.store import Store

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _needs_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def test_a_gpu_gives_the_features_of_the_cpu(tmp_path: Path) -> None:
    made = []
    for device in ("cpu", "cuda:0"):
        store = Store.open(str(tmp_path / device.replace(":", "")))
        made.append(read(store, embed(EmbedSpec(batch_size=8), *inputs(store), store=store, device=device, workers=2)))
    for mine, theirs in zip(made[0][:2], made[1][:2], strict=True):
        np.testing.assert_allclose(mine.astype(np.float32), theirs.astype(np.float32), atol=5e-3)


def test_two_processes_give_the_bytes_of_one(tmp_path: Path) -> None:
    made = []
    for devices in ("cuda:0", "cuda:0,cuda:0"):
        store = Store.open(str(tmp_path / str(len(devices))))
        made.append(digests(store, embed(EmbedSpec(batch_size=8), *inputs(store), store=store, device=devices, workers=2)))
    assert made[0] == made[1]
