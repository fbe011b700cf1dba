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


def test_batches_of_processes_are_pinned_and_reach_the_device_unchanged(tmp_path: Path) -> None:
    """As the loop gets them: copied ahead from slots that are used again, against batches made in this process."""
    import torch
    from test_training_equal import batches, lengths

    from datacomp_core.training import loader
    from datacomp_core.training.data import MicroBatchStream

    made = batches(tmp_path / "a")
    made.reader.tokenize = lengths
    assert next(loader.load_micro_batches(made, range(1), 1, pinned=True)).pixels.is_pinned()
    device = torch.device("cuda")
    steps = MicroBatchStream(made, steps_per_epoch=6, epochs=1, first=0, workers=2, device=device, ahead=1)
    steps.normalise_by((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    for number, (pixels, tokens) in enumerate(steps):
        wanted = made[number]
        assert torch.equal((pixels * 255).round().to(torch.uint8).cpu(), wanted.pixels)
        assert torch.equal(tokens.cpu(), wanted.tokens)


def test_decoding_on_the_device_is_near_the_exact_pixels(tmp_path: Path) -> None:
    """nvJPEG's colours are not libjpeg's: a few levels on average, never another picture."""
    import torch
    from test_training_cuda_decoding import SIDE, batches

    from datacomp_core.training.cuda_decoding import decode_on_gpu

    exact, encoded = batches(tmp_path / "exact", room=0), batches(tmp_path / "encoded", room=3 * SIDE * SIDE)
    for number in range(2):
        found = decode_on_gpu(encoded[number], torch.device("cuda")).pixels
        assert found.is_cuda
        apart = (found.cpu().int() - exact[number].pixels.int()).abs().float()
        assert float(apart.mean()) < 4


def test_a_training_that_decodes_on_the_device_ends(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    spec = training(model="ViT-B-32", precision="amp", batch_size=16, train_num_samples=64, decoding="cuda")
    made = train(spec, (noise(NoiseSpec(), store=store),), store=store, device="cuda", loader_workers=2)
    assert all(value.isfinite().all() for value in state_dict(store.folder(made).path / "checkpoint.pt", made.model).values())
