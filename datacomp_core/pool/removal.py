"""Removes samples from a written shard: from its bytes, its index, its ledger and its statistics. The future index is written
first, to `removing/<shard>.parquet`, and removed last: a removal that was killed at any byte can be finished from it, without
uids from the tar, which may not contain them. Everything else in the tar is kept.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, NamedTuple

import polars as pl

from datacomp_core.errors import DataError
from datacomp_core.pool.download_shard import account_stats, stats_name
from datacomp_core.pool.stats import read_ledger
from datacomp_core.sample_members import USUAL, names_of
from datacomp_core.shards import LEDGER, MEMBERS, index_shard, stored_content, stored_index, tar_content, tar_mark, write_index
from datacomp_core.store import Folder
from datacomp_core.store.folder import FileStat
from datacomp_core.tar import ending, walk
from datacomp_core.wids_index import recount

Changed = dict[str, FileStat]
Chosen = Callable[[pl.Series], pl.Series]
"""Return which of some uids to remove: a series of flags, null for null."""

REMOVING = "removing"
STATE = "state"
COPIED_AT_ONCE = 8 << 20


class _State(NamedTuple):
    """The state needed to finish a removal: the samples in the tar before and after it, whether the tar has a mark, and the
    reason."""

    before: int
    after: int
    marked: bool
    reason: str = ""


def samples_of_uids(uids: Collection[str]) -> Chosen:
    """The samples of these uids."""
    return lambda series: series.is_in(list(uids))


def from_shard(folder: Folder, name: str, chosen: Chosen, reason: str, changed: Changed) -> int:
    """Rewrite a tar without these samples, then its index and its ledger; return how many it had. A started removal is finished
    first."""
    finish(folder, name, chosen, reason, changed)
    rows, mark = stored_index(folder, name)
    gone = chosen(rows["uid"]).fill_null(value=False)
    if gone.any():
        see_place(folder, name)
        plan = _planned(folder, name, rows, gone, reason, marked=bool(mark))
        folder.write(f"{REMOVING}/{name}.parquet", plan)
        finish(folder, name, chosen, reason, changed)
    elif folder.exists(f"{LEDGER}/{name}.parquet"):
        from_ledger(folder, name, chosen, reason, changed)
    return int(gone.sum())


def pending(folder: Folder) -> list[str]:
    """Return the shards with an unfinished removal."""
    return [name.removesuffix(".parquet") for name in (folder / REMOVING).files(".parquet")]


def finish(folder: Folder, name: str, chosen: Chosen, reason: str, changed: Changed) -> None:
    """Finish a started removal, with its original reason; `reason` applies to `chosen`. DataError if the tar is neither in its
    state before nor after.
    """
    if not folder.exists(f"{REMOVING}/{name}.parquet"):
        return
    kept, gone, state = _read(folder, name)
    names = names_of(kept[MEMBERS][0] or "") if MEMBERS in kept.columns and kept.height else USUAL
    there = len(index_shard(folder, name, names).kind)
    if there == state.before:
        _rewrite(folder, name, gone, kept)
    elif there != state.after:
        raise DataError(
            f"{folder.at(name)}.tar has {there} samples, but the interrupted removal expects {state.before} or "
            f"{state.after}, so it was changed meanwhile: restore it from a copy, then run the same command again."
        )
    content = tar_content(folder, name) if state.marked and stored_content(folder, name) else ""
    written = write_index(folder, name, kept, tar_mark(folder, name) if state.marked else "", content)
    changed[written.path] = written
    changed[f"{name}.tar"] = _stat(folder, f"{name}.tar", is_ours=not state.marked)
    if (counted := recount(folder, name, kept.height)) is not None:
        changed[counted.path] = counted
    if folder.exists(f"{LEDGER}/{name}.parquet"):
        from_ledger(folder, name, lambda uids: uids.is_in(gone["uid"].implode()), state.reason or reason, changed)
        from_ledger(folder, name, chosen, reason, changed)
    folder.remove(f"{REMOVING}/{name}.parquet")


def from_ledger(folder: Folder, name: str, chosen: Chosen, reason: str, changed: Changed) -> None:
    """Set a reason for these samples in the ledger of a shard, and count it again."""
    book = read_ledger(folder, name)
    hit = chosen(book["uid"].str.to_lowercase()).fill_null(value=False) & (book["reason"] != reason).fill_null(value=True)
    if hit.any():
        said = {"status": "refused", "reason": reason}
        book = book.with_columns(
            pl.when(hit).then(pl.lit(value)).otherwise(pl.col(key)).alias(key) for key, value in said.items()
        )
        buffer = io.BytesIO()
        book.write_parquet(buffer, compression="zstd", statistics=False)
        file = folder.write(f"{LEDGER}/{name}.parquet", buffer.getvalue())
        changed[file.path] = file
    if folder.exists(stats_name(name)):
        counted = account_stats(book)
        if folder.read_json(stats_name(name)) != counted:  # a kill between the two
            file = folder.write_json(stats_name(name), counted)
            changed[file.path] = file


def see_place(folder: Folder, name: str) -> None:
    """DataError if removed bytes would remain under another name of the same file."""
    if folder.is_local and (links := os.stat(folder.at(f"{name}.tar")).st_nlink) > 1:
        raise DataError(
            f"{folder.at(name)}.tar has {links - 1} other names (hard links), under which the removed samples would remain: "
            "copy it to a separate file, delete the links, and run again."
        )


# ---------------------------------------------------------------------------------------------------------------------


def _planned(folder: Folder, name: str, rows: pl.DataFrame, gone: pl.Series, reason: str, *, marked: bool) -> bytes:
    """The future index, with the removed rows (their new offset is null) and what distinguishes the tar before and after."""
    names = names_of(rows[MEMBERS][0] or "") if MEMBERS in rows.columns and rows.height else USUAL
    walked = index_shard(folder, name, names)
    walked.whole()
    columns = ["key", "offset", "length"]
    if rows.join(walked.rows.select(columns), on=columns, how="anti").height:
        raise DataError(
            f"{folder.at(name)}.tar does not match its index, so nothing can be removed from it: adopt the folder again with "
            "a raised edition, or index it again."
        )
    taken = pl.when(pl.col("gone")).then(pl.col("length")).otherwise(0)
    table = rows.with_columns(gone=gone).sort("offset").with_columns(removed_before=taken.cum_sum() - taken)
    buffer = io.BytesIO()
    state = _State(len(walked.kind), len(walked.kind) - int(gone.sum()), marked, reason)
    table.write_parquet(buffer, metadata={STATE: json.dumps(state)})
    return buffer.getvalue()


def _read(folder: Folder, name: str) -> tuple[pl.DataFrame, pl.DataFrame, _State]:
    """Return the future index, the removed rows (in their old positions), and the state."""
    data = folder.read(f"{REMOVING}/{name}.parquet")
    table = pl.read_parquet(io.BytesIO(data))
    state = _State(*json.loads(pl.read_parquet_metadata(io.BytesIO(data))[STATE]))
    kept = table.filter(~pl.col("gone")).with_columns(offset=pl.col("offset") - pl.col("removed_before"))
    return kept.drop("gone", "removed_before"), table.filter("gone"), state


def _rewrite(folder: Folder, name: str, gone: pl.DataFrame, kept: pl.DataFrame) -> None:
    """Write a tar without the ranges of `gone`."""
    place, file = folder, f"{name}.tar"
    if folder.is_local:
        real = Path(os.path.realpath(folder.at(file)))
        place, file = Folder(real.parent), real.name
    with place.writing(file) as path, path.open("wb") as target, place.open(file) as source:
        position = 0
        for offset, length in gone.sort("offset").select("offset", "length").iter_rows():
            _copy(source, target, position, offset)
            position = offset + length
        size = source.seek(0, io.SEEK_END)
        end = max((member.end for member in walk(source, size)), default=0)
        _copy(source, target, position, max(end, position))
        target.write(ending(target.tell()))


def _stat(folder: Folder, name: str, *, is_ours: bool) -> FileStat:
    """Return a file's manifest entry; a foreign file has no hash there."""
    with folder.open(name) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest() if is_ours else ""  # pyright: ignore[reportArgumentType]
    return FileStat(name, size, digest)


def _copy(source: IO[bytes], target: IO[bytes], begin: int, end: int) -> None:
    source.seek(begin)
    while begin < end:
        some = source.read(min(COPIED_AT_ONCE, end - begin))
        if not some:
            raise DataError("A tar became shorter while samples were removed from it: run the same command again.")
        target.write(some)
        begin += len(some)
