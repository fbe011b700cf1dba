"""Pictures of a filter as PNG: the histogram colours what is kept; a sheet shows kept samples above dropped ones."""

from __future__ import annotations

import io
from pathlib import Path

import polars as pl
from PIL import Image

from datacomp_core.leaderboard.site.contact_sheet_png import CELL, contact_sheet_png
from datacomp_core.leaderboard.site.figures import Histogram, histogram_png
from datacomp_core.shards import ShardWriter, write_index
from datacomp_core.store import Folder

KEPT = (0x3A, 0x6E, 0xA5)


def _near(pixel: tuple[int, ...], color: tuple[int, ...]) -> bool:
    return all(abs(a - b) < 12 for a, b in zip(pixel, color, strict=True))


def _count(png: bytes, color: tuple[int, ...]) -> int:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    return sum(count for count, pixel in image.getcolors(1 << 24) or [] if _near(pixel, color))


def test_the_histogram_shows_what_is_kept() -> None:
    edges, counts = [0.0, 0.1, 0.2, 0.3], [10, 20, 10]
    all_kept, some, none = (
        _count(histogram_png(Histogram("clip", edges, counts, kept, 0.15)), KEPT)
        for kept in ([10, 20, 10], [0, 10, 10], [0, 0, 0])
    )
    assert all_kept > 1.5 * some > 0
    assert none < some / 20


def test_a_sheet_has_kept_above_dropped(tmp_path: Path) -> None:
    colors = {"kept": (250, 10, 10), "dropped": (10, 10, 250)}
    shards = tmp_path / "shards"
    shards.mkdir()
    with (shards / "00000000.tar").open("wb") as file:
        writer = ShardWriter(file, "00000000")
        for number, (name, color) in enumerate(colors.items()):
            buffer = io.BytesIO()
            Image.new("RGB", (64, 64), color).save(buffer, "PNG")
            uid = f"{number:032x}"
            writer.add(
                uid, f"{number:09d}", {"png": buffer.getvalue(), "txt": b"a picture", "json": f'{{"uid": "{uid}"}}'.encode()}
            )
            row = {"uid": [uid], "text": ["a picture"], "score": [0.5], "reason": ["too dark" if number else ""]}
            pl.DataFrame(row).write_parquet(tmp_path / f"{name}.parquet")
        write_index(Folder(shards), "00000000", writer.finish())
    sheet = Image.open(io.BytesIO(contact_sheet_png(Folder(tmp_path), Folder(shards)))).convert("RGB")
    above, below = sheet.crop((0, 0, *CELL)), sheet.crop((0, CELL[1], CELL[0], 2 * CELL[1]))
    for part, own, other in ((above, "kept", "dropped"), (below, "dropped", "kept")):
        seen = [pixel for _, pixel in part.getcolors(1 << 24) or []]
        assert any(_near(pixel, colors[own]) for pixel in seen)
        assert not any(_near(pixel, colors[other]) for pixel in seen)
