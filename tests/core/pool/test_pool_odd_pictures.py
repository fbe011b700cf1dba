"""16-bit and turned pictures: as img2dataset stores them, put right, or left out; counted whichever it is."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from odd_tars import pack
from PIL import Image, ImageOps

from datacomp_core.pool import ledger
from datacomp_core.pool.adopt import AdoptedPoolSpec, adopt_metadata, adopt_shards
from datacomp_core.pool.image_header import CheckedResizer
from datacomp_core.pool.odd_pictures import turned_boxes
from datacomp_core.store import Store

GRADIENT = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)


def deep(kind: str) -> bytes:
    return cv2.imencode(f".{kind}", np.dstack([GRADIENT] * 3))[1].tobytes()


def turned(orientation: int) -> bytes:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:10, :15] = (255, 0, 0)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def resized(data: bytes, treatment: str) -> tuple[CheckedResizer, tuple[object, ...]]:
    from img2dataset.resizer import Resizer

    theirs = Resizer(64, "keep_ratio_largest", resize_only_if_bigger=True, encode_quality=9, encode_format="png")
    made = CheckedResizer(theirs, 1 << 20, deep=treatment, turned=treatment)  # type: ignore[arg-type]
    return made, made(io.BytesIO(data))


def pixels_of(made: tuple[object, ...]) -> np.ndarray:
    assert isinstance(made[0], bytes)
    return cv2.imdecode(np.frombuffer(made[0], np.uint8), cv2.IMREAD_UNCHANGED)


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_pictures_of_16_bits(kind: str) -> None:
    resizer, made = resized(deep(kind), "correct")
    assert resizer.odd == ("deep",)
    assert np.abs(pixels_of(made)[..., 0].astype(int) - (GRADIENT / 257).astype(int)).max() <= 1
    resizer, made = resized(deep(kind), "as_reference")
    assert (resizer.odd, made[5]) == (("deep",), None)
    _, made = resized(deep(kind), "drop")
    assert ledger.reason_of(str(made[5])) == "deep_picture"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures(orientation: int) -> None:
    data = turned(orientation)
    resizer, made = resized(data, "correct")
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
    assert resizer.odd == (("turned",) if orientation > 1 else ())
    assert np.array_equal(pixels_of(made)[..., ::-1], expected)
    lies = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(pixels_of(resized(data, "as_reference")[1])[..., ::-1], lies)
    left, top, right, bottom = turned_boxes([[0, 0, 0.25, 0.25]], orientation)[0]
    height, width = expected.shape[:2]
    marked = expected[round(top * height) : round(bottom * height), round(left * width) : round(right * width)]
    assert marked.size == (expected[..., 0] == 255).sum() * 3
    assert (marked[..., 0] == 255).all()
    if orientation > 1:
        assert ledger.reason_of(str(resized(data, "drop")[1][5])) == "turned_picture"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("treatment", ["as_reference", "correct", "drop"])
def test_a_tiff_comes_out_as_it_is_meant_for_opencv_turns_it(orientation: int, treatment: str) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:10, :15] = (255, 0, 0)
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, "TIFF", exif=exif)
    resizer, made = resized(buffer.getvalue(), treatment)
    upright = {2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: np.swapaxes(pixels, 0, 1)}
    upright |= {6: np.rot90(pixels, -1), 7: np.rot90(pixels, 2).swapaxes(0, 1), 8: np.rot90(pixels, 1)}
    assert np.array_equal(pixels_of(made)[..., ::-1], upright.get(orientation, pixels))
    assert resizer.odd == ()


def test_usual_pictures_are_not_odd() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(buffer, "JPEG")
    resizer, made = resized(buffer.getvalue(), "drop")
    assert (resizer.odd, made[5]) == ((), None)


def saved(kind: str, orientation: int = 1, pixels: np.ndarray = np.zeros((40, 60, 3), np.uint8)) -> bytes:  # noqa: B008
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x010F] = "maker"
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def test_adopting_counts_them_by_their_headers_whatever_their_names_say(tmp_path: Path) -> None:
    """Of an adopted set nothing is decoded or changed; the counts and the ledger say which pictures come out otherwise."""
    pictures = {
        "grey.png": (cv2.imencode(".png", GRADIENT)[1].tobytes(), "deep"),
        "colour.jpg": (deep("png"), "deep"),
        "scan.tif": (deep("tiff"), "deep"),
        "phone.jpg": (saved("JPEG", 6), "turned"),
        "upright.jpg": (saved("JPEG"), None),
        "eight.png": (saved("PNG"), None),
        "flat.tiff": (saved("TIFF"), None),
        "broken.png": (b"\x89PNG\r\n\x1a\n", None),
        "cut.tif": (b"II*\0", None),
        "exif.jpg": (saved("JPEG")[:40], None),
    }
    root = tmp_path / "old"
    root.mkdir()
    members = [m for name, (data, _) in pictures.items() for m in ((name, data), (f"{name.split('.')[0]}.txt", b"words"))]
    (root / "a.tar").write_bytes(pack(members))
    kinds = {"key": [name.split(".")[0] for name in pictures], "status": ["success"] * len(pictures)}
    warnings.simplefilter("error")
    for table in (False, True):
        if table:
            pl.DataFrame(kinds).write_parquet(root / "a.parquet")
        store, spec = Store.open(str(tmp_path / f"store{table}")), AdoptedPoolSpec(source=str(root), edition=2)
        shards = adopt_shards(spec, adopt_metadata(spec, store=store), store=store)
        assert (shards.num_samples, shards.counts["deep_pictures"], shards.counts["turned_pictures"]) == (10, 3, 1)
        book = pl.read_parquet(root / "ledger/a.parquet")
        expected = {name.split(".")[0]: odd for name, (_, odd) in pictures.items()}
        assert dict(book.select("key", "picture").iter_rows()) == expected
    store, spec = Store.open(str(tmp_path / "again")), AdoptedPoolSpec(source=str(root))  # by the index that lies there now
    again = adopt_shards(spec, adopt_metadata(spec, store=store), store=store).counts
    assert (again["deep_pictures"], again["turned_pictures"]) == (3, 1)
