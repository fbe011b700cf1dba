"""From encoded batches to the files of a part: gathered in chunks that are kept, so that a rerun goes on, then joined.

A part's scores are written last and say that it is done. Memory is that of the chunks being filled and of one part.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.parts import FEATURES, SCORES
from datacomp_core.store.folder import Folder

CHUNKS = "chunks"
TALLY = "tally"
CHUNK_ROWS = 8192

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """Rows `start` (included) to `stop` (excluded) of a part."""

    part: str
    start: int
    stop: int


@dataclass
class _Chunk:
    images: npt.NDArray[np.float16]
    texts: npt.NDArray[np.float16]
    scores: npt.NDArray[np.float32]
    left: int
    tally: Counter[str] = field(default_factory=Counter[str])


class Assembly:
    """Takes encoded rows in any order. `located` holds the uids of each part, `rows` how many a part has."""

    def __init__(self, out: Folder, located: Path, rows: dict[str, int], *, column: str, prefix: str, dim: int, batch: int):
        self.out, self.located, self.rows, self.column, self.prefix, self.dim = out, located, rows, column, prefix, dim
        self.step = max(1, CHUNK_ROWS // batch) * batch  # no batch may straddle two chunks
        self.open: dict[Span, _Chunk] = {}
        self.waiting: Counter[str] = Counter()

    def missing(self) -> Iterator[Span]:
        """The chunks that are not kept from an earlier try; parts that lack none are finished on the way."""
        kept = self.out.files()
        for part, count in self.rows.items():
            chunks = [Span(part, start, min(start + self.step, count)) for start in range(0, count, self.step)]
            fresh = [chunk for chunk in chunks if _spill(chunk) not in kept]
            self.waiting[part] = len(fresh)
            if not fresh:
                self._finish(part)
            yield from fresh

    def add(self, span: Span, images: Features, texts: Features, tally: dict[str, int]) -> int:
        """Rows of one batch, NaN where there is nothing; their cosines are taken here. How many rows have one."""
        start = span.start // self.step * self.step
        key = Span(span.part, start, min(start + self.step, self.rows[span.part]))
        if key not in self.open:
            self.open[key] = self._new(key.stop - key.start)
        chunk = self.open[key]
        where = slice(span.start - start, span.stop - start)
        scores = np.einsum("nd,nd->n", images, texts)
        chunk.images[where], chunk.texts[where], chunk.scores[where] = images, texts, scores
        embedded = int(np.isfinite(scores).sum())
        chunk.tally.update({**tally, "embedded": embedded})
        chunk.left -= span.stop - span.start
        if not chunk.left:
            self._keep(key, self.open.pop(key))
        return embedded

    def _new(self, size: int) -> _Chunk:
        images, texts = (np.empty((size, self.dim), np.float16) for _ in range(2))
        return _Chunk(images, texts, np.empty(size, np.float32), size)

    def _keep(self, key: Span, chunk: _Chunk) -> None:
        names = sorted(chunk.tally)
        counts = np.array([chunk.tally[name] for name in names], np.int64)
        buffer = io.BytesIO()
        arrays = {"images": chunk.images, "texts": chunk.texts, "scores": chunk.scores}
        np.savez(buffer, names=np.array(names, np.str_), counts=counts, **arrays)  # pyright: ignore[reportArgumentType]
        self.out.write(_spill(key), buffer.getvalue())
        self.waiting[key.part] -= 1
        if not self.waiting[key.part]:
            self._finish(key.part)

    def _finish(self, part: str) -> None:
        count = self.rows[part]
        images, texts = (np.empty((count, self.dim), np.float16) for _ in range(2))
        scores = np.empty(count, np.float32)
        tally: Counter[str] = Counter()
        for start in range(0, count, self.step):
            key = Span(part, start, min(start + self.step, count))
            with np.load(io.BytesIO(self.out.read(_spill(key)))) as kept:
                where = slice(key.start, key.stop)
                images[where], texts[where], scores[where] = kept["images"], kept["texts"], kept["scores"]
                tally.update(dict(zip(kept["names"].tolist(), kept["counts"].tolist(), strict=True)))
        with self.out.writing(f"{FEATURES}/{part}.npz") as path, path.open("wb") as file:
            np.savez(file, **{f"{self.prefix}_img": images, f"{self.prefix}_txt": texts})  # pyright: ignore[reportArgumentType]
        self.out.write_json(f"{TALLY}/{part}.json", {name: tally[name] for name in sorted(tally)})
        uids = pl.read_parquet(self.located / f"{part}.parquet", columns=["uid"])
        with self.out.writing(f"{SCORES}/{part}.parquet") as path:
            column = pl.Series(self.column, scores, dtype=pl.Float32, nan_to_null=True)
            uids.with_columns(column).write_parquet(path, compression="zstd")
        self.out.remove(f"{CHUNKS}/{part}")


def _spill(chunk: Span) -> str:
    return f"{CHUNKS}/{chunk.part}/{chunk.start:012d}.npz"
