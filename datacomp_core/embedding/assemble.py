"""From encoded batches to the files of a part: gathered in chunks that are kept, so that a rerun goes on, then joined.

A part's scores are written last and say that it is done. Chunks may be made by several processes; parts are joined by one.
Memory is bounded by the chunks being filled and one part.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.parts import FEATURES, SCORES
from datacomp_core.pool_source import PoolSource
from datacomp_core.store.folder import Folder

CHUNKS = "chunks"
TALLY = "tally"
EMBEDDED, NOT_FINITE, ENCODERS = "embedded", "not_finite", "encoders"
CHUNK_ROWS = 8192

Features = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Span:
    """Rows `start` (included) to `stop` (excluded) of a part."""

    part: str
    start: int
    stop: int


@dataclass(frozen=True)
class EncoderColumn:
    """One encoder's output: its score column, the prefix of its npz keys, its features' width, and what the score compares."""

    score: str
    prefix: str
    dim: int
    flip: Literal["none", "averaged"] = "none"


class Sides(NamedTuple):
    """Features of a batch by one model: of images, of captions and, where its score asks for them, of the mirrored images."""

    images: Features
    texts: Features
    mirrored: Features | None = None


@dataclass
class Chunk:
    """The rows of one span while they are being filled, an array a column."""

    images: list[Halves]
    texts: list[Halves]
    scores: list[Features]
    left: int
    tally: Counter[str] = field(default_factory=Counter[str])

    @classmethod
    def of(cls, columns: tuple[EncoderColumn, ...], size: int) -> Chunk:
        images, texts = ([np.empty((size, column.dim), np.float16) for column in columns] for _ in range(2))
        return cls(images, texts, [np.empty(size, np.float32) for _ in columns], size)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """As they are stored in a file."""
        names = sorted(self.tally)
        made: dict[str, npt.NDArray[np.generic]] = {
            "names": np.array(names, np.str_),
            "counts": np.array([self.tally[name] for name in names], np.int64),
        }
        for number, parts in enumerate(zip(self.images, self.texts, self.scores, strict=True)):
            made |= {f"{kind}{number}": part for kind, part in zip(("images", "texts", "scores"), parts, strict=True)}
        return made


def cut_chunks(rows: dict[str, int], batch: int) -> tuple[int, list[Span]]:
    """Rows of a chunk, and the chunks of some parts in order; no batch straddles two chunks."""
    step = max(1, CHUNK_ROWS // batch) * batch
    return step, [Span(part, start, min(start + step, count)) for part, count in rows.items() for start in range(0, count, step)]


class Filling:
    """Takes encoded rows of chunks in any order and gives a chunk back when it is full."""

    def __init__(self, columns: tuple[EncoderColumn, ...], step: int, rows: dict[str, int]) -> None:
        self.columns, self.step, self.rows = columns, step, rows
        self.open: dict[Span, Chunk] = {}

    def add(self, span: Span, sides: list[Sides], both: list[int], tally: dict[str, int]) -> tuple[Span, Chunk] | None:
        """Features of one batch, those of each column, NaN where there is nothing; cosines are taken here.

        `both` are the rows with a picture and a caption, `tally` says why the others are not embedded. A row whose features are
        not finite (an overflow in half precision), or all 0 (an overflow of their norm), has none and is counted.
        """
        start = span.start // self.step * self.step
        key = Span(span.part, start, min(start + self.step, self.rows[span.part]))
        chunk = self.open.get(key) or self.open.setdefault(key, Chunk.of(self.columns, key.stop - key.start))
        where = slice(span.start - start, span.stop - start)
        chunk.tally.update(tally)
        every = np.ones(len(both), np.bool_)
        for number, (column, found) in enumerate(zip(self.columns, sides, strict=True)):
            images, texts, mirrored = found
            for side in (side for side in found if side is not None):
                side[~np.isfinite(side).all(axis=1) | ~side.any(axis=1)] = np.nan
            scores = np.einsum("nd,nd->n", images, texts)
            if mirrored is not None:
                scores = (scores + np.einsum("nd,nd->n", mirrored, texts)) / 2
            chunk.images[number][where], chunk.texts[number][where], chunk.scores[number][where] = images, texts, scores
            good = np.isfinite(scores[both])
            every &= good
            chunk.tally[_of(column, EMBEDDED)] += int(good.sum())
            chunk.tally[_of(column, NOT_FINITE)] += int((~good).sum())
        chunk.tally[EMBEDDED] += int(every.sum())
        chunk.tally[NOT_FINITE] += int((~every).sum())
        chunk.left -= span.stop - span.start
        return None if chunk.left else (key, self.open.pop(key))


def keep(out: Folder, span: Span, chunk: Chunk) -> None:
    """Write a full chunk."""
    buffer = io.BytesIO()
    np.savez(buffer, **chunk.arrays())  # pyright: ignore[reportArgumentType]
    out.write(kept_name(span), buffer.getvalue())


class PartAssembler:
    """Joins the chunks of each part when its last chunk exists."""

    def __init__(
        self, out: Folder, metadata: Folder, rows: dict[str, int], columns: tuple[EncoderColumn, ...], batch: int
    ) -> None:
        self.out, self.metadata, self.rows, self.columns = out, metadata, rows, columns
        self.step, self.chunks = cut_chunks(rows, batch)
        self.waiting: Counter[str] = Counter()

    def missing(self) -> Iterator[Span]:
        """The chunks that are not kept from an earlier try; parts that lack none are finished on the way."""
        there = self.out.files()
        fresh = [chunk for chunk in self.chunks if kept_name(chunk) not in there]
        self.waiting = Counter(chunk.part for chunk in fresh)
        for part in self.rows:
            if not self.waiting[part]:
                self._finish(part)
        yield from fresh

    def kept(self, span: Span) -> None:
        """A chunk was written."""
        self.waiting[span.part] -= 1
        if not self.waiting[span.part]:
            self._finish(span.part)

    def _finish(self, part: str) -> None:
        count = self.rows[part]
        whole = Chunk.of(self.columns, count)
        for chunk in (chunk for chunk in self.chunks if chunk.part == part):
            with np.load(io.BytesIO(self.out.read(kept_name(chunk)))) as kept:
                where = slice(chunk.start, chunk.stop)
                for number in range(len(self.columns)):
                    whole.images[number][where] = kept[f"images{number}"]
                    whole.texts[number][where] = kept[f"texts{number}"]
                    whole.scores[number][where] = kept[f"scores{number}"]
                whole.tally.update(dict(zip(kept["names"].tolist(), kept["counts"].tolist(), strict=True)))
        self._write(part, whole)
        self.out.remove(f"{CHUNKS}/{part}")

    def _tally(self, counted: Counter[str]) -> dict[str, Any]:
        """Return the number of rows by their outcome with all encoders, and the same for each encoder alone."""
        flat = {name: counted[name] for name in sorted(counted) if ": " not in name}
        own = {
            column.prefix: flat | {what: counted[_of(column, what)] for what in (EMBEDDED, NOT_FINITE)} for column in self.columns
        }
        return {**flat, ENCODERS: own}

    def _write(self, part: str, whole: Chunk) -> None:
        features: dict[str, Halves] = {}
        for column, images, texts in zip(self.columns, whole.images, whole.texts, strict=True):
            features |= {f"{column.prefix}_img": images, f"{column.prefix}_txt": texts}
        with self.out.writing(f"{FEATURES}/{part}.npz") as path, path.open("wb") as file:
            np.savez(file, **features)  # pyright: ignore[reportArgumentType]
        self.out.write_json(f"{TALLY}/{part}.json", self._tally(whole.tally))
        scores = [
            pl.Series(column.score, values, dtype=pl.Float32, nan_to_null=True)
            for column, values in zip(self.columns, whole.scores, strict=True)
        ]
        uids = PoolSource(self.metadata).read(part, ["uid"])
        with self.out.writing(f"{SCORES}/{part}.parquet") as path:
            uids.with_columns(scores).write_parquet(path, compression="zstd")


def _of(column: EncoderColumn, what: str) -> str:
    """The name under which a chunk counts what differs between encoders."""
    return f"{column.prefix}: {what}"


def part_files(part: str) -> tuple[str, ...]:
    """Return the files written for a part, relative to the step's folder."""
    return f"{FEATURES}/{part}.npz", f"{TALLY}/{part}.json", f"{SCORES}/{part}.parquet"


def kept_name(chunk: Span) -> str:
    """The file of a chunk below the step's folder."""
    return f"{CHUNKS}/{chunk.part}/{chunk.start:012d}.npz"
