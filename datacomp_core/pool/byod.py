"""Makes a pool from your own data (the BYOD track): any parquet, csv, tsv or jsonl with urls and captions. Source files are
read one by one in pieces of `rows_per_part`, so none is held in memory; an imported file is not read again. A row without a uid
gets a stable 128-bit uid from url and caption; skipped rows are counted by reason.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field, field_validator

from datacomp_core import uid
from datacomp_core.artifacts import Pool, Spec
from datacomp_core.errors import DataError, tally_of
from datacomp_core.parallel import concurrently, process_map
from datacomp_core.parts import METADATA, scan
from datacomp_core.pool import sources
from datacomp_core.pool.own_rows import EXAMPLES, Rows, as_metadata
from datacomp_core.pool.tables import TableFormat, TableRequest, batches, source_files
from datacomp_core.pool.unique_uids import UidRanges, num_buckets
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.store import Folder, step
from datacomp_core.store.content_marks import Marks, read_marks
from datacomp_core.store.fingerprint import fingerprint

log = logging.getLogger(__name__)
DONE = "imported"
HASHED_ROWS = 50_000


class Columns(Spec):
    """Column names in the source; an empty name means that there is no such column."""

    url: str = Field(default="url", min_length=1, description="Address of the image.")
    text: str = Field(default="text", min_length=1, description="Caption.")
    uid: str = Field(default="", description="128-bit uid of 32 hex digits; empty: made from url and caption.")
    original_width: str = Field(default="", description="Width of the image in pixels.")
    original_height: str = Field(default="", description="Height of the image in pixels.")
    sha256: str = Field(default="", description="Hash of the image's bytes, 64 hex digits.")
    face_bboxes: str = Field(default="", description="Boxes of faces as fractions [left, top, right, bottom], for blurring.")

    def given(self) -> dict[str, str]:
        """Our name -> theirs, for the existing columns."""
        return {ours: theirs for ours in type(self).model_fields if (theirs := getattr(self, ours))}


class ByodPoolSpec(Spec):
    """A pool from a folder or bucket of tables with urls and captions."""

    names_for_people: ClassVar[frozenset[str]] = frozenset({"name"})

    scale: Literal["byod"] = Field(default="byod", description="Your own data.")
    source: str = Field(default="", description="Folder or bucket (s3://...) of .parquet, .csv, .tsv or .jsonl files, or one.")
    name: str = Field(default="mine", min_length=1, description="What to call it.")
    edition: int = Field(default=1, ge=1, description="Raise this number when the files at the source have changed.")
    columns: Columns = Field(default=Columns(), description="Names of the columns in the source.")
    tables: TableFormat = Field(default=TableFormat(), description="How csv, tsv and jsonl files are written.")
    rows_per_part: int = Field(default=500_000, gt=0, description="Maximum number of rows per metadata part.")

    @field_validator("source")
    @classmethod
    def _absolute(cls, source: str) -> str:
        return sources.absolute(source)

    def label(self) -> str:
        return self.name

    def asked(self) -> TableRequest:
        return TableRequest(self.columns.given(), self.tables)


def changes(spec: ByodPoolSpec, pool: Pool, data: Folder) -> str:
    """Describe what has changed at the source since the pool was made."""
    what = sources.describe_change(data, partial(_marked, spec))
    return str(sources.changed_source_error(pool.address, spec.edition, what)) if what else ""


def _marked(spec: ByodPoolSpec, known: Marks) -> tuple[Folder, Marks]:
    folder, files, _ = source_files(spec.source)
    return folder, sources.marks(folder, files, known)


@step("pools", version=2, stale=changes)
def import_pool(
    spec: ByodPoolSpec,
    *,
    out: Folder,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Pool:
    """`metadata/<file>-<piece>.parquet` in DataComp's schema. DataError names the file, line and column that cannot be used."""
    folder, files, hidden = source_files(spec.source)
    progress.start(len(files), "files")
    jobs = [(number, name) for number, name in enumerate(files) if not _is_done(out, folder, number, name)]
    for _ in process_map(partial(_import_file, spec, folder, out), jobs, workers=workers):
        progress.advance()
    progress.advance(len(files) - len(jobs))
    counts: Counter[str] = Counter({"hidden_files": hidden} if hidden else {})
    parts: dict[str, str] = {}
    for told in (_told(out, number) for number in range(len(files))):
        counts.update(told["counts"])
        parts |= told["parts"]
        for example in told["examples"]:
            log.warning("%s", example)
    if not counts["rows"]:
        losses = tally_of(counts) or "no rows"
        named = ", ".join(f"{ours}: {theirs}" for ours, theirs in spec.columns.given().items())
        raise DataError(f"{spec.source} has no row with url and caption ({losses}): check the column names ({named}).")
    read = [_told(out, number) for number in range(len(files))]
    sources.keep(out, folder, read_marks({told["file"]: told["content"] for told in read}))
    counts.update(_repeats(out / METADATA, list(parts), counts["rows"], given="uid" in spec.columns.given()))
    return Pool(
        scale=spec.scale, num_samples=counts["rows"], num_parts=len(parts), content=fingerprint(parts), counts=dict(counts)
    )


def _told(out: Folder, number: int) -> Any:
    return out.read_json(f"{DONE}/{number:06d}.json")


def _is_done(out: Folder, folder: Folder, number: int, name: str) -> bool:
    """Return whether an interrupted import has read this file in its current state."""
    told = out.read_json(f"{DONE}/{number:06d}.json") if out.exists(f"{DONE}/{number:06d}.json") else {}
    return told.get("file") == name and told.get("mark") == folder.mark(name) and "content" in told


def _import_file(spec: ByodPoolSpec, folder: Folder, out: Folder, job: tuple[int, str]) -> None:
    number, name = job
    mark = folder.mark(name)
    counts: Counter[str] = Counter()
    parts: dict[str, str] = {}
    examples: list[str] = []
    for piece, rows in enumerate(_pieces(spec, folder, name, counts, examples)):
        part = f"{number:06d}-{piece:05d}"
        with out.writing(f"{METADATA}/{part}.parquet") as path:
            rows.write_parquet(path)
        parts[part] = _content(rows)
    for stale in (out / METADATA).files(".parquet"):
        if stale.startswith(f"{number:06d}-") and stale.removesuffix(".parquet") not in parts:
            (out / METADATA).remove(stale)
    content = sources.marks(folder, [name])
    if folder.mark(name) != mark or name not in content:
        raise DataError(f"{folder.at(name)} changed while it was being read: run again when it is complete.")
    told = {"file": name, "mark": mark, "content": list(content[name])}
    told |= {"counts": dict(counts), "parts": parts, "examples": examples}
    out.write_json(f"{DONE}/{number:06d}.json", told)


def _pieces(spec: ByodPoolSpec, folder: Folder, name: str, counts: Counter[str], examples: list[str]) -> Iterator[pl.DataFrame]:
    """Tables of at most `rows_per_part` rows, in the order of the file; skipped rows go into `counts` and `examples`."""
    waiting: list[pl.DataFrame] = []
    rows = 0
    for batch in batches(folder, name, spec.asked()):
        found = as_metadata(batch, folder.at(name), spec.columns.given())
        _note(found, folder.at(name), counts, examples)
        waiting.append(found.table)
        rows += found.table.height
        while rows >= spec.rows_per_part:
            whole = pl.concat(waiting)
            yield whole.head(spec.rows_per_part)
            waiting = [whole.slice(spec.rows_per_part)]
            rows -= spec.rows_per_part
    if rows:
        yield pl.concat(waiting)


def _note(found: Rows, where: str, counts: Counter[str], examples: list[str]) -> None:
    counts.update(rows=found.table.height, **Counter(reason for _, reason in found.told))
    for line, reason in found.told[: max(0, EXAMPLES - len(examples))]:
        examples.append(f"{where}, line {line}: {reason}")


def _content(rows: pl.DataFrame) -> str:
    """Return a hash of a part's content that does not depend on how it is stored."""
    digest = hashlib.sha256()
    for begin in range(0, rows.height, HASHED_ROWS):
        digest.update(rows[begin : begin + HASHED_ROWS].write_ndjson().encode())
    return digest.hexdigest()


def _repeats(metadata: Folder, parts: list[str], about: int, *, given: bool) -> dict[str, int]:
    """Count rows that repeat another row's uid, or its url and caption, by ranges of uids that fit into memory."""
    wanted = ("repeated_uids", "duplicate_rows") if given else ("repeated_uids",)
    found: dict[str, int] = {}
    for what in wanted:
        with UidRanges(num_buckets(about)) as spread:
            for uids in concurrently(partial(_uids, metadata, what), parts):
                spread.add(uid.pack(uids))
            found[what] = about - sum(uid.num_unique(rows) for rows in spread.slices())
    found.setdefault("duplicate_rows", found["repeated_uids"])
    return {what: count for what, count in found.items() if count}


def _uids(metadata: Folder, what: str, part: str) -> pl.Series:
    rows: Any = scan(metadata, part).select("uid", "url", "text").collect()
    if what == "repeated_uids":
        return rows["uid"]
    return pl.Series("uid", [uid.uid_of(url, text) for url, text in rows.select("url", "text").iter_rows()], pl.String)
