"""What is done for speed and changes no bit: no gradient checkpointing, copies made ahead, AdamW's `foreach`. And `fused`."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_world import NoiseSpec, noise, recipe, store_at

from datacomp_core.errors import DataError, LostProcessError
from datacomp_core.pictures import Decoding
from datacomp_core.scales import SCALES
from datacomp_core.training import loader
from datacomp_core.training.arguments import RuntimeOptions
from datacomp_core.training.components import choose_kernels
from datacomp_core.training.data import BatchSlice, MicroBatchDataset, MicroBatchStream, order_of
from datacomp_core.training.prefetch import MicroBatch, prefetched
from datacomp_core.training.preflight import preflight
from datacomp_core.training.samples import CROP_NUMBERS, SampleReader, crop_box, smallest
from datacomp_core.training.spec import TrainSpec

CPU = torch.device("cpu")


def test_gradient_checkpointing_changes_no_bit_of_loss_and_gradients() -> None:
    import open_clip

    tower = {"layers": 2, "width": 64}
    images, texts = torch.rand(6, 3, 32, 32), torch.randint(1, 400, (6, 16))
    found = []
    for switch in (False, True):
        torch.manual_seed(0)
        model: Any = open_clip.CLIP(
            32,
            open_clip.CLIPVisionCfg(**tower, head_width=32, patch_size=8, image_size=32),
            open_clip.CLIPTextCfg(**tower, heads=2, context_length=16, vocab_size=500),
            output_dict=True,
        )
        model.train()
        model.set_grad_checkpointing(switch)
        out = model(images, texts)
        loss = open_clip.ClipLoss()(out["image_features"], out["text_features"], out["logit_scale"])
        loss.backward()
        found.append([loss.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def batches(tmp_path: Path) -> MicroBatchDataset:
    store = store_at(tmp_path)
    shards = noise(NoiseSpec(), store=store)
    source = preflight(shards, store.folder(shards), tmp_path, 1.0)[0]
    order = order_of(0, 16, [count for _, count in source.shards], [1.0] * 2)
    reader = SampleReader((source,), lambda texts: np.array([[len(text)] for text in texts]), cache="unused", cache_bytes=0)
    return MicroBatchDataset(order, reader, BatchSlice(0, 1, 2), (32, 32), tolerant=False)


def test_copies_made_ahead_are_the_same_and_the_position_is_that_of_the_loop(tmp_path: Path) -> None:
    seen = []
    for depth in (0, 2):
        steps = MicroBatchStream(batches(tmp_path), steps_per_epoch=3, epochs=2, first=1, workers=0, device=CPU, ahead=depth)
        steps.normalise_by((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        taken = []
        for epoch in (0, 1):
            assert steps.next // steps.num_batches == epoch
            for number, (pixels, tokens) in enumerate(steps, steps.next):
                assert steps.next == number + 1, "what waits ahead is not done"
                taken.append((pixels, tokens))
        assert len(taken) == 2 * 5
        seen.append(taken)
    for mine, theirs in zip(*seen, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_an_error_ahead_comes_in_its_turn() -> None:
    def source() -> Any:
        yield MicroBatch(torch.zeros(1), torch.zeros(1), ())
        raise ValueError("broken")

    given = prefetched(source(), CPU, 2)
    next(given)
    with pytest.raises(ValueError, match="broken"):
        next(given)


def adamw(kernels: list[str], steps: int = 6) -> list[torch.Tensor]:
    """Weights after some steps by AdamW, as open_clip makes it, with kernels chosen anew at each step."""
    torch.manual_seed(1)
    weights = [torch.nn.Parameter(torch.randn(40, 30)), torch.nn.Parameter(torch.randn(30))]
    groups = [{"params": weights[1:], "weight_decay": 0.0}, {"params": weights[:1], "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98), eps=1e-6)
    for step in range(steps):
        if kernels:
            choose_kernels(optimizer, RuntimeOptions.model_validate({"optimizer": kernels[step % len(kernels)]}))
        optimizer.zero_grad()
        sum((weight**3).sum() for weight in weights).backward()  # pyright: ignore[reportAttributeAccessIssue]
        optimizer.step()
    return [weight.detach() for weight in weights]


def test_foreach_is_open_clips_adamw_to_the_bit_and_fused_to_rounding() -> None:
    plain, foreach = adamw([]), adamw(["foreach"])
    assert all(torch.equal(a, b) for a, b in zip(plain, foreach, strict=True))
    for other in (adamw(["fused"]), adamw(["foreach", "fused"])):  # the second as after a change at a resumption
        assert all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(plain, other, strict=True))


def test_scaled_decoding_is_for_custom_recipes_and_never_enlarges() -> None:
    with pytest.raises(ValueError, match="decoding differ"):
        TrainSpec(recipe=SCALES["small"].model_copy(update={"decoding": "scaled"}))
    assert TrainSpec(recipe=recipe(decoding="scaled")).recipe.decoding == "scaled"
    numbers = np.random.default_rng(0)
    for width, height in [(512, 384), (2000, 1500), (300, 900), (224, 224)]:
        least = smallest((width, height), (224, 224))
        assert least[0] <= width
        assert least[1] <= height
        boxes = [crop_box(*least, numbers.random(CROP_NUMBERS)) for _ in range(300)]
        assert min(min(right - left, bottom - top) for left, top, right, bottom in boxes) >= min(
            224, int(0.8 * height), int(0.8 * width)
        )


def test_a_large_jpeg_is_decoded_smaller_and_a_small_one_as_it_is(tmp_path: Path) -> None:
    from datacomp_core.shards import ShardWriter, write_index
    from datacomp_core.store import Folder
    from datacomp_core.training.samples import ShardSource

    folder = Folder(tmp_path)
    noise_of = np.random.default_rng(0)
    with (tmp_path / "00000000.tar").open("wb") as file:
        writer = ShardWriter(file, "00000000")
        for number, side in enumerate((600, 100)):
            writer.add(f"{number:032x}", f"{number:032x}", {"jpg": jpeg(noise_of, side), "txt": b"x"})
        write_index(folder, "00000000", writer.finish())
    source = ShardSource(url=folder.url, index=folder.url, shards=(("00000000", 2),))
    full, scaled = (
        SampleReader((source,), lambda texts: np.zeros((1, 1)), cache="unused", cache_bytes=0, scaled_to=to)
        for to in ((0, 0), (64, 64))
    )
    assert (full(0, 0).image.size, scaled(0, 0).image.size) == ((600, 600), (150, 150))
    assert np.array_equal(np.asarray(full(0, 1).image), np.asarray(scaled(0, 1).image))


def jpeg(numbers: np.random.Generator, side: int) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(numbers.integers(0, 256, (side, side, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_fast_decoding_is_within_one_grey_level(tmp_path: Path) -> None:
    assert TrainSpec(recipe=recipe(decoding="fast")).recipe.decoding == "fast"
    exact, fast = batches(tmp_path / "a"), batches(tmp_path / "b")
    fast.reader.decoding = "fast"
    for number in range(4):
        one, other = exact[number], fast[number]
        assert one.pixels.shape == other.pixels.shape == (8, 3, 32, 32)
        assert int((one.pixels.int() - other.pixels.int()).abs().max()) <= 2
        assert torch.equal(one.tokens, other.tokens)


def stream(made: MicroBatchDataset, workers: int, *, first: int = 0, steps: int = 6) -> MicroBatchStream:
    made.reader.tokenize = lengths
    found = MicroBatchStream(made, steps_per_epoch=steps, epochs=1, first=first, workers=workers, device=CPU)
    found.normalise_by((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    return found


@pytest.mark.parametrize(("decoding", "workers"), [("full", 2), ("fast", 1)])
def test_processes_that_write_into_the_batch_change_no_bit(
    decoding: Decoding, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In pieces that do not divide the batch, through more batches than there are slots, and from any step on."""
    monkeypatch.setattr(loader, "PIECE", 3)
    seen: list[list[tuple[torch.Tensor, torch.Tensor]]] = []
    for number, (processes, first) in enumerate(((0, 0), (workers, 0), (workers, 4))):
        made = batches(tmp_path / str(number))
        made.reader.decoding = decoding
        seen.append(list(stream(made, processes, first=first)))
    here, there, later = seen
    assert len(here) == len(there) == 12
    assert len(later) == 4
    for mine, theirs in zip([*here, *here[8:]], [*there, *later], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_a_batch_is_written_once_and_its_memory_used_again(tmp_path: Path) -> None:
    """What the processes wrote is what the loop's tensors look at, in a few blocks that do not grow."""
    made = batches(tmp_path)
    made.reader.tokenize = lengths
    places = [
        micro.pixels.data_ptr() for micro in loader.load_micro_batches(made, range(12), 1, pinned=True)
    ]  # no CUDA: it goes on without
    assert 1 < len(set(places)) <= 1 + loader.PIECES_A_PROCESS < len(places)


def test_a_killed_process_of_the_loader_is_told(tmp_path: Path) -> None:
    made = batches(tmp_path)
    made.reader.tokenize = deadly
    with pytest.raises(LostProcessError, match=r"loader was killed, .*continues from its last checkpoint"):
        list(loader.load_micro_batches(made, range(4), 2, pinned=False))
    assert not [child for child in multiprocessing.active_children() if child.is_alive()]


def test_an_error_of_a_process_comes_in_its_turn(tmp_path: Path) -> None:
    """The first shard is overwritten with zeros after the order was made: the batches before are given, then its sentence."""
    made = batches(tmp_path)
    made.reader.tokenize = lengths
    shards, _ = made.order.batch(0)
    source, name = made.reader.shards[int(shards[12])]
    there = [
        number for number in range(8) if (made.order.batch(number // 2, *made.mine.part(16, number % 2))[0] == shards[12]).any()
    ]
    path = Path(source.url.removeprefix("file://")) / f"{name}.tar"
    path.write_bytes(bytes(path.stat().st_size))
    taken: list[int] = []
    with pytest.raises(DataError, match=f"{name}.*cannot be read"):
        taken.extend(number for number, _ in enumerate(loader.load_micro_batches(made, range(8), 2, pinned=False)))
    assert len(taken) == there[0]


def deadly(texts: list[str]) -> Any:
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return lengths(texts)


def lengths(texts: list[str]) -> Any:
    return np.array([[len(text)] for text in texts])
