"""Training on a CUDA device: mixed precision, resumption, and gradient checkpointing that changes nothing but memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "core" / "training"))
from training_world import NoiseSpec, noise, store_at, training

from datacomp_core.clip import state_dict
from datacomp_core.training.train import train

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _needs_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


def trained(path: Path, **options: Any) -> tuple[dict[str, Any], list[Any]]:
    store = store_at(path)
    spec = training(model="ViT-B-32", precision=options.pop("precision", "amp"), batch_size=16, train_num_samples=128)
    made = train(spec, (noise(NoiseSpec(), store=store),), store=store, device="cuda", **options)
    folder = store.folder(made)
    return state_dict(folder.path / "checkpoint.pt", made.model), folder.read("history.jsonl").splitlines()


@pytest.mark.parametrize("precision", ["amp", "amp_bfloat16", "fp32"])
def test_every_precision_trains(tmp_path: Path, precision: str) -> None:
    weights, history = trained(tmp_path, precision=precision, loader_workers=2)
    assert len(history) == 8
    assert all(value.isfinite().all() for value in weights.values())


def test_gradient_checkpointing_changes_memory_only(tmp_path: Path) -> None:
    import torch

    plain, _ = trained(tmp_path / "off", checkpointing="off", precision="fp32")
    saving, _ = trained(tmp_path / "on", checkpointing="on", precision="fp32")
    assert all(torch.allclose(plain[name], saving[name], atol=1e-4) for name in plain)


def test_nccl_ranks_train_one_model(tmp_path: Path) -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    one, _ = trained(tmp_path / "one", precision="fp32")
    two, _ = trained(tmp_path / "two", precision="fp32", processes=2)
    assert all(torch.allclose(one[name], two[name], atol=1e-3) for name in one)
