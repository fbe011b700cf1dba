"""`translate_captions`: a text-to-text model translates the captions of a pool, its own or those of a set.

With `only` the captions of one language alone (by fastText's lid.176) or, with `foreign`, all that are not English; the others
get none, so that `first_of: [translation, raw]` has both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import polars as pl
from pydantic import Field

from datacomp_core import caption_sets, parts
from datacomp_core.artifacts import Captions, Pool
from datacomp_core.caption_chunks import CaptionLines, RowSpan, WrittenChunks, artifact_of
from datacomp_core.captioners.base import Captioner, WriterSpec, batch_seed, load
from datacomp_core.columns import plain
from datacomp_core.device_map import device_map
from datacomp_core.errors import DataError, tally_of
from datacomp_core.fasttext.model import language_model
from datacomp_core.parts import METADATA
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.store import Folder, Store, step

CHUNK_ROWS = 8192
LANGUAGES = "lid.176.ftz"


class TranslateSpec(WriterSpec):
    """Translations of captions by a text-to-text model."""

    version: ClassVar[int] = 2  # 2: parts no longer share draws
    kind: Literal["translate"] = Field(
        default="translate", json_schema_extra={"enum": ["translate"]}, description="Captions that a model translates."
    )
    of: str = Field(default=caption_sets.RAW, description="The source to translate: raw, or a source of the given set.")
    only: str = Field(default="foreign", pattern=r"^(all|foreign|[a-z]{2,3})$", description="all, foreign, or a language.")
    source_language: str = Field(default="", description="For multilingual models: the tokenizer's code of the source language.")
    target_language: str = Field(default="", description="For multilingual models: the code of the target language.")


@dataclass(frozen=True)
class TranslateWork:
    """The input of every device; `captions` is the set that is translated, none: the pool's own captions."""

    spec: TranslateSpec
    metadata: Folder
    captions: Folder | None
    out: Folder
    server: str


@step("captions", version=1, name=lambda spec, pool, captions: f"{spec.label()}-{pool.name}")
def translate_captions(
    spec: TranslateSpec,
    pool: Pool,
    captions: Captions | None,
    *,
    out: Folder,
    store: Store,
    device: str = "",
    server: str = "",
    progress: Progress = NO_PROGRESS,
) -> Captions:
    """`captions/<part>.parquet` for every row with a caption in a language that is translated."""
    caption_sets.require_sources((spec.of,), [captions] if captions is not None else [])
    folder = store.folder(captions) if captions is not None and spec.of != caption_sets.RAW else None
    work = TranslateWork(spec, store.folder(pool) / METADATA, folder, out, server)
    return translate_folder(work, device=device, progress=progress)


def translate_folder(work: TranslateWork, *, device: str = "", progress: Progress = NO_PROGRESS) -> Captions:
    """`translate_captions` for plain folders, going on where an interrupted run stopped."""
    spec = work.spec
    sizes = {part: parts.scan(work.metadata, part).select(pl.len()).collect().item() for part in parts.part_names(work.metadata)}
    if work.captions is not None:
        caption_sets.require_parts(work.captions, list(sizes), work.metadata)
    written = WrittenChunks(work.out, sizes, max(1, CHUNK_ROWS // spec.batch_size) * spec.batch_size)
    missing = list(written.missing())
    progress.start(sum(sizes.values()), "rows")
    progress.advance(sum(sizes.values()) - sum(span.stop - span.start for span in missing))
    for span, _ in device_map(_write, missing, prepare=partial(_ready, work), device=device) if missing else ():
        written.kept(span)
        progress.advance(span.stop - span.start)
    counts = written.counts()
    if not counts["captions"]:
        written.forget()
        raise DataError(f"None of the {sum(sizes.values()):,} rows has a caption to translate ({tally_of(counts)}).")
    return artifact_of(spec.name, spec.title, sum(sizes.values()), counts)


class _Translator(NamedTuple):
    work: TranslateWork
    captioner: Captioner


def _ready(work: TranslateWork, device: str) -> _Translator:
    return _Translator(work, load(work.spec, device, of="texts", server=work.server))


def _write(ready: _Translator, span: RowSpan) -> None:
    work, captioner = ready
    spec, lines = work.spec, CaptionLines(work.spec.name)
    wanted = _wanted(work, span, lines.counts)
    for batch in _batches(wanted, span, spec.batch_size):
        texts = captioner.write(batch["text"].to_list(), batch_seed(spec.seed, span.part, int(batch["row"][0])))
        for (row, uid), several in zip(batch.select("row", "uid").iter_rows(), texts, strict=True):
            lines.add(row, uid, several)
    lines.keep(work.out, span)


def _batches(rows: pl.DataFrame, span: RowSpan, size: int) -> Iterator[pl.DataFrame]:
    """The captions of `size` metadata rows at a time, so that batches do not depend on where a run began."""
    for first in range(span.start, span.stop, size):
        batch = rows.filter(pl.col("row").is_between(first, first + size - 1))
        if batch.height:
            yield batch


def _wanted(work: TranslateWork, span: RowSpan, counts: Counter[str]) -> pl.DataFrame:
    """row, uid and text of the captions of a chunk that are in a language that is translated."""
    spec = work.spec
    frame, where = parts.scan(work.metadata, span.part), work.metadata.at(span.part)
    if work.captions is None:
        asked = frame.select("uid", "text").slice(span.start, span.stop - span.start).collect()
        rows = plain(asked, where).with_row_index("row", span.start)
    else:
        uids = plain(frame.select("uid").collect(), where)["uid"]
        found = caption_sets.captions_for(work.captions, span.part, uids).filter(pl.col("source") == spec.of)
        rows = found.filter(pl.col("row").is_between(span.start, span.stop - 1)).select("row", "uid", "text")
    full = rows.with_columns(pl.col("row").cast(pl.Int64)).filter(pl.col("text").str.strip_chars() != "")
    counts["without_caption"] += rows.height - full.height
    if spec.only == "all" or not full.height:
        return full
    languages = language_model(LANGUAGES).languages(full["text"].str.replace_all("\n", " ", literal=True))
    wanted = languages != "en" if spec.only == "foreign" else languages == spec.only
    wanted = wanted.fill_null(False)
    counts["not_asked"] += int((~wanted).sum())
    return full.filter(wanted)
