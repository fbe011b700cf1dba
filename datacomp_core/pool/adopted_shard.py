"""Reads one foreign tar for adoption: its samples, unusable samples with reasons, and its ledger. A sample needs an image and
a caption. A sample without them is not in the index, but in the ledger with its reason, so that it is counted where it was
lost. If neither json nor key contains a uid, it is made from url and caption, or from the names of shard and key if there is no
url.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from pydantic import Field

from datacomp_core.artifacts import Spec
from datacomp_core.errors import DataError
from datacomp_core.indexing import Indexed, index_tar
from datacomp_core.pool import ledger
from datacomp_core.pool.odd_pictures import find_irregularities
from datacomp_core.sample_members import CAPTION, EMPTY, IN_JSON, LONE_SURROGATE, NOT_UTF8, MemberNames, json_object
from datacomp_core.shards import MEMBERS, read_samples
from datacomp_core.store import Folder
from datacomp_core.uid import uid_of

NO_PICTURE, EMPTY_PICTURE, NO_CAPTION, DAMAGED = "no_picture", "empty_picture", "no_caption", "damaged_tar"
CAPTION_FAULTS = {NOT_UTF8: "not_utf8_text", LONE_SURROGATE: "lone_surrogate_text"}
"""Reasons for unreadable captions, named like those of a table's rows."""
LARGE_PIXELS = 1 << 31
UID_PATTERN = r"^[0-9a-fA-F]{32}$"
BESIDE = ("sha256", "original_width", "original_height", "caption", "face_bboxes")


class TableColumns(Spec):
    """Column names of the parquet next to a tar, if they differ from img2dataset's."""

    key: str = Field(default="key", min_length=1, description="The sample's key in the tar.")
    uid: str = Field(default="uid", min_length=1, description="Its uid, if there is one.")
    url: str = Field(default="url", min_length=1, description="Its url, if there is one.")
    status: str = Field(default="status", min_length=1, description="Whether it arrived: success, or something else.")
    error_message: str = Field(default="error_message", min_length=1, description="Why it did not arrive.")


@dataclass(frozen=True)
class AdoptedShard:
    """A tar's usable samples (an index, with `members` for unusual names), its ledger, and remarks. `num_made_uids` counts
    samples without a uid in their bytes. `problem` says why the tar cannot be used; then the index has no rows. `wrong_table`
    says why the table next to it cannot be used.
    """

    rows: pl.DataFrame
    book: pl.DataFrame
    problem: str = ""
    told: Counter[str] = field(default_factory=Counter[str])
    wrong_table: str = ""
    num_made_uids: int = 0


def take_in(shards: Folder, name: str, names: MemberNames, columns: TableColumns, *, has_table: bool) -> AdoptedShard:
    """Walk a tar and report on it and on the table next to it."""
    with shards.open(f"{name}.tar") as file:
        indexed = index_tar(file, name, names, find_irregularities)
    told = _told(indexed)
    samples = _usable(indexed, names).with_columns(pl.Series(MEMBERS, [names.text() or None] * indexed.rows.height, pl.String))
    problem = f"{indexed.damage}; {indexed.advice}" if indexed.damage else ""
    table, wrong = _table_of(shards, name, columns, samples) if has_table else (None, "")
    if table is not None and "status" in table.columns and not problem:
        lost = table.filter((pl.col("status") == "success") & ~pl.col("key").is_in(samples["key"].implode()))
        if lost.height:
            problem = (
                f"the table next to it says that {lost['key'][0]!r} arrived ({lost.height} such keys), but the tar does not "
                "contain it; download it again"
            )
    made = samples.filter(pl.col("reason").is_null() & pl.col("uid").is_null()).height
    samples = samples.with_columns(reason=pl.lit(DAMAGED)) if problem else _with_uids(shards, name, samples)
    rows = samples.filter(pl.col("reason").is_null()).drop("reason", "picture")
    book = _ledger(name, samples, table, told, is_damaged=bool(problem))
    told.update(ledger.pictures(book))
    return AdoptedShard(rows, book, problem, told, wrong, made)


def _table_of(shards: Folder, name: str, columns: TableColumns, samples: pl.DataFrame) -> tuple[pl.DataFrame | None, str]:
    """Return the table next to a tar, or why it cannot be used: it is not a table, or belongs to another tar."""
    where = shards.at(f"{name}.parquet")
    try:
        table = read_table(shards, name, columns)
    except DataError as problem:
        return None, str(problem)
    if not samples.height:
        return table, ""
    if not table.height:
        return None, f"{where} has no rows, but {name}.tar has samples: move it away."
    both = samples.select("key", here="uid").join(table.unique("key", keep="first"), on="key")
    if not both.height:
        return None, (
            f"{where} has no key in common with {name}.tar (its first is {table['key'][0]!r}, the tar's "
            f"{samples['key'][0]!r}): it belongs to another tar; move it away, or give its key column with --column key=NAME."
        )
    if "uid" in table.columns:
        stated = both.filter(pl.col("here").is_not_null() & pl.col("uid").str.contains(UID_PATTERN))
        other = stated.filter(pl.col("here") != pl.col("uid").str.to_lowercase())
        if other.height:
            return None, (
                f"{where} has the uid {other['uid'][0]} for the key {other['key'][0]!r}, but {name}.tar has "
                f"{other['here'][0]} ({other.height} of {stated.height} such keys): it belongs to another tar; move it away."
            )
    return table, ""


def described(shards: Folder, rows: pl.DataFrame) -> list[dict[str, Any]]:
    """url, text, sizes and hash of each sample, from its json and txt; without a url, shard and key replace it."""
    found: list[dict[str, Any]] = []
    seen: Counter[str] = Counter()
    for key, shard, (uid, members) in zip(rows["key"], rows["shard"], read_samples(shards, rows), strict=True):
        about = json_object(members.get("json", b"{}")) or {}
        text = members.get(CAPTION, b"").decode("utf-8", "replace")
        stand_in = f"{shard}/{key}" + (f"#{seen[key]}" if seen[key] else "")
        seen[key] += 1
        url = about.get("url")
        row = {
            "original_width": _pixels(about.get("original_width")),
            "original_height": _pixels(about.get("original_height")),
            "sha256": _text(about.get("sha256")) or None,
        }
        found.append({**row, "uid": uid, "url": _text(url) or stand_in, "text": text, "face_bboxes": []})
    return found


def _text(value: Any) -> str:
    """Return text that can be written as UTF-8; nothing if it is not text."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else ""


def _pixels(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < LARGE_PIXELS else None


def _told(indexed: Indexed) -> Counter[str]:
    """Count samples by their members."""
    kinds = Counter(indexed.kind)
    told = Counter({f"members {_shown(indexed.kinds[n])}": count for n, count in kinds.items()})
    if indexed.outside:
        told["outside_samples"] = indexed.outside.total()
    return told


def _shown(kind: tuple[str, ...]) -> str:
    """Describe a kind of sample, without other json fields."""
    return " + ".join(name for name in kind if not name.startswith(IN_JSON))


def _usable(indexed: Indexed, names: MemberNames) -> pl.DataFrame:
    """Return the samples with the `reason` why one cannot be used (null if it can), and irregularities of its `picture`."""
    reasons = [_reason(kind, names) for kind in indexed.kinds]
    odd = pl.Series([found or None for found in indexed.odd], dtype=pl.String)
    return indexed.rows.with_columns(reason=pl.Series([reasons[n] for n in indexed.kind], dtype=pl.String), picture=odd)


def _reason(kind: tuple[str, ...], names: MemberNames) -> str | None:
    caption = IN_JSON + ".".join(names.caption_path) if names.caption_path else names.caption or CAPTION
    if not names.picture_of(kind):
        is_empty = names.picture_of([name.removesuffix(EMPTY) for name in kind if name.endswith(EMPTY)])
        return EMPTY_PICTURE if is_empty else NO_PICTURE
    faults = [reason for fault, reason in CAPTION_FAULTS.items() if caption + fault in kind]
    return faults[0] if faults else None if caption in kind or caption + EMPTY in kind else NO_CAPTION


def _with_uids(shards: Folder, name: str, samples: pl.DataFrame) -> pl.DataFrame:
    """Give every usable sample a uid: if its json or key has none, it is made from url and caption."""
    usable = samples.filter(pl.col("reason").is_null())
    if not usable["uid"].null_count():
        return samples
    made = [uid_of(row["url"], row["text"]) for row in described(shards, usable)]
    usable = usable.with_columns(pl.col("uid").fill_null(pl.Series(made, dtype=pl.String)))
    return pl.concat([usable, samples.filter(pl.col("reason").is_not_null())]).sort("offset")


def read_table(shards: Folder, name: str, columns: TableColumns) -> pl.DataFrame:
    """Read the parquet next to a tar under our names, as text. DataError if it is not a parquet, or has no keys."""
    where = shards.at(f"{name}.parquet")
    try:
        theirs = pl.read_parquet(io.BytesIO(shards.read(f"{name}.parquet")))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, MemoryError) as problem:
        first = str(problem).split("\n", 1)[0]
        raise DataError(f"{where} cannot be read as parquet ({first}): move it away, or download it again.") from problem
    if columns.key not in theirs.columns:
        raise DataError(
            f"{where} has no column {columns.key!r}, so its rows cannot be matched to samples; it has "
            f"{', '.join(theirs.columns)}: give its key column with --column key=NAME, or move it away."
        )
    renamed = {getattr(columns, ours): ours for ours in TableColumns.model_fields}
    known = theirs.select(
        _as_text(theirs[old], ours, where).alias(ours) for old, ours in renamed.items() if old in theirs.columns
    )
    rest = [column for column in BESIDE if column in theirs.columns and (column == "face_bboxes" or _is_plain(theirs[column]))]
    return pl.concat([known, theirs.select(rest)], how="horizontal") if rest else known


def _is_plain(column: pl.Series) -> bool:
    return not (column.dtype.is_nested() or isinstance(column.dtype, pl.Binary | pl.Object))


def _as_text(column: pl.Series, ours: str, where: str) -> pl.Series:
    """A column as text. DataError if it has lists, structs or bytes."""
    if not _is_plain(column):
        raise DataError(
            f"{where}: column {column.name!r} has the type {column.dtype} instead of text: give another with --column "
            f"{ours}=NAME, or move the file away."
        )
    return column.cast(pl.String, strict=False)


def _ledger(
    name: str, samples: pl.DataFrame, table: pl.DataFrame | None, told: Counter[str], *, is_damaged: bool
) -> pl.DataFrame:
    """Build our ledger of a shard from img2dataset's table, if it is next to the tar, and from every sample of the tar."""
    here = samples.select("uid", "key", "reason", "picture", shard=pl.lit(name), status=pl.lit("success")).with_columns(
        status=pl.when(pl.col("reason").is_null()).then(pl.col("status")).otherwise(pl.lit("refused"))
    )
    if table is None or "status" not in table.columns:
        if table is not None:
            told["in_tables"] += int(samples["key"].is_in(table["key"].implode()).sum())
            told["only_in_tables"] += int((~table["key"].is_in(samples["key"].implode())).sum())
        return _in_schema(here)
    twice = table.height - table["key"].n_unique()
    if twice:
        told["repeated_table_rows"] += twice
        table = table.unique("key", keep="first", maintain_order=True)
    if "error_message" not in table.columns:
        table = table.with_columns(error_message=pl.lit(None, pl.String))
    if "url" in table.columns:
        table = table.with_columns(
            host=pl.col("url").map_elements(ledger.host_of, pl.String),
            url_hash=pl.col("url").map_elements(ledger.url_hash, pl.UInt64),
        )
    message = pl.col("error_message").fill_null("").map_elements(ledger.reason_of, pl.String, skip_nulls=False)
    arrived = pl.lit(DAMAGED) if is_damaged else pl.lit(None, pl.String)
    theirs = table.with_columns(
        shard=pl.lit(name),
        message=pl.col("error_message"),
        reason=pl.when(pl.col("status") == "success").then(arrived).otherwise(message),
    )
    counted = samples.unique("key", keep="first", maintain_order=True)
    known = theirs.join(
        counted.select("key", "picture", here_uid="uid", here_reason="reason", is_here=pl.lit(value=True)), on="key", how="left"
    )
    if "uid" not in known.columns:
        known = known.with_columns(uid=pl.lit(None, pl.String))
    is_here = pl.col("is_here").fill_null(value=False)
    known = known.with_columns(
        uid=pl.coalesce("here_uid", "uid"),
        reason=pl.when(is_here).then(pl.col("here_reason")).otherwise(pl.col("reason")),
        status=pl.when(is_here & pl.col("here_reason").is_not_null()).then(pl.lit("refused")).otherwise(pl.col("status")),
    )
    more = here.filter(~pl.col("key").is_in(table["key"].implode()) | ~pl.col("key").is_first_distinct())
    if more.height:
        told["not_in_tables"] += more.height
    return pl.concat([_in_schema(known), _in_schema(more)])


def _in_schema(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(
        (pl.col(name) if name in rows.columns else pl.lit(None)).cast(kind, strict=False).alias(name)
        for name, kind in ledger.SCHEMA.items()
    )


def problems(found: list[tuple[str, str]], tables: list[str], shards: Folder) -> str:
    """Return the error for all damaged tars and unusable tables."""
    told: list[str] = []
    if found:
        listed = [f"{name}.tar is damaged: {problem}" for name, problem in sorted(found)]
        told.append(f"{len(listed)} of the tars in {shards} cannot be adopted, so nothing was written. {'. '.join(listed)}.")
    if any("side by side" in problem for _, problem in found):
        told.append("To write new tars with contiguous samples, use --regroup-to FOLDER.")
    if tables:
        told.append(f"{len(tables)} of the tables next to the tars in {shards} cannot be used, so nothing was written.")
    return " ".join([*told, *sorted(tables)])
