"""Adopts an existing download of the original tooling, or any webdataset, without copying it. The tars are read once (headers
and json only) for their index, and the parquet that img2dataset writes next to each tar becomes its ledger. Both are written
next to the shards after every tar has been checked. A second run finds them there.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import polars as pl
from pydantic import Field, field_validator

from datacomp_core import uid
from datacomp_core.artifacts import Pool, ShardSet, Spec
from datacomp_core.errors import DataError, tally_of, unknown
from datacomp_core.parallel import process_map
from datacomp_core.parts import METADATA, SCHEMA, part_names, scan
from datacomp_core.pool import adopted_source, ledger, sources
from datacomp_core.pool.adopted_shard import DAMAGED, TableColumns, described, problems, take_in
from datacomp_core.pool.commonpool import HUBS
from datacomp_core.pool.footers import count_rows
from datacomp_core.pool.unique_uids import UidRanges, num_buckets
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.sample_members import MemberNames
from datacomp_core.shards import (
    INDEX,
    LEDGER,
    MEMBERS,
    index_bytes,
    read_index,
    shard_names,
    tar_content,
    tar_mark,
)
from datacomp_core.store import Folder, step

STAGED = "adopted"

POOLS = ("tiny", *HUBS, "custom")


class AdoptedPoolSpec(Spec):
    """A download of the original tooling, or any webdataset, adopted in place."""

    names_for_people: ClassVar[frozenset[str]] = frozenset({"name"})

    source: str = Field(default="", description="Folder or bucket with metadata/ and shards/, or with tars only.")
    of: str = Field(
        default="custom", description="Which pool this is: tiny, small, medium, large, xlarge, datacomp_1b or custom."
    )
    name: str = Field(default="adopted", min_length=1, description="Name of the pool.")
    scale: Literal["adopted"] = Field(default="adopted", description="Adopted unchanged.")
    edition: int = Field(
        default=1, ge=1, description="Raise this number when the files have changed: everything is indexed again."
    )
    members: MemberNames = Field(default=MemberNames(), description="How the samples' members are named, if not jpg and txt.")
    columns: TableColumns = Field(
        default=TableColumns(), description="Column names of the parquets next to the tars, if unusual."
    )
    damaged: Literal["refuse", "leave_out"] = Field(
        default="refuse", description="leave_out: adopt the other tars, and count what is lost with the damaged ones."
    )

    @field_validator("source")
    @classmethod
    def _absolute(cls, source: str) -> str:
        return sources.absolute(source)

    @field_validator("of")
    @classmethod
    def _known(cls, of: str) -> str:
        if of not in POOLS:
            raise unknown("pool", of, POOLS)
        return of

    def label(self) -> str:
        return self.name

    def shards(self) -> Folder:
        """Return the folder of the tars: `shards/` if it exists, else the source itself. DataError if there are tars elsewhere
        too."""
        if not self.source:
            raise DataError("No source is given: set `source` to a folder or bucket with metadata/ and shards/, or with tars.")
        root = Folder(self.source)
        if not root.exists():
            raise DataError(f"{root} is not there: give a folder or bucket with metadata/ and shards/, or with tars.")
        found = root / "shards" if (root / "shards").exists() else root
        others = [path for path in root.files(".tar") if root.at(path).rpartition("/")[0] != found.url]
        others = [path for path in others if not any(name.startswith(".") for name in path.split("/"))]
        if others:
            raise DataError(
                f"{root.at(others[0])} is not directly in {found} ({len(others)} such tars), so it would be ignored: adopt "
                "each folder of tars separately, or move them into one folder."
            )
        return found


@dataclass(frozen=True)
class FoundShard:
    """One shard as it was found: its uids (packed bytes), their digest, the outcome of the candidates, and remarks.

    `is_new`: an index and a ledger were staged for it.
    """

    num_samples: int
    uids: bytes
    digest: int
    reasons: dict[str, int]
    problem: str = ""
    wrong_table: str = ""
    told: dict[str, int] = field(default_factory=dict[str, int])
    is_new: bool = False


@step("pools", version=1, stale=adopted_source.changes_of_metadata, left_out=(INDEX, LEDGER))  # these belong to the shards
def adopt_metadata(
    spec: AdoptedPoolSpec,
    *,
    out: Folder,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Pool:
    """Return the pool at the source. Without metadata/, the metadata is made from the samples (uid, url, caption).

    DataError if a parquet is broken or lacks uid, url or text, or if tars are damaged (all are named).
    """
    shards, root = spec.shards(), Folder(spec.source)
    if (root / METADATA).exists():
        metadata = root / METADATA
        parts = part_names(metadata)
        rows = count_rows(metadata, parts, ("uid", "url", "text"))
        content = adopted_source.metadata_content(metadata)
        return Pool(scale=spec.of, num_samples=rows, num_parts=len(parts), content=content, data=root.url)
    names = shard_names(shards)
    tables = set(shards.files(".parquet"))
    progress.start(len(names), "shards")
    damaged: list[tuple[str, str]] = []
    wrong: list[str] = []
    for name, (problem, wrong_table) in process_map(partial(_describe, spec, shards, out, tables), names, workers=workers):
        damaged += [(name, problem)] if problem else []
        wrong += [wrong_table] if wrong_table else []
        progress.advance()
    _refuse(spec, shards, damaged, wrong)
    rows = count_rows(out / METADATA, names, ("uid", "url", "text"))
    return Pool(scale=spec.of, num_samples=rows, num_parts=len(names))


@step("shards", version=1, name=lambda spec, pool: spec.label(), stale=adopted_source.changes_of_shards)
def adopt_shards(
    spec: AdoptedPoolSpec,
    pool: Pool,
    *,
    out: Folder,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> ShardSet:
    """Return the shards in place; write missing or outdated `index/` and `ledger/` next to them. DataError if tars are damaged
    (all are named, and nothing is written), if no sample has both an image and a caption, or if the metadata next to the shards
    has none of the samples.
    """
    shards = spec.shards()
    names = shard_names(shards)
    there = set(shards.files(".parquet"))
    progress.start(len(names), "shards")
    seen: dict[str, FoundShard] = {}
    with UidRanges(num_buckets(pool.num_samples)) as uids:
        for name, found in process_map(partial(_look, spec, shards, out, there), names, workers=workers):
            uids.add(np.frombuffer(found.uids, uid.DTYPE))
            seen[name] = replace(found, uids=b"")
            progress.advance(arrived=found.num_samples)
        damaged = [(name, found.problem) for name, found in seen.items() if found.problem]
        _refuse(spec, shards, damaged, [found.wrong_table for found in seen.values() if found.wrong_table])
        reasons, told = Counter[str](), Counter[str]()
        for found in seen.values():
            reasons.update(found.reasons)
            told.update(found.told)
        total = sum(found.num_samples for found in seen.values())
        if not total:
            raise DataError(problems(damaged, [], shards) if damaged else _nothing(shards, reasons, told))
        unique, more = _compared(pool, spec, shards, uids, total)
    staged = [name for name in names if seen[name].is_new]
    for _ in process_map(partial(_publish, shards, out / STAGED), staged, workers=workers):
        pass
    if unique < total:
        more["repeated_uids"] = total - unique
    if damaged:
        more["damaged_tars"] = len(damaged)
    if empty := sum(not found.reasons and not found.problem for found in seen.values()):
        more["empty_tars"] = empty
    return ShardSet(
        scale=pool.scale,
        num_samples=total,
        num_unique=unique,
        num_shards=len(names),
        content=f"{sum(found.digest for found in seen.values()) % ledger.DIGEST_MODULUS:064x}",
        counts={"candidates": sum(reasons.values()), **dict(sorted(reasons.items())), **_worth_telling(told), **more},
        data=shards.url,
    )


def _describe(spec: AdoptedPoolSpec, shards: Folder, out: Folder, tables: set[str], name: str) -> tuple[str, str]:
    """Make one metadata part from one tar; return the problems of the tar and of the table next to it, if any."""
    taken = take_in(shards, name, spec.members, spec.columns, has_table=f"{name}.parquet" in tables)
    found = pl.DataFrame(described(shards, taken.rows), schema=SCHEMA, strict=False)
    with out.writing(f"{METADATA}/{name}.parquet") as path:
        found.with_columns(taken.rows["uid"]).write_parquet(path)
    return taken.problem, taken.wrong_table


def _refuse(spec: AdoptedPoolSpec, shards: Folder, damaged: list[tuple[str, str]], wrong_tables: list[str]) -> None:
    """Raise a DataError that names all unusable tars and tables; damaged tars may be skipped, wrong tables may not."""
    named = damaged if spec.damaged == "refuse" else []
    if named or wrong_tables:
        raise DataError(problems(named, wrong_tables, shards))


def _look(spec: AdoptedPoolSpec, shards: Folder, out: Folder, there: set[str], name: str) -> FoundShard:
    """Read one tar through the index and the ledger next to it, if they match; else walk it and stage new ones."""
    if {f"{INDEX}/{name}.parquet", f"{LEDGER}/{name}.parquet"} <= there and spec.edition == 1:
        found = _as_indexed(spec, shards, name)
        if found is not None:
            return found
    taken = take_in(shards, name, spec.members, spec.columns, has_table=f"{name}.parquet" in there)
    staged = out / STAGED
    rows = taken.rows if taken.rows[MEMBERS].null_count() < taken.rows.height else taken.rows.drop(MEMBERS)
    content = tar_content(shards, name) if taken.num_made_uids else ""
    staged.write(f"{INDEX}/{name}.parquet", index_bytes(rows, tar_mark(shards, name), content))
    with staged.writing(f"{LEDGER}/{name}.parquet") as path:
        taken.book.write_parquet(path, compression="zstd", statistics=False)
    return FoundShard(
        rows.height,
        uid.pack(rows["uid"]).tobytes(),
        ledger.digest(rows["uid"]),
        ledger.tally(taken.book),
        taken.problem,
        taken.wrong_table,
        dict(taken.told),
        is_new=True,
    )


def _as_indexed(spec: AdoptedPoolSpec, shards: Folder, name: str) -> FoundShard | None:
    """Read a shard from its index and ledger; None if they do not match the tar, or were made with other member names."""
    try:
        rows = read_index(shards, name)
        book = pl.read_parquet(io.BytesIO(shards.read(f"{LEDGER}/{name}.parquet")))
    except (DataError, pl.exceptions.PolarsError):
        return None
    named = rows[MEMBERS][0] if MEMBERS in rows.columns and rows.height else ""
    if (named or "") != spec.members.text() or (not rows.height and (book["reason"] == DAMAGED).any()):
        return None
    uids = uid.pack(rows["uid"]).tobytes()
    return FoundShard(rows.height, uids, ledger.digest(rows["uid"]), ledger.tally(book), told=ledger.pictures(book))


def _publish(shards: Folder, staged: Folder, name: str) -> None:
    """Write a new ledger and index next to a tar, the index last: if it exists, the ledger exists too."""
    for path in (f"{LEDGER}/{name}.parquet", f"{INDEX}/{name}.parquet"):
        shards.write(path, staged.read(path))


def _compared(pool: Pool, spec: AdoptedPoolSpec, shards: Folder, uids: UidRanges, total: int) -> tuple[int, dict[str, int]]:
    """Count the distinct uids of the samples, and the samples that are missing from the metadata next to the shards. DataError if
    all are missing.
    """
    metadata = Folder(spec.source) / METADATA
    has_metadata = Folder(spec.source).url == pool.data
    unique = missing = 0
    with UidRanges(uids.number) as of_metadata:
        for part in part_names(metadata) if has_metadata else ():
            of_metadata.add(uid.pack(scan(metadata, part).select("uid").collect()["uid"]))
        for ours, theirs in zip(uids.slices(), of_metadata.slices(), strict=True):
            unique += uid.num_unique(ours)
            missing += int((~np.isin(ours.view("V16"), theirs.view("V16"))).sum()) if len(theirs) else len(ours)
    if not has_metadata:
        return unique, {}
    if missing == total:
        raise DataError(
            f"The metadata in {metadata} has none of the {total:,} samples in {shards}: it belongs to another pool, or the "
            "tars do not contain the uids of their samples. Move it away, or adopt only the tars."
        )
    return unique, {"not_in_metadata": missing} if missing else {}


def _worth_telling(told: Counter[str]) -> dict[str, int]:
    """Return the remarks, without the members of a set with the usual names."""
    usual = all(name in USUAL_KINDS for name in told if name.startswith("members "))
    return {name: count for name, count in sorted(told.items()) if count and not (usual and name.startswith("members "))}


USUAL_KINDS = frozenset({"members jpg + json + txt", "members jpg + txt"})


def _nothing(shards: Folder, reasons: Counter[str], told: Counter[str]) -> str:
    """Return why nothing can be adopted, and what would help."""
    seen = [f"{name.removeprefix('members ')} ({count:,})" for name, count in told.most_common(5) if name.startswith("members ")]
    if not seen:
        lost = tally_of(reasons)
        return f"{shards} does not contain a sample{f' that arrived ({lost})' if lost else ''}: there is nothing to adopt."
    return (
        f"None of the {reasons.total():,} samples in {shards} has both an image and a caption. Their members are "
        f"{', '.join(seen)}: name them with --picture and --caption (--picture input.jpg --caption json:caption), "
        "or, for keys with dots, --keys last_dot."
    )
