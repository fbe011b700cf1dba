"""Adopt what was downloaded elsewhere, by the original tooling or as any webdataset: no byte of it is copied.

The tars are walked once (headers and json only) for their index, and the parquet that img2dataset leaves beside each tar
becomes its ledger; both are written beside the shards, as for a download of ours. A second look finds them there.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import polars as pl
from pydantic import Field

from datacomp_core.artifacts import Pool, ShardSet, Spec
from datacomp_core.errors import DataError
from datacomp_core.parallel import process_map
from datacomp_core.parts import METADATA, SCHEMA, part_names
from datacomp_core.pool import ledger
from datacomp_core.pool.footers import count_rows
from datacomp_core.pool.unique import num_unique
from datacomp_core.progress import NoProgress, Progress
from datacomp_core.shards import (
    INDEX,
    LEDGER,
    index_bytes,
    index_shard,
    read_index,
    read_samples,
    shard_names,
)
from datacomp_core.store import Folder, step
from datacomp_core.store.fingerprint import fingerprint
from datacomp_core.uid import uid_of


class AdoptedPoolSpec(Spec):
    """A download of the original tooling, or any webdataset, taken in where it lies."""

    source: str = Field(default="", description="Folder or bucket that holds metadata/ and shards/, or tars alone.")
    of: str = Field(default="custom", description="Which pool it is: small, medium, large, xlarge, datacomp_1b or custom.")
    name: str = Field(default="adopted", min_length=1, description="What to call it.")
    scale: Literal["adopted"] = Field(default="adopted", description="Taken in as it is.")
    edition: int = Field(default=1, ge=1, description="Raise it when what lies there has changed.")

    def label(self) -> str:
        return self.name

    def shards(self) -> Folder:
        """Where the tars are: `shards/` if it is there, else the source itself."""
        if not self.source:
            raise DataError("Adopting needs `source`: a folder or bucket with metadata/ and shards/, or with tars.")
        root = Folder(self.source)
        return root / "shards" if (root / "shards").exists() else root


@dataclass(frozen=True)
class Seen:
    """One shard as it was found: samples, the digest of its uids, what became of the candidates."""

    shard: str
    num_samples: int
    digest: int
    reasons: dict[str, int]


@step("pools", version=1)
def adopt_metadata(
    spec: AdoptedPoolSpec,
    *,
    out: Folder,
    workers: int = 1,
    progress: Progress = NoProgress(),  # noqa: B008
) -> Pool:
    """The pool of what lies at the source. Where it has no metadata/, that is made from the samples (uid, url, caption).

    DataError if a parquet is broken or lacks uid, url or text.
    """
    shards, root = spec.shards(), Folder(spec.source)
    if (root / METADATA).exists():
        metadata = root / METADATA
        parts = part_names(metadata)
        rows = count_rows(metadata, parts, ("uid", "url", "text"))
        sizes = {name: size for name, size in metadata.files(".parquet").items() if "/" not in name}
        content = fingerprint({"sizes": sizes, "at": metadata.url})
        return Pool(scale=spec.of, num_samples=rows, num_parts=len(parts), content=content, data=root.url)
    names = shard_names(shards)
    progress.start(len(names), "shards")
    for _ in process_map(partial(_describe, shards, out), names, workers=workers):
        progress.advance()
    rows = count_rows(out / METADATA, names, ("uid", "url", "text"))
    return Pool(scale=spec.of, num_samples=rows, num_parts=len(names))


@step("shards", version=1, name=lambda spec, pool: spec.label())
def adopt_shards(
    spec: AdoptedPoolSpec,
    pool: Pool,
    *,
    out: Folder,
    workers: int = 1,
    progress: Progress = NoProgress(),  # noqa: B008
) -> ShardSet:
    """The shards where they lie, with `index/` and `ledger/` written beside them where they are missing.

    DataError if a tar is damaged, or if a sample has no uid that could be told.
    """
    shards = spec.shards()
    names = shard_names(shards)
    there = set(shards.files(".parquet"))
    progress.start(len(names), "shards")
    seen: dict[str, Seen] = {}
    for name, found in process_map(partial(_take_in, shards, there), names, workers=workers):
        seen[name] = found
        progress.advance(arrived=found.num_samples)
    reasons: Counter[str] = Counter()
    for found in seen.values():
        reasons.update(found.reasons)
    total = sum(found.num_samples for found in seen.values())
    if not total:
        raise DataError(f"{shards} holds no sample: there is nothing to adopt.")
    digest = sum(found.digest for found in seen.values()) % ledger.DIGEST_MODULUS
    return ShardSet(
        scale=pool.scale,
        num_samples=total,
        num_unique=num_unique(shards, names, total),
        num_shards=len(names),
        content=f"{digest:064x}",
        counts={"candidates": sum(reasons.values()), **dict(sorted(reasons.items()))},
        data=shards.url,
    )


def _take_in(shards: Folder, there: set[str], name: str) -> Seen:
    if f"{INDEX}/{name}.parquet" in there:
        rows = read_index(shards, name)
    else:
        rows = _with_uids(shards, name, index_shard(shards, name).whole())
        shards.write(f"{INDEX}/{name}.parquet", index_bytes(rows))
    if f"{LEDGER}/{name}.parquet" not in there:
        book = _ledger_of(shards, name, rows, f"{name}.parquet" in there)
        with shards.writing(f"{LEDGER}/{name}.parquet") as path:
            book.write_parquet(path, compression="zstd", statistics=False)
    book = pl.read_parquet(io.BytesIO(shards.read(f"{LEDGER}/{name}.parquet")))
    return Seen(name, rows.height, ledger.digest(rows["uid"]), ledger.tally(book))


def _with_uids(shards: Folder, name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Index rows whose every sample has a uid: one that its json or key does not tell is made from url and caption."""
    if not rows["uid"].null_count():
        return rows
    made = [uid_of(row["url"], row["text"]) for row in _described(shards, rows)]
    return rows.with_columns(pl.col("uid").fill_null(pl.Series(made, dtype=pl.String)))


def _described(shards: Folder, rows: pl.DataFrame) -> list[dict[str, Any]]:
    """url, text, sizes and hash of each sample, from its json and txt; without a url its key stands for it."""
    found: list[dict[str, Any]] = []
    for key, (uid, members) in zip(rows["key"], read_samples(shards, rows), strict=True):
        try:
            about = json.loads(members.get("json", b"{}"))
        except ValueError:
            about = {}
        text = members["txt"].decode("utf-8", "replace") if "txt" in members else str(about.get("caption") or "")
        row = {name: about.get(name) for name in ("original_width", "original_height", "sha256")}
        found.append({**row, "uid": uid, "url": str(about.get("url") or key), "text": text, "face_bboxes": []})
    return found


def _describe(shards: Folder, out: Folder, name: str) -> None:
    """One metadata part from one tar."""
    if out.exists(f"{METADATA}/{name}.parquet"):
        return
    rows = _with_uids(shards, name, index_shard(shards, name).whole())
    found = pl.DataFrame(_described(shards, rows), schema=SCHEMA, strict=False)
    with out.writing(f"{METADATA}/{name}.parquet") as path:
        found.with_columns(rows["uid"]).write_parquet(path)


def _ledger_of(shards: Folder, name: str, rows: pl.DataFrame, has_stats: bool) -> pl.DataFrame:
    """Our ledger of a shard, from img2dataset's parquet if it lies beside the tar, else of what arrived alone."""
    if not has_stats:
        plain = rows.select("uid", "shard", "key").with_columns(status=pl.lit("success"))
        return _in_schema(plain)
    try:
        theirs = pl.read_parquet(io.BytesIO(shards.read(f"{name}.parquet")))
        book = theirs.select(
            *[column for column in ("uid", "key", "status", "error_message", "sha256") if column in theirs.columns],
            *[column for column in ("original_width", "original_height", "url") if column in theirs.columns],
        )
    except pl.exceptions.PolarsError as problem:
        raise DataError(f"{shards.at(f'{name}.parquet')} is not what img2dataset leaves beside a shard: {problem}") from problem
    if missing := sorted({"key", "status", "error_message"} - set(book.columns)):
        raise DataError(f"{shards.at(f'{name}.parquet')} has no column {missing[0]!r}: it is not img2dataset's.")
    index = dict(rows.select("key", "uid").iter_rows())
    if "uid" not in book.columns:
        book = book.with_columns(uid=pl.col("key").replace_strict(index, default=None, return_dtype=pl.String))
    if "url" in book.columns:
        book = book.with_columns(
            host=pl.col("url").map_elements(ledger.host_of, pl.String),
            url_hash=pl.col("url").map_elements(ledger.url_hash, pl.UInt64),
        )
    here = pl.col("key").is_in(list(index))
    reason = pl.col("error_message").fill_null("").map_elements(ledger.reason_of, pl.String, skip_nulls=False)
    return _in_schema(book.with_columns(shard=pl.lit(name), message=pl.col("error_message"), reason=pl.when(~here).then(reason)))


def _in_schema(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(
        [(pl.col(name) if name in rows.columns else pl.lit(None)).cast(kind).alias(name) for name, kind in ledger.SCHEMA.items()]
    )
