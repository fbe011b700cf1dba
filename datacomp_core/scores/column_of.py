"""Reads a score that was computed elsewhere: a column of an external table, joined to the pool by uid, url or img2dataset's
key. The table may have any number of files in any order; it is joined once and kept like every computed score. Rows that do not
match are counted, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, Field

from datacomp_core import external_files, joining, score_tables, shards, uid
from datacomp_core.errors import DataError
from datacomp_core.joining import Join, JoinCounts
from datacomp_core.pool_source import PoolSource
from datacomp_core.scores.base import Column, Score, ScoreContext, register
from datacomp_core.store import Folder
from datacomp_core.store.fingerprint import short_place
from datacomp_core.store.folder import scratch

JOINED, COUNTS = "joined", "join.json"


def _pinned(name: str) -> str:
    return external_files.pin_place(name, score_tables.SUFFIXES, "a table of scores")


TableName = Annotated[str, AfterValidator(_pinned)]


@register("column_of")
class ColumnOf(Score):
    """A column of a table, by a key."""

    paper = "given by the author of the table"

    file: TableName = Field(
        description="A file or a folder of parquet, csv, tsv, jsonl, npz or npy; local, s3://, https:// or hf://."
    )
    column: str = Field(default="score", min_length=1, description="The column to use.")
    key: Literal["uid", "key", "url"] = Field(
        default="uid", description="Join key. key: img2dataset's, through the index of the shards."
    )
    repeated: Literal["refuse", "first", "mean"] = Field(
        default="refuse", description="If a key occurs twice with different values: reject it, use the first, or the mean."
    )

    def account(self, out: Folder) -> dict[str, int]:
        return {f"join: {name}": number for name, number in out.read_json(COUNTS).items()}

    def reads_index(self) -> bool:
        return self.key == "key"

    def columns(self) -> tuple[str, ...]:
        return ("url",) if self.key == "url" else ()

    def prepare(self, context: ScoreContext) -> Folder:
        """Join, and put the values of each part into the folder that is kept."""
        files, names = external_files.local(self.file, score_tables.SUFFIXES), context.names
        rows, size = sum(context.source.num_rows(part) for part in names), sum(file.stat().st_size for file in files)
        pieces = score_tables.read(files, self.key, [self.column])
        placed, dropped = context.kept / JOINED, JoinCounts()
        with scratch() as local:
            if self.key == "key":
                pieces = joining.translate_uids(pieces, _index(context.source), local, rows, 1, dropped, size)
            table, advice = short_place(self.file), "choose `repeated: first` or `repeated: mean`"
            made = Join(local / "join", names, 1, rows, self.repeated, table, advice, size)
            join, counts = joining.by_uid(self._pool(context), pieces, made)
            counts.add(dropped)
            if not counts.matched:
                raise DataError(
                    f"No row of {table} is of this pool (joined by {self.key}; unknown keys: {counts.unknown:,}, rows of the "
                    f"pool without a value: {counts.missing:,}). Give the table of this pool, or another `key`."
                )
            for part in names:
                with placed.writing(f"{part}.npy") as path, path.open("wb") as file:
                    np.save(file, join.values(part)[:, 0])
        context.kept.write_json(COUNTS, vars(counts))
        return placed

    def of_part(self, source: PoolSource, part: str, prepared: Folder) -> Column:
        with prepared.open(f"{part}.npy") as file:
            return np.load(file, allow_pickle=False)

    def _pool(self, context: ScoreContext) -> Iterator[tuple[str, uid.Uids]]:
        key, column = ("url", "url") if self.key == "url" else ("uid", "uid")
        for part in context.names:
            values = context.source.read(part, [column])[column]
            yield part, joining.keys_of(values.fill_null("") if key == "url" else values, key, part)


def _index(source: PoolSource) -> Iterator[tuple[uid.Uids, uid.Uids]]:
    if source.shards is None or not shards.index_names(source.shards):
        raise DataError("A join by img2dataset's key needs the index of the shards: give the shards of this pool.")
    return joining.sample_keys(source.shards)
