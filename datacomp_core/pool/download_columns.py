"""Adds what a download knows about its images as columns of the pool: original size and sha256, where the metadata lacks them.
Custom tables rarely have them, and many filters read them. The values come from the ledger, aligned with the metadata's rows
like a score; for adopted tars that do not state them, from the images in the tars. Values of the metadata are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial

import polars as pl

from datacomp_core.artifacts import Pool, Scores, ShardSet, Spec
from datacomp_core.parallel import concurrently, process_map
from datacomp_core.parts import METADATA, SCHEMA, SCORES, part_names, scan, scan_tables
from datacomp_core.pictures import picture_size
from datacomp_core.pool.footers import rows_of_parts
from datacomp_core.pool.stats import ledger_names
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.sample_members import picture_in
from datacomp_core.shards import LEDGER, index_names, read_index, read_samples
from datacomp_core.store import Folder, Store, step

COLUMNS = ("original_width", "original_height", "sha256")
GROUP_ROWS = 8_000_000
LEDGERS_AT_ONCE = 256


class LearnedSpec(Spec):
    """The columns that a download provides."""

    columns: tuple[str, ...] = COLUMNS
    from_images: tuple[str, ...] = ()
    """The columns to read from the image in the tar, where neither metadata nor ledger has the value."""

    def label(self) -> str:
        return "learned"


@step("scores", version=1, name=lambda spec, pool, shards: f"{spec.label()}-{pool.name}")
def read_download_columns(
    spec: LearnedSpec,
    pool: Pool,
    shards: ShardSet,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Scores:
    """`scores/<part>.parquet`: uid, original_width, original_height, sha256; null for what never arrived."""
    metadata, ledger = store.folder(pool) / METADATA, store.folder(shards)
    books = [f"{LEDGER}/{name}.parquet" for name in ledger_names(ledger)]
    parts = part_names(metadata)
    progress.start(len(parts), "parts")
    rows = known = 0
    for group in _groups(metadata, parts):
        wanted = pl.concat([_of_metadata(metadata, part).with_columns(part=pl.lit(part)) for part in group])
        found = _of_ledgers(ledger, books, wanted["uid"].unique())
        filled = _filled(_joined(wanted, found))
        if (unknown := _unknown(filled, spec.from_images)).len():
            seen = _of_images(ledger, unknown, workers)
            filled = _filled(_joined(filled.select("uid", "part", *COLUMNS), seen))
        for (part,), table in filled.partition_by("part", as_dict=True, maintain_order=True).items():
            with (out / SCORES).writing(f"{part}.parquet") as path:
                table.select("uid", *COLUMNS).write_parquet(path, compression="zstd")
            rows, known = rows + table.height, known + int(table["sha256"].count())
            progress.advance()
    return Scores(column=COLUMNS[0], num_samples=rows, num_scored=known, counts={"known": known, "unknown": rows - known})


def _joined(rows: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    return rows.join(found, on="uid", how="left", maintain_order="left", suffix="_seen")


def _filled(joined: pl.DataFrame) -> pl.DataFrame:
    """Put the values found (`<column>_seen`) where a column has none."""
    return joined.with_columns(pl.coalesce(name, f"{name}_seen").alias(name) for name in COLUMNS)


def _unknown(rows: pl.DataFrame, columns: Sequence[str]) -> pl.Series:
    """Return the uids of rows that lack a value of these columns."""
    return rows.filter(pl.any_horizontal(pl.col(name).is_null() for name in columns) if columns else False)["uid"].unique()


def _groups(metadata: Folder, parts: Sequence[str]) -> Iterator[list[str]]:
    """Parts whose rows fit into memory together."""
    group, rows = list[str](), 0
    for part, number in zip(parts, rows_of_parts(metadata, parts, ("uid",)), strict=True):
        if group and rows + number > GROUP_ROWS:
            yield group
            group, rows = [], 0
        group, rows = [*group, part], rows + number
    yield group


def _of_metadata(metadata: Folder, part: str) -> pl.DataFrame:
    frame = scan(metadata, part)
    there = frame.collect_schema().names()
    columns = [(pl.col(name) if name in there else pl.lit(None)).cast(SCHEMA[name]).alias(name) for name in COLUMNS]
    return frame.select("uid", *columns).collect()


def _of_ledgers(ledger: Folder, books: Sequence[str], uids: pl.Series) -> pl.DataFrame:
    """Return what arrived for some uids; for copies of one sample, the first in order of shard counts."""
    wanted = pl.LazyFrame({"uid": uids})
    some: list[pl.DataFrame] = []
    for begin in range(0, len(books), LEDGERS_AT_ONCE):
        rows = scan_tables(ledger, *books[begin : begin + LEDGERS_AT_ONCE]).filter(pl.col("reason").is_null())
        found = rows.select("uid", *[pl.col(name).cast(SCHEMA[name]) for name in COLUMNS]).join(
            wanted, on="uid", how="semi", maintain_order="left"
        )
        some.append(found.collect(engine="streaming"))
    return pl.concat(some).unique("uid", keep="first", maintain_order=True)


def _of_images(shards: Folder, uids: pl.Series, workers: int) -> pl.DataFrame:
    """Return size and sha256 of the images of some uids, read from the tars; for copies of one sample, the first in order of
    shard counts."""
    wanted, names = uids.to_frame("uid"), index_names(shards)
    indexes = concurrently(lambda name: read_index(shards, name).join(wanted, on="uid", how="semi", maintain_order="left"), names)
    jobs = ((name, rows) for name, rows in zip(names, indexes, strict=True) if rows.height)
    found = {name: seen for (name, _), seen in process_map(partial(_look, shards), jobs, workers=workers)}
    schema = {"uid": pl.String, **{name: SCHEMA[name] for name in COLUMNS}}
    tables = [pl.DataFrame(found[name], schema=schema, orient="row") for name in sorted(found)]
    return pl.concat([pl.DataFrame(schema=schema), *tables]).unique("uid", keep="first", maintain_order=True)


def _look(shards: Folder, job: tuple[str, pl.DataFrame]) -> list[tuple[str, int | None, int | None, str]]:
    """uid, width, height and sha256 of the images of one shard's samples."""
    pictures = ((uid, picture_in(members)) for uid, members in read_samples(shards, job[1].sort("offset")))
    return [(uid, *picture_size(data), hashlib.sha256(data).hexdigest()) for uid, data in pictures]
