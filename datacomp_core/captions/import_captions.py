"""`import_captions`: a table of captions from outside, joined to a pool by uid, img2dataset's key, url or the picture's sha256.

The table may have any number of files in any order; a key may occur in it several times, and several rows of the pool may have
it. Every row of the table and of the pool is accounted for.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import AfterValidator, Field, field_validator, model_validator

from datacomp_core import caption_sets, external_files, joining, parts, uid
from datacomp_core.artifacts import Captions, Pool, Scores, ShardSet, Spec
from datacomp_core.caption_policy import score_name
from datacomp_core.captions import joins, tables
from datacomp_core.columns import plain
from datacomp_core.errors import DataError, SpecError
from datacomp_core.parts import METADATA, SCORES
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.store import Folder, Store, step
from datacomp_core.store.folder import scratch

log = logging.getLogger(__name__)

PACKED_TIMES = 4  # of parquet and packed files: texts take about so much more in memory
ACCOUNT = (
    "rows",
    "matched",
    "unmatched",
    "empty",
    "not_utf8",
    "without_key",
    "without_score",
    "repeated",
    "captioned",
    "several",
    "uncaptioned",
)


def _pinned(name: str) -> str:
    return external_files.pin_place(name, tables.SUFFIXES, "a table of captions")


class CaptionImportSpec(Spec):
    """A table of captions and how it is joined to a pool."""

    pins_files: ClassVar[bool] = True
    kind: Literal["import"] = Field(default="import", json_schema_extra={"enum": ["import"]}, description="Captions of a table.")
    file: Annotated[str, AfterValidator(_pinned)] = Field(
        description="A file or a folder of parquet, csv, tsv or jsonl (also .gz, .bz2, .xz); local, s3://, https:// or "
        "hf://datasets/OWNER/NAME/PATH."
    )
    name: str = Field(min_length=1, max_length=60, pattern=caption_sets.SOURCE_PATTERN, description="Name of the source.")
    key: Literal["uid", "key", "url", "sha256"] = Field(
        default="uid", description="How to join it to the pool. key: img2dataset's key, through the pool's shards."
    )
    key_column: str = Field(default="", description="The column of the key; empty: the column that `key` names.")
    text_column: str = Field(default="", description="The column of captions, texts or lists of texts; empty: text or caption.")
    score_column: str = Field(default="", description="A column of scores; empty: none.")
    score: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_]*$",
        description="Name of that score, such as clip_l14_similarity_score, or l14 for short; empty: the column's name.",
    )
    source_column: str = Field(default="", description="A column with the name of each caption's source; empty: `name`.")
    model: str = Field(default="", description="The model that wrote the captions, for the board.")

    @field_validator("name")
    @classmethod
    def _not_raw(cls, name: str) -> str:
        return caption_sets.own_name(name)

    @model_validator(mode="after")
    def _names_its_score(self) -> CaptionImportSpec:
        if self.score and not self.score_column:
            raise SpecError(f"No column is given for the score {self.score}: name it (--score-column).")
        return self

    @property
    def scores(self) -> tuple[str, ...]:
        """The column of scores of the set, if it has one."""
        return (score_name(self.score or self.score_column),) if self.score_column else ()

    def label(self) -> str:
        return self.name


@step("captions", version=1, name=lambda spec, pool, *_: f"{spec.label()}-{pool.name}")
def import_captions(
    spec: CaptionImportSpec,
    pool: Pool,
    shards: ShardSet | None,
    learned: Scores | None,
    *,
    out: Folder,
    store: Store,
    progress: Progress = NO_PROGRESS,
) -> Captions:
    """`captions/<part>.parquet` for every part with captions. `shards`: for joins by key; `learned`: sha256 by the download.

    DataError if no row of the table matches.
    """
    beside = store.folder(learned) / SCORES if learned is not None else None
    images = store.folder(shards) if shards is not None else None
    return import_folder_captions(spec, store.folder(pool) / METADATA, out, shards=images, learned=beside, progress=progress)


def import_folder_captions(
    spec: CaptionImportSpec,
    metadata: Folder,
    out: Folder,
    *,
    shards: Folder | None = None,
    learned: Folder | None = None,
    progress: Progress = NO_PROGRESS,
) -> Captions:
    """`import_captions` for a plain folder of metadata parquets."""
    if spec.key == "key" and shards is None:
        raise SpecError("A join by img2dataset's key needs the shards: give the shards of this pool (--shards).")
    files = external_files.local(spec.file, tables.SUFFIXES)
    sizes = _sizes(metadata)
    num_bytes = sum(file.stat().st_size * (1 if file.suffix.lower() in tables.OF_TEXT else PACKED_TIMES) for file in files)
    progress.start(len(files) + len(sizes), "files and parts")
    counts = Counter[str]()
    with scratch() as local:
        table = _table(spec, files, counts, progress)
        if spec.key == "key":
            assert shards is not None
            table = joins.translate_uids(table, joining.sample_keys(shards), local, sum(sizes.values()), num_bytes, counts)
        found = joins.join(sizes, _pool(spec, metadata, sizes, learned), table, local, num_bytes)
        counts.update(found.counts)
        _require_match(spec, counts, files)
        _require_names(spec, found.sources)
        for part, rows in found.parts():
            counts.update(_write(spec, out, metadata, part, rows))
            progress.advance()
    return _made(spec, counts, found.sources, sum(sizes.values()))


def _require_names(spec: CaptionImportSpec, sources: set[str]) -> None:
    """DataError for a matched source whose name is not valid in a policy."""
    odd = [name for name in sorted(sources) if pl.Series([name]).str.contains(caption_sets.SOURCE_PATTERN).not_().any()]
    if odd or caption_sets.RAW in sources:
        raise DataError(
            f"The source column {spec.source_column!r} has the value {(odd or [caption_sets.RAW])[0]!r}: names of sources "
            f"may contain letters, digits, `_`, `.`, `+` and `-`, and {caption_sets.RAW} means the pool's own captions."
        )


def _made(spec: CaptionImportSpec, counts: Counter[str], sources: set[str], num_samples: int) -> Captions:
    counts["uncaptioned"] = num_samples - counts["captioned"]
    return Captions(
        sources=tuple(sorted(sources)),
        model=spec.model,
        scores=spec.scores,
        num_samples=num_samples,
        num_captions=counts["captions"],
        num_captioned=counts["captioned"],
        counts={name: counts[name] for name in ACCOUNT if name != "without_score" or spec.scores},
    )


def _table(
    spec: CaptionImportSpec, files: Sequence[Path], counts: Counter[str], progress: Progress
) -> Iterator[tuple[uid.Uids, pl.DataFrame]]:
    columns = tables.CaptionColumns(spec.key, spec.key_column, spec.text_column, spec.score_column, spec.source_column)
    order = 0
    for file in files:
        for piece in tables.read(file, columns):
            counts.update(piece.counts)
            rows = piece.frame.with_columns(
                pl.col("source").fill_null(spec.name), order=pl.int_range(order, order + len(piece.keys))
            )
            order += len(piece.keys)
            yield piece.keys, rows
        progress.advance()


def _pool(
    spec: CaptionImportSpec, metadata: Folder, sizes: Mapping[str, int], learned: Folder | None
) -> Iterator[tuple[str, uid.Uids, npt.NDArray[np.int64]]]:
    """The keys of the pool's rows; a row without one has no captions."""
    column = "uid" if spec.key == "key" else spec.key
    for part in sizes:
        values = _column(metadata, learned, part, column)
        if column == "uid":
            yield part, joining.keys_of(values, "uid", metadata.at(part)), np.arange(len(values))
            continue
        values = values.str.to_lowercase() if column == "sha256" else values
        there = np.flatnonzero((values.is_not_null() & (values != "")).fill_null(False).to_numpy())
        yield part, joining.hash_texts(values.gather(there).to_list()), there


def _column(metadata: Folder, learned: Folder | None, part: str, column: str) -> pl.Series:
    frame = parts.scan(metadata, part, (learned,) if learned is not None and column == "sha256" else ())
    try:
        return plain(frame.select(column).collect(), metadata.at(part))[column]
    except pl.exceptions.ColumnNotFoundError as problem:
        raise DataError(f"{metadata.at(part)}.parquet has no column {column!r} to join captions by.") from problem


def _sizes(metadata: Folder) -> dict[str, int]:
    return {part: int(parts.scan(metadata, part).select(pl.len()).collect().item()) for part in parts.part_names(metadata)}


def _require_match(spec: CaptionImportSpec, counts: Counter[str], files: Sequence[Path]) -> None:
    """DataError if nothing matched: a wrong key column is likelier than a table without one caption of this pool."""
    if counts["matched"]:
        return
    told = ", ".join(f"{name} {counts[name]:,}" for name in ACCOUNT[:6] if counts[name] or name in ("rows", "matched"))
    raise DataError(
        f"No caption of {external_files.place_of(spec.file)} (files: {len(files)}) was joined to the pool by {spec.key} "
        f"({told}): check the key (--by, --key-column) and the pool."
    )


def _write(spec: CaptionImportSpec, out: Folder, metadata: Folder, part: str, rows: pl.DataFrame) -> dict[str, int]:
    uids = plain(parts.scan(metadata, part).select("uid").collect(), metadata.at(part))["uid"]
    made = rows.with_columns(uid=uids.gather(rows["row"]))
    caption_sets.write_captions(out, part, made.rename(dict(zip(["score"], spec.scores, strict=False))), spec.scores)
    a_row = made.group_by("row").len("n")["n"]
    repeated = made.height - made.select("row", "source", "text").n_unique()
    return {"captions": made.height, "captioned": len(a_row), "several": int((a_row > 1).sum()), "repeated": repeated}


def account(made: Captions) -> list[tuple[str, Any]]:
    """The account in reading order, in plain words."""
    words = {
        "rows": "captions in the table" if "matched" in made.counts else "pool rows",
        "matched": "found in the pool",
        "unmatched": "not in the pool",
        "empty": "empty",
        "not_utf8": "not UTF-8 text",
        "without_key": "without a usable key",
        "without_score": "without a score that is a number",
        "repeated": "repeated in the table, with the same text",
        "captioned": "pool rows with a caption",
        "several": "pool rows with several",
        "uncaptioned": "pool rows without",
    }
    return [(words.get(name, name), count) for name, count in made.counts.items()]
