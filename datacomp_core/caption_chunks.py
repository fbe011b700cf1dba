"""Stores model-written captions in chunks of rows, so that a rerun resumes, and joins them part by part. A part's captions are
written last and mark it as done. `chunks/<part>/<first row>.parquet` contains one chunk with its counts.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import polars as pl

from datacomp_core import caption_sets
from datacomp_core.artifacts import Captions
from datacomp_core.store import Folder

CHUNKS = "chunks"
TALLY = "tally"
COUNTS = "counts"


class RowSpan(NamedTuple):
    """Rows `start` (included) to `stop` (excluded) of a part."""

    part: str
    start: int
    stop: int

    @property
    def file(self) -> str:
        return f"{CHUNKS}/{self.part}/{self.start:012d}.parquet"


class WrittenChunks:
    """The chunks of some parts, and which of them exist."""

    def __init__(self, out: Folder, rows: Mapping[str, int], size: int) -> None:
        self.out, self.rows, self.size = out, rows, size
        self._there = set(out.files())

    def spans(self, part: str) -> list[RowSpan]:
        return [RowSpan(part, start, min(start + self.size, self.rows[part])) for start in range(0, self.rows[part], self.size)]

    def missing(self) -> Iterator[RowSpan]:
        """Yield the missing chunks; join complete parts on the way."""
        fresh: list[RowSpan] = []
        self.waiting = Counter[str]()
        for part in self.rows:
            if f"{TALLY}/{part}.json" in self._there:
                continue
            mine = [span for span in self.spans(part) if span.file not in self._there]
            self.waiting[part] = len(mine)
            fresh += mine
            if not mine:
                self._join(part)
        return iter(fresh)

    def kept(self, span: RowSpan) -> None:
        """Note that a chunk was written."""
        self.waiting[span.part] -= 1
        if not self.waiting[span.part]:
            self._join(span.part)

    def counts(self) -> Counter[str]:
        """Return the counts of all parts."""
        found = Counter[str]()
        for part in self.rows:
            found.update(self.out.read_json(f"{TALLY}/{part}.json"))
        return found

    def forget(self) -> None:
        """Remove the counts of a run that wrote no caption, so that it leaves nothing behind."""
        for part in self.rows:
            self.out.remove(f"{TALLY}/{part}.json")

    def _join(self, part: str) -> None:
        pieces, counts = list[pl.DataFrame](), Counter[str]()
        for span in self.spans(part):
            data = self.out.read(span.file)
            pieces.append(pl.read_parquet(io.BytesIO(data)))
            counts.update(json.loads(pl.read_parquet_metadata(io.BytesIO(data))[COUNTS]))
        rows = pl.concat(pieces) if pieces else pl.DataFrame(schema=caption_sets.SCHEMA)
        if rows.height:
            caption_sets.write_captions(self.out, part, rows)
        counts.update(captions=rows.height, captioned=rows["row"].n_unique())
        self.out.write_json(f"{TALLY}/{part}.json", dict(counts))
        self.out.remove(f"{CHUNKS}/{part}")


class CaptionLines:
    """The captions of one chunk while it is written, and the outcome of rows without one."""

    def __init__(self, source: str) -> None:
        self.source, self.counts = source, Counter[str]()
        self._made: list[tuple[int, str, str, str]] = []

    def add(self, row: int, uid: str, texts: Sequence[str]) -> None:
        """Add a model's texts for a row; empty texts are counted and skipped."""
        good = [text for text in texts if text.strip()]
        self.counts["empty"] += len(texts) - len(good)
        self._made += [(row, uid, self.source, text) for text in good]

    def keep(self, out: Folder, span: RowSpan) -> None:
        """Write the chunk."""
        columns = ["row", "uid", "source", "text"]
        rows = pl.DataFrame(self._made, schema=columns, orient="row", schema_overrides={"row": pl.Int64})
        keep(out, span, rows, +self.counts)


def artifact_of(name: str, model: str, num_samples: int, counts: Mapping[str, int]) -> Captions:
    """Return the captions of a model-written source, by the counts of all parts."""
    return Captions(
        sources=(name,),
        model=model,
        num_samples=num_samples,
        num_captions=counts["captions"],
        num_captioned=counts["captioned"],
        counts=dict(counts),
    )


def keep(out: Folder, span: RowSpan, rows: pl.DataFrame, counts: Mapping[str, int]) -> None:
    """Write a chunk: rows of `caption_sets.SCHEMA`, and the outcome of the others."""
    buffer = io.BytesIO()
    table = rows.select(pl.col(name).cast(kind) for name, kind in caption_sets.SCHEMA.items())
    table.write_parquet(buffer, compression="zstd", metadata={COUNTS: json.dumps(dict(counts))})
    out.write(span.file, buffer.getvalue())
