"""Your own data (the BYOD track): any parquet, csv, tsv or jsonl with urls and captions becomes a pool.

Source files are read one by one in pieces of `rows_per_part`, so nothing holds them whole; a file that was imported is not
read again. A row without a uid gets a stable 128-bit one from url and caption; without url or caption it is left out, counted.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import IO, Any, Literal

import polars as pl
from pydantic import Field

from datacomp_core.artifacts import Pool, Spec
from datacomp_core.errors import DataError
from datacomp_core.parallel import process_map
from datacomp_core.parts import METADATA, SCHEMA
from datacomp_core.pool.ledger import digest
from datacomp_core.progress import NoProgress, Progress
from datacomp_core.store import Folder, step
from datacomp_core.store.fingerprint import fingerprint
from datacomp_core.uid import uid_of

ENDINGS = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
DONE = "imported"
LINES_BYTES = 8 << 20
IS_UID = "^[0-9a-f]{32}$"


class Columns(Spec):
    """What the columns are called in the source; an empty name says that there is none."""

    url: str = Field(default="url", min_length=1, description="Address of the image.")
    text: str = Field(default="text", min_length=1, description="Caption.")
    uid: str = Field(default="", description="128-bit uid of 32 hex digits; empty: made from url and caption.")
    original_width: str = Field(default="", description="Width of the image in pixels.")
    original_height: str = Field(default="", description="Height of the image in pixels.")
    sha256: str = Field(default="", description="Hash of the image's bytes, 64 hex digits.")
    face_bboxes: str = Field(default="", description="Boxes of faces as fractions [left, top, right, bottom], for blurring.")

    def given(self) -> dict[str, str]:
        """Our name -> theirs, for the columns that there are."""
        return {ours: theirs for ours in type(self).model_fields if (theirs := getattr(self, ours))}


class ByodPoolSpec(Spec):
    """A pool from a folder or bucket of tables with urls and captions."""

    scale: Literal["byod"] = Field(default="byod", description="Your own data.")
    source: str = Field(default="", description="Folder or bucket (s3://...) of .parquet, .csv, .tsv or .jsonl files, or one.")
    name: str = Field(default="mine", min_length=1, description="What to call it.")
    edition: int = Field(default=1, ge=1, description="Raise it when the files at the source have changed.")
    columns: Columns = Field(default=Columns(), description="Names of the columns in the source.")
    rows_per_part: int = Field(default=500_000, gt=0, description="Rows of a metadata part, at most.")

    def label(self) -> str:
        return self.name


@step("pools", version=1)
def import_pool(
    spec: ByodPoolSpec,
    *,
    out: Folder,
    workers: int = 1,
    progress: Progress = NoProgress(),  # noqa: B008
) -> Pool:
    """`metadata/<file>-<piece>.parquet` in DataComp's schema. DataError names the file and column that cannot be used."""
    folder, files = source_files(spec.source)
    counts: Counter[str] = Counter()
    parts: dict[str, str] = {}
    progress.start(len(files), "files")
    jobs = [(number, name) for number, name in enumerate(files) if not out.exists(f"{DONE}/{number:06d}.json")]
    for _ in process_map(partial(_import_file, spec, folder, out), jobs, workers=workers):
        progress.advance()
    progress.advance(len(files) - len(jobs))
    for number in range(len(files)):
        told = out.read_json(f"{DONE}/{number:06d}.json")
        counts.update(told["counts"])
        parts |= told["parts"]
    if not counts["rows"]:
        raise DataError(f"{spec.source} has no row with url and caption: check the column names ({spec.columns.given()}).")
    return Pool(
        scale=spec.scale, num_samples=counts["rows"], num_parts=len(parts), content=fingerprint(parts), counts=dict(counts)
    )


def source_files(source: str) -> tuple[Folder, list[str]]:
    """A folder and the tables in it, by relative path in order. DataError if there is none, or several kinds."""
    if not source:
        raise DataError("A pool of your own needs `source`: a folder or bucket of parquet, csv, tsv or jsonl files.")
    if source.endswith(tuple(ENDINGS)):
        place, _, name = source.rpartition("/")
        return Folder(place or "."), [name]
    folder = Folder(source)
    found = [name for name in folder.files() if any(name.endswith(ending) for ending in ENDINGS)]
    kinds = {_format(name) for name in found}
    if len(kinds) != 1:
        what = f"files of several kinds ({', '.join(sorted(kinds))})" if kinds else "no table"
        raise DataError(f"{source} has {what}: a folder of parquet, csv, tsv or jsonl files is wanted.")
    return folder, found


def _format(name: str) -> str:
    return next(kind for ending, kind in ENDINGS.items() if name.endswith(ending))


def _import_file(spec: ByodPoolSpec, folder: Folder, out: Folder, job: tuple[int, str]) -> None:
    number, name = job
    counts: Counter[str] = Counter()
    parts: dict[str, str] = {}
    for piece, table in enumerate(_pieces(spec, folder, name)):
        rows, lost = _as_metadata(spec, table, folder.at(name))
        counts.update(rows=rows.height, without_url=lost)
        part = f"{number:06d}-{piece:05d}"
        with out.writing(f"{METADATA}/{part}.parquet") as path:
            rows.write_parquet(path)
        parts[part] = f"{digest(rows['uid']):064x}"
    out.write_json(f"{DONE}/{number:06d}.json", {"file": name, "counts": dict(counts), "parts": parts})


def _pieces(spec: ByodPoolSpec, folder: Folder, name: str) -> Iterator[pl.DataFrame]:
    """Tables of at most `rows_per_part` rows, in the order of the file."""
    waiting: list[pl.DataFrame] = []
    rows = 0
    with folder.open(name) as file:
        try:
            for batch in _batches(_format(name), file, spec):
                waiting.append(batch)
                rows += batch.height
                while rows >= spec.rows_per_part:
                    whole = pl.concat(waiting, how="diagonal_relaxed")
                    yield whole.head(spec.rows_per_part)
                    waiting = [whole.slice(spec.rows_per_part)]
                    rows -= spec.rows_per_part
        except (ValueError, OSError, pl.exceptions.PolarsError) as problem:  # pyarrow's errors are ValueErrors
            if isinstance(problem, DataError):
                raise
            first = str(problem).split("\n", 1)[0]
            raise DataError(f"{folder.at(name)} cannot be read as {_format(name)} ({first}): mend the file.") from problem
    if rows:
        yield pl.concat(waiting, how="diagonal_relaxed")


def _batches(kind: str, file: IO[bytes], spec: ByodPoolSpec) -> Iterator[pl.DataFrame]:
    wanted = list(spec.columns.given().values())
    if kind == "parquet":
        import pyarrow.parquet as pq

        table = pq.ParquetFile(file)
        _check_columns(spec, table.schema_arrow.names, file)
        for batch in table.iter_batches(batch_size=min(spec.rows_per_part, 65_536), columns=wanted):
            yield _from_arrow(batch)
    elif kind == "jsonl":
        yield from _json_batches(spec, file, wanted)
    else:
        from pyarrow import csv

        options = csv.ParseOptions(delimiter="\t" if kind == "tsv" else ",", newlines_in_values=True)
        with csv.open_csv(file, parse_options=options, convert_options=csv.ConvertOptions(strings_can_be_null=True)) as reader:
            _check_columns(spec, reader.schema.names, file)
            for batch in reader:
                yield _from_arrow(batch).select(wanted)


def _json_batches(spec: ByodPoolSpec, file: IO[bytes], wanted: list[str]) -> Iterator[pl.DataFrame]:
    checked = False
    reader = io.BufferedReader(file, LINES_BYTES)  # pyright: ignore[reportArgumentType] - a bucket's file reads single lines alone
    while lines := reader.readlines(LINES_BYTES):
        text = b"".join(line for line in lines if line.strip())
        if not text:
            continue
        batch = pl.read_ndjson(text, infer_schema_length=None)
        if not checked:
            _check_columns(spec, batch.columns, file)
            checked = True
        yield batch.select([name for name in wanted if name in batch.columns])


def _check_columns(spec: ByodPoolSpec, there: list[str], file: Any) -> None:
    for ours, theirs in spec.columns.given().items():
        if theirs not in there:
            raise DataError(
                f"{getattr(file, 'name', spec.source)} has no column {theirs!r} for {ours!r}: map it in `columns`; "
                f"it has {', '.join(there)}."
            )


def _from_arrow(batch: Any) -> pl.DataFrame:
    made = pl.from_arrow(batch)
    assert isinstance(made, pl.DataFrame)
    return made


def _as_metadata(spec: ByodPoolSpec, table: pl.DataFrame, where: str) -> tuple[pl.DataFrame, int]:
    """The rows in DataComp's schema, and how many had no url or caption."""
    given = {ours: theirs for ours, theirs in spec.columns.given().items() if theirs in table.columns}
    try:
        rows = table.select(
            [
                (pl.col(given[name]).cast(kind) if name in given else pl.lit(None, kind)).alias(name)
                for name, kind in SCHEMA.items()
            ]
        )
    except pl.exceptions.PolarsError as problem:
        raise DataError(f"A column of {where} is of the wrong type: {str(problem).splitlines()[0]}.") from problem
    kept = rows.filter(pl.col("url").is_not_null() & (pl.col("url") != "") & pl.col("text").is_not_null())
    own = pl.Series("uid", [uid_of(url, text) for url, text in kept.select("url", "text").iter_rows()], pl.String)
    uids = kept["uid"].str.to_lowercase()
    bad = uids.is_not_null() & ~uids.str.contains(IS_UID).fill_null(value=False)
    if bad.any():
        raise DataError(
            f"{where} has the uid {uids.filter(bad)[0]!r}: 32 hex digits are wanted; leave `columns.uid` empty to have uids made."
        )
    boxes = pl.col("face_bboxes").fill_null(pl.lit([], SCHEMA["face_bboxes"]))
    return kept.with_columns(uids.fill_null(own).alias("uid"), boxes), rows.height - kept.height
