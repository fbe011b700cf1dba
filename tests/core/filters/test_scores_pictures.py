"""Scores of pictures' pixels and of small networks on features, against OpenCV, Pillow and torch."""

from __future__ import annotations

import hashlib
import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import feature_world as features
import filter_world as world
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.torch import save_file

from datacomp_core.errors import DataError, SpecError
from datacomp_core.pictures import rgb
from datacomp_core.pool_source import PoolSource
from datacomp_core.scores import score_of
from datacomp_core.scores.compute import compute
from datacomp_core.scores.image_scores import _image  # pyright: ignore[reportPrivateUsage]
from datacomp_core.scores.picture_quality import brightness, information, sharpness
from datacomp_core.shards import ShardWriter, write_index
from datacomp_core.store import Folder


def _picture(seed: int, size: tuple[int, int] = (90, 64)) -> Image.Image:
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


def test_sharpness_is_the_variance_of_opencvs_laplacian_and_falls_with_blur() -> None:
    image = _picture(1)
    laplacian = cv2.Laplacian(np.asarray(image.convert("L"), np.float64), cv2.CV_64F)[1:-1, 1:-1]
    assert sharpness(image) == pytest.approx(float(laplacian.var()))
    assert sharpness(image.filter(ImageFilter.GaussianBlur(3))) < sharpness(image) / 5
    large = _picture(2, (1000, 500))
    assert sharpness(large) == pytest.approx(sharpness(large.convert("L").resize((256, 128), Image.Resampling.BILINEAR)))
    assert sharpness(Image.new("RGB", (2, 500), "red")) == 0.0


def test_brightness_and_information_are_what_pillow_says() -> None:
    image = _picture(3)
    assert information(image) == pytest.approx(image.convert("L").entropy())
    assert information(Image.new("RGB", (20, 20), "red")) == 0.0
    assert brightness(Image.new("RGB", (9, 9), "white")) == pytest.approx(1.0)
    assert brightness(Image.new("RGB", (9, 9), (0, 255, 0))) == pytest.approx(np.sqrt(0.691))
    dark = Image.fromarray((np.asarray(image) * 0.2).astype(np.uint8))
    pixels = [np.sqrt(0.241 * r**2 + 0.691 * g**2 + 0.068 * b**2) / 255 for r, g, b in np.asarray(dark, float).reshape(-1, 3)]
    assert brightness(dark) == pytest.approx(np.percentile(pixels, 99), rel=1e-5)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16", "F"])
def test_the_pixels_are_those_that_training_sees(mode: str) -> None:
    """Of 16 bits of grey, and of floats, Pillow's RGB has only 0 to 255: such a picture is nearly white, or black."""
    grey = np.asarray(_picture(4).convert("L"))
    odd = {"I;16": grey.astype(np.uint16) * 257, "F": grey.astype(np.float32) / 255}
    image = Image.fromarray(odd[mode]) if mode in odd else _picture(4).convert(mode)
    assert image.mode == mode
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    read = _image(buffer.getvalue())
    assert read.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(read), rgb(buffer.getvalue()))
    if mode in odd:
        assert information(read) < 0.5


def test_picture_quality_lands_on_its_row(tmp_path: Path) -> None:
    table = world.rows(4, 6)
    images = [_picture(place).filter(ImageFilter.GaussianBlur(place)) for place in range(6)]
    folder = tmp_path / "shards"
    folder.mkdir()
    with (folder / "00000000.tar").open("wb") as file:
        writer = ShardWriter(file, "00000000")
        for place in (5, 3, 1, 0):
            buffer = io.BytesIO()
            images[place].save(buffer, "PNG")
            name = table[place]["uid"]
            writer.add(name, f"{place:09d}", {"png": buffer.getvalue(), "json": f'{{"uid": "{name}"}}'.encode()})
        write_index(Folder(folder), "00000000", writer.finish())
    source = PoolSource(world.write(tmp_path / "m", table), shards=Folder(folder))
    for measure, function in (("sharpness", sharpness), ("brightness", brightness), ("information", information)):
        score: Any = score_of(f"picture_quality:measure={measure}")
        found = features.column(compute(score, source, Folder(tmp_path / measure)), score.column_name)
        assert [value is None for value in found] == [False, False, True, False, True, False]
        for place in (0, 1, 3, 5):
            assert found[place] == pytest.approx(function(images[place]), rel=1e-6)


def test_copies_of_a_sample_have_the_smallest_value_of_them(tmp_path: Path) -> None:
    table = world.rows(4, 2)
    folder = tmp_path / "shards"
    folder.mkdir()
    pictures = [[_picture(1), _picture(2)], [_picture(2), _picture(1)]]  # of either sample, in order of shard
    for shard in range(2):
        with (folder / f"{shard:08d}.tar").open("wb") as file:
            writer = ShardWriter(file, f"{shard:08d}")
            for row, copies in zip(table, pictures, strict=True):
                buffer = io.BytesIO()
                copies[shard].save(buffer, "PNG")
                writer.add(row["uid"], row["uid"], {"png": buffer.getvalue(), "json": f'{{"uid": "{row["uid"]}"}}'.encode()})
            write_index(Folder(folder), f"{shard:08d}", writer.finish())
    source, score = PoolSource(world.write(tmp_path / "m", table, 1), shards=Folder(folder)), score_of("picture_quality")
    found = features.column(compute(score, source, Folder(tmp_path / "out")), score.column_name)
    assert found == pytest.approx([min(sharpness(_picture(1)), sharpness(_picture(2)))] * 2)


def _head(relu: bool) -> torch.nn.Sequential:
    torch.manual_seed(5)
    between = [torch.nn.ReLU()] if relu else [torch.nn.Dropout(0.5)]
    sizes = (features.DIMENSIONS, 12, *([8] * 10), 2)  # eleven layers and more: 10 comes after 2
    layers = [[torch.nn.Linear(a, b), *between] for a, b in pairwise(sizes)]
    return torch.nn.Sequential(*[one for some in layers for one in some][:-1]).eval()


@pytest.mark.parametrize(("suffix", "relu"), [(".safetensors", True), (".pt", False), (".npz", False)])
def test_a_head_is_torchs_network(suffix: str, relu: bool, tmp_path: Path) -> None:
    head, path = _head(relu), tmp_path / f"head{suffix}"
    state = {f"layers.{name}": tensor for name, tensor in head.state_dict().items()}
    if suffix == ".safetensors":
        save_file(state, path)
    elif suffix == ".pt":
        torch.save(state, path)
    else:
        np.savez(path, allow_pickle=False, **{name: tensor.numpy() for name, tensor in state.items()})
    folder, images, _ = features.embedded(tmp_path / "m", world.rows(6, 50))
    text = f"quality_head:head={path},output=1,after=sigmoid" + (",between=relu" if relu else "")
    score: Any = score_of(text)
    assert score.head.endswith("#" + hashlib.sha256(path.read_bytes()).hexdigest()[:16])
    found = features.column(compute(score, PoolSource(folder), Folder(tmp_path / "out")), score.column_name)
    known = np.isfinite(images[:, 0])
    assert [value is None for value in found] == (~known).tolist()
    with torch.no_grad():
        expected = torch.sigmoid(head(torch.nn.functional.normalize(torch.from_numpy(images[known]), dim=1)))[:, 1]
    np.testing.assert_allclose([value for value in found if value is not None], expected.numpy(), atol=1e-5)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match="is not the file that the recipe was made with"):
        compute(score, PoolSource(folder), Folder(tmp_path / "again"))


def test_a_sigmoid_of_large_outputs_is_0_or_1_without_a_warning(tmp_path: Path) -> None:
    folder, images, _ = features.embedded(tmp_path / "m", world.rows(6, 50))
    weight = torch.randn(1, 16, generator=torch.Generator().manual_seed(0)) * 2000
    save_file({"weight": weight}, tmp_path / "steep.safetensors")
    score: Any = score_of(f"quality_head:head={tmp_path}/steep.safetensors,after=sigmoid")
    found = features.column(compute(score, PoolSource(folder), Folder(tmp_path / "out")), score.column_name)
    known = torch.from_numpy(features.unit(images[np.isfinite(images[:, 0])]))
    expected = torch.sigmoid(known @ weight[0])
    np.testing.assert_allclose([value for value in found if value is not None], expected.numpy(), atol=1e-3)
    assert {0.0, 1.0} < set(found)


def test_small_probabilities_of_a_head_keep_their_digits(tmp_path: Path) -> None:
    folder, images, _ = features.embedded(tmp_path / "m", world.rows(6, 50))
    weight = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    save_file({"weight": weight, "bias": torch.tensor([-18.0])}, tmp_path / "rare.safetensors")
    score: Any = score_of(f"quality_head:head={tmp_path}/rare.safetensors,after=sigmoid")
    found = features.column(compute(score, PoolSource(folder), Folder(tmp_path / "out")), score.column_name)
    known = torch.from_numpy(features.unit(images[np.isfinite(images[:, 0])]))
    expected = torch.sigmoid(known.double() @ weight[0].double() - 18)
    np.testing.assert_allclose([value for value in found if value is not None], expected.numpy(), rtol=1e-3)


def test_a_head_is_named_with_its_sha256_whole_or_cut(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    save_file({"weight": torch.ones(1, 16)}, path)
    digits = hashlib.sha256(path.read_bytes()).hexdigest()
    plain = score_of(f"quality_head:head={path}")
    assert score_of(f"quality_head:head={path}#{digits}") == score_of(f"quality_head:head={path}#{digits[:16]}") == plain
    folder, _, _ = features.embedded(tmp_path / "m", world.rows(7, 30))
    other: Any = score_of(f"quality_head:head={path}#{digits[::-1]}")
    with pytest.raises(DataError, match="is not the file that the recipe was made with"):
        compute(other, PoolSource(folder), Folder(tmp_path / "out"))


class Evil:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_a_file_that_is_no_head_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, _, _ = features.embedded(tmp_path / "m", world.rows(7, 30))
    wide = {"weight": torch.zeros(1, 9), "bias": torch.zeros(1)}
    torch.save({"weight": torch.zeros(3, 3, 3)}, tmp_path / "cube.pt")
    torch.save(Evil(), tmp_path / "evil.pt")
    save_file(wide, tmp_path / "wide.safetensors")
    save_file({"weight": torch.zeros(1, 16), "bias": torch.full((1,), float("nan"))}, tmp_path / "nan.safetensors")
    save_file({"weight": torch.zeros(1, 16)}, tmp_path / "one.safetensors")
    np.savez(tmp_path / "words.npz", allow_pickle=False, weight=np.full((1, 16), "1"))
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for name, told in (
        ("cube.pt", "is not the weight .out, in. or bias"),
        ("evil.pt", "is not a torch file of plain tensors"),
        ("wide.safetensors", "expects 9 numbers and gets 16: it is not a head for l14 features"),
        ("nan.safetensors", "bias has values that are not finite"),
        ("words.npz", "weight .1, 16. <U1 is not the weight"),
        ("one.safetensors,output=1", "has 1 outputs, but number 1 is requested"),
        ("bad.safetensors", "cannot be read as a head"),
    ):
        score: Any = score_of(f"quality_head:head={tmp_path}/{name}")
        with pytest.raises(DataError, match=told):
            compute(score, PoolSource(folder), Folder(tmp_path / "out"))
    assert "run" not in capsys.readouterr().out
    with pytest.raises(SpecError, match="Cannot read .*nowhere"):
        score_of(f"quality_head:head={tmp_path}/nowhere.pt")
