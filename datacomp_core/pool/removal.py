"""Take samples out of a shard that is written: its bytes, its index, its ledger and its statistics, in this order."""

from __future__ import annotations

import io
from collections.abc import Collection

import polars as pl

from datacomp_core.pool.fetch import account_stats, stats_name
from datacomp_core.pool.stats import read_ledger
from datacomp_core.shards import INDEX_SCHEMA, LEDGER, write_index
from datacomp_core.store import Folder
from datacomp_core.store.folder import FileStat
from datacomp_core.tar import ending

Changed = dict[str, FileStat]


def from_tar(folder: Folder, name: str, rows: pl.DataFrame, uids: Collection[str], changed: Changed) -> int:
    """Rewrite a tar, whose index is `rows`, without these samples, and its index; how many it had."""
    gone = rows["uid"].is_in(list(uids))
    if not gone.any():
        return 0
    kept = rows.filter(~gone)
    with folder.writing(f"{name}.tar") as path, path.open("wb") as file, folder.open(f"{name}.tar") as source:
        starts: list[int] = []
        for offset, length in kept.select("offset", "length").iter_rows():
            starts.append(file.tell())
            source.seek(offset)
            file.write(source.read(length))
        file.write(ending(file.tell()))
    note = write_index(folder, name, kept.with_columns(pl.Series("offset", starts, INDEX_SCHEMA["offset"])))
    changed[note.path] = note
    return int(gone.sum())


def from_ledger(folder: Folder, name: str, uids: Collection[str], reason: str, changed: Changed) -> None:
    """Give these samples a reason in the ledger of a shard, and count it anew."""
    book = read_ledger(folder, name)
    hit = pl.col("uid").is_in(list(uids))
    if not book.select(hit.any()).item():
        return
    said = {"status": "refused", "reason": reason}
    book = book.with_columns(pl.when(hit).then(pl.lit(value)).otherwise(pl.col(key)).alias(key) for key, value in said.items())
    buffer = io.BytesIO()
    book.write_parquet(buffer, compression="zstd", statistics=False)
    for file in (
        folder.write(f"{LEDGER}/{name}.parquet", buffer.getvalue()),
        *([folder.write_json(stats_name(name), account_stats(book))] if folder.exists(stats_name(name)) else []),
    ):
        changed[file.path] = file
