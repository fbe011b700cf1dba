"""`decoding: cuda`: what the loader's processes leave to the device, put together on the CPU with torchvision's decoder there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from training_world import recipe

from datacomp_core.artifacts import ShardSet
from datacomp_core.errors import DataError, SpecError
from datacomp_core.scales import SCALES, with_decoding
from datacomp_core.shards import ShardWriter, write_index
from datacomp_core.store import Folder, Store
from datacomp_core.training import cuda_decoding, loader
from datacomp_core.training.data import BatchSlice, MicroBatchDataset, MicroBatchStream, order_of
from datacomp_core.training.samples import SampleReader, ShardSource
from datacomp_core.training.spec import TrainSpec
from datacomp_core.training.train import train

CPU, SIDE, SAMPLES = torch.device("cpu"), 48, 16
ORDER = order_of(3, SAMPLES, [SAMPLES], [1.0])
JPEGS_DRAWN = [row for row in ORDER.batch(0)[1].tolist() if row not in (3, 4, 5)]


def picture(number: int) -> tuple[str, bytes]:
    """JPEGs of several sizes; a PNG, a grey JPEG and one too large for the place of its pixels, which a process decodes."""
    random = np.random.default_rng(number)
    side = 300 if number == 5 else 60 + number
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((side + 10, side), Image.Resampling.BICUBIC)
    if number == 5:
        coarse = Image.fromarray(random.integers(0, 256, (side, side, 3), np.uint8))
    buffer = io.BytesIO()
    (coarse.convert("L") if number == 3 else coarse).save(buffer, "PNG" if number == 4 else "JPEG", quality=95)
    return ("png" if number == 4 else "jpg"), buffer.getvalue()


def one_token(texts: list[str]) -> Any:
    return np.array([[len(text), 1] for text in texts])


def batches(folder: Path, *, room: int, damaged: int = -1) -> MicroBatchDataset:
    folder.mkdir()
    with (folder / "00000000.tar").open("wb") as file:
        writer = ShardWriter(file, "00000000")
        for number in range(SAMPLES):
            extension, data = picture(number)
            if number == damaged:
                data = data[: len(data) // 2]
            writer.add(f"{number:032x}", f"{number:032x}", {extension: data, "txt": b"x" * number})
        write_index(Folder(folder), "00000000", writer.finish())
    source = ShardSource(url=Folder(folder).url, index=Folder(folder).url, shards=(("00000000", SAMPLES),))
    reader = SampleReader((source,), one_token, cache="unused", cache_bytes=0, jpeg_room=room)
    return MicroBatchDataset(ORDER, reader, BatchSlice(0, 1, 2), (SIDE, SIDE), tolerant=False)


def test_a_batch_put_together_on_the_device_is_that_of_the_exact_way_to_rounding(tmp_path: Path) -> None:
    exact = batches(tmp_path / "exact", room=0)
    encoded = batches(tmp_path / "encoded", room=3 * SIDE * SIDE)
    there = [cuda_decoding.decode_on_gpu(micro, CPU) for micro in loader.load_micro_batches(encoded, range(2), 1, pinned=False)]
    left = 0
    for number, whole in enumerate(there):
        wanted, here = exact[number], encoded[number]
        assert here.about is not None
        left += int((here.about[:, 0] > 0).sum())
        assert whole.about is None
        assert torch.equal(whole.tokens, wanted.tokens)
        assert torch.equal(whole.pixels, cuda_decoding.decode_on_gpu(here, CPU).pixels), "processes change no bit"
        by_process = here.about[:, 0] == 0
        assert torch.equal(whole.pixels[by_process], wanted.pixels[by_process]), "what the GPU does not get is exact"
        assert int((whole.pixels.int() - wanted.pixels.int()).abs().max()) <= 2
    assert left == len(JPEGS_DRAWN) < SAMPLES, "not the PNG, the grey and the large one"


def test_the_loop_gets_decoded_batches_with_and_without_copies_ahead(tmp_path: Path) -> None:
    seen: list[list[torch.Tensor]] = []
    for depth in (0, 1):
        made = batches(tmp_path / str(depth), room=3 * SIDE * SIDE)
        steps = MicroBatchStream(made, steps_per_epoch=1, epochs=1, first=0, workers=0, device=CPU, ahead=depth)
        steps.normalise_by((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        seen.append([pixels for pixels, _ in steps])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_a_jpeg_that_the_gpu_refuses_goes_to_the_cpu_and_a_broken_one_is_named(tmp_path: Path) -> None:
    made, calls = batches(tmp_path / "a", room=3 * SIDE * SIDE), list[int]()

    def refuses(jpegs: Any, device: Any) -> Any:
        calls.append(len(jpegs))
        raise RuntimeError("nvjpeg: unsupported")

    micro = made[0]
    kept, usual = cuda_decoding.decode_on_gpu(micro, CPU, refuses), cuda_decoding.decode_on_gpu(micro, CPU)
    assert int((kept.pixels.int() - usual.pixels.int()).abs().max()) == 0
    assert calls[0] == len(calls) - 1, "once all together, then each"
    broken = batches(tmp_path / "b", room=3 * SIDE * SIDE, damaged=JPEGS_DRAWN[0])
    with pytest.raises(DataError, match="of a micro-batch cannot be decoded"):
        for number in range(2):
            cuda_decoding.decode_on_gpu(broken[number], CPU, refuses)


def test_without_a_cuda_device_it_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    shards = ShardSet(num_samples=1, num_unique=1, num_shards=1, data="nowhere")
    spec = TrainSpec(recipe=recipe(decoding="cuda"))
    with pytest.raises(SpecError, match="decoding: cuda.*runs on cpu: use a CUDA device, or set decoding to fast or full"):
        train.function(spec, (shards,), out=Folder(tmp_path), store=Store(Folder(tmp_path)), device="cpu")


def test_only_what_is_equal_to_rounding_keeps_the_name_of_a_scale() -> None:
    small = SCALES["small"]
    assert [with_decoding(small, way).name for way in ("full", "fast", "scaled", "cuda")] == [
        "small",
        "small",
        "custom",
        "custom",
    ]
    for way in ("full", "fast", "cuda"):
        assert TrainSpec(recipe=with_decoding(small, way)).recipe.decoding == way
    with pytest.raises(ValueError, match="decoding differ"):
        TrainSpec(recipe=small.model_copy(update={"decoding": "cuda"}))
    with pytest.raises(ValueError, match="batch_size differ"):
        TrainSpec(recipe=small.model_copy(update={"batch_size": 1}))
    with pytest.raises(SpecError, match="fats"):
        with_decoding(small, "fats")
