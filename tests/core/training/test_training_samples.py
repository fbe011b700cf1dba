"""Decoding, cropping and normalising, against open_clip's own training transform; and samples that cannot be read."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training_world import NoiseSpec, noise, store_at

from datacomp_core.errors import DataError
from datacomp_core.store import Folder
from datacomp_core.training.data import BatchSlice, MicroBatchDataset, MicroBatchStream, order_of
from datacomp_core.training.preflight import preflight
from datacomp_core.training.samples import CROP_NUMBERS, SampleReader, ShardSource, augmented, crop_box


def no_tokens(texts: list[str]) -> Any:
    return np.array([[len(text)] for text in texts])


@pytest.fixture
def source(tmp_path: Path) -> ShardSource:
    store = store_at(tmp_path)
    shards = noise(NoiseSpec(), store=store)
    return preflight(shards, store.folder(shards), tmp_path, 1.0)[0]


def batches(
    source: ShardSource, tolerant: bool = False, cache_bytes: int = 0, mine: BatchSlice | None = None
) -> MicroBatchDataset:
    order = order_of(0, 16, [count for _, count in source.shards], [1.0] * len(source.shards))
    reader = SampleReader((source,), no_tokens, cache="unused", cache_bytes=cache_bytes)
    return MicroBatchDataset(order, reader, mine or BatchSlice(0, 1, 1), (32, 32), tolerant=tolerant)


def test_pixels_are_bit_for_bit_those_of_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from open_clip.transform import image_transform
    from torchvision.transforms import RandomResizedCrop

    numbers = np.random.default_rng(3)
    theirs = image_transform(32, is_train=True)
    for width, height in [(64, 64), (97, 33), (20, 31), (300, 40), (40, 300), (32, 32)]:
        image = Image.fromarray(numbers.integers(0, 256, (height, width, 3), np.uint8))
        draw = numbers.random(CROP_NUMBERS)
        left, top, right, bottom = crop_box(width, height, draw)
        monkeypatch.setattr(
            RandomResizedCrop, "get_params", staticmethod(lambda *_, at=(top, left, bottom - top, right - left): at)
        )
        steps = MicroBatchStream.__new__(MicroBatchStream)
        steps.device = torch.device("cpu")
        steps.normalise_by(theirs.transforms[-1].mean, theirs.transforms[-1].std)
        pixels = torch.from_numpy(augmented(image, draw, (32, 32)).transpose(2, 0, 1).copy())
        assert torch.equal(steps.normalised(pixels[None])[0], theirs(image))


def test_crops_are_drawn_as_torchvision_draws_them() -> None:
    import torch
    from torchvision.transforms import RandomResizedCrop

    torch.manual_seed(0)
    numbers = np.random.default_rng(0)
    for width, height in [(64, 48), (200, 30)]:  # the second is too long for the ratios: mostly the central crop
        image = Image.new("RGB", (width, height))
        theirs = np.array([RandomResizedCrop.get_params(image, [0.9, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)])
        mine = np.array([crop_box(width, height, numbers.random(CROP_NUMBERS)) for _ in range(3000)])
        mine = np.stack([mine[:, 1], mine[:, 0], mine[:, 3] - mine[:, 1], mine[:, 2] - mine[:, 0]], 1)
        assert np.allclose(mine.mean(0), theirs.mean(0), atol=0.25)
        assert np.array_equal(mine.min(0), theirs.min(0))
        assert np.array_equal(mine.max(0), theirs.max(0))


def test_batches_do_not_depend_on_the_cache_or_the_cut(source: ShardSource) -> None:
    import torch

    cached, fresh = batches(source, cache_bytes=1 << 24), batches(source)
    halves = [batches(source, mine=BatchSlice(rank, 2, 1)) for rank in (0, 1)]
    for step in (0, 5, 5, 1):
        assert torch.equal(cached[step].pixels, fresh[step].pixels)
        assert torch.equal(torch.cat([half[step].pixels for half in halves]), fresh[step].pixels)
        assert torch.equal(torch.cat([half[step].tokens for half in halves]), fresh[step].tokens)


def damaged(source: ShardSource, tmp_path: Path, row: int) -> ShardSource:
    """The source with one image overwritten by zeros, its tar still well formed."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    for name, _ in source.shards:
        (folder / f"{name}.tar").write_bytes(Folder(source.url).read(f"{name}.tar"))
    from datacomp_core.shards import read_index

    rows = read_index(Folder(source.index), source.shards[0][0])
    data = bytearray((folder / f"{source.shards[0][0]}.tar").read_bytes())
    start = int(rows["offset"][row]) + 512
    data[start : start + 400] = bytes(400)
    (folder / f"{source.shards[0][0]}.tar").write_bytes(data)
    return source.model_copy(update={"url": str(folder)})


def test_an_unreadable_sample_is_an_error_or_is_counted(source: ShardSource, tmp_path: Path) -> None:
    bad = damaged(source, tmp_path, 3)
    with pytest.raises(DataError, match=r"Sample 3 of shard .*00000000.tar \(byte \d+\) cannot be read"):
        for step in range(20):
            batches(bad)[step]
    tolerant, strict = batches(bad, tolerant=True), batches(source)
    replaced = sum(len(tolerant[step].unreadable) for step in range(20))
    drawn = sum(int(((s == 0) & (r == 3)).sum()) for s, r in (strict.order.batch(step) for step in range(20)))
    assert replaced == drawn > 0


def test_a_palette_image_is_converted_before_it_is_cropped() -> None:
    image = Image.new("P", (40, 40))
    stored = io.BytesIO()
    image.save(stored, "PNG")
    assert augmented(Image.open(stored).convert("RGB"), np.full(CROP_NUMBERS, 0.5), (32, 32)).shape == (32, 32, 3)
