"""`generate_captions`: a model writes captions of a pool's pictures, part by part and chunk by chunk, on every device.

Pictures are found and read as for an embedding. Batches are cut by metadata row and every batch has a seed of its own, so that
the same texts come out on any number of devices and after any kill. A row whose picture is missing or cannot be read is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import polars as pl
from pydantic import Field

from datacomp_core.artifacts import Captions, Pool, ShardSet
from datacomp_core.caption_chunks import CaptionLines, RowSpan, WrittenChunks, artifact_of
from datacomp_core.captioners.base import Captioner, WriterSpec, batch_seed, load
from datacomp_core.device_map import device_map
from datacomp_core.embedding.assemble import Span
from datacomp_core.embedding.encode import rows_between
from datacomp_core.embedding.locate import Located, count_rows, locate
from datacomp_core.errors import DataError, SpecError, tally_of
from datacomp_core.parts import METADATA, part_names, scan
from datacomp_core.pictures import open_picture
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.sample_members import picture_in
from datacomp_core.shards import read_members
from datacomp_core.store import Folder, Store, scratch, step

CHUNK_ROWS = 1024


class GenerateSpec(WriterSpec):
    """Captions of pictures by a model."""

    version: ClassVar[int] = 2  # 2: the draws of a batch depend on the part's whole name
    kind: Literal["generate"] = Field(
        default="generate", json_schema_extra={"enum": ["generate"]}, description="Captions that a model writes for the pictures."
    )


@dataclass(frozen=True)
class WriteWork:
    """The input of every device."""

    spec: GenerateSpec
    metadata: Folder
    shards: Folder
    out: Folder
    server: str


class ChunkImages(NamedTuple):
    """A chunk, and where the pictures of its rows are: `row` (from the chunk's first), shard, offset, length."""

    span: RowSpan
    places: pl.DataFrame


@step("captions", version=1, name=lambda spec, pool, shards: f"{spec.label()}-{pool.name}")
def generate_captions(
    spec: GenerateSpec,
    pool: Pool,
    shards: ShardSet,
    *,
    out: Folder,
    store: Store,
    device: str = "",
    server: str = "",
    progress: Progress = NO_PROGRESS,
) -> Captions:
    """`captions/<part>.parquet` for every row whose picture is there. `server`: the address of a model that is served."""
    if shards.tars:
        raise SpecError(
            f"{shards.name or shards.data} is a view: give the shards that it points to, which contain every picture."
        )
    work = WriteWork(spec, store.folder(pool) / METADATA, store.folder(shards), out, server)
    return generate_folder(work, device=device, progress=progress)


def generate_folder(work: WriteWork, *, device: str = "", progress: Progress = NO_PROGRESS) -> Captions:
    """`generate_captions` for plain folders, going on where an interrupted run stopped."""
    spec = work.spec
    rows = count_rows(work.metadata, part_names(work.metadata))
    written = WrittenChunks(work.out, rows, max(1, CHUNK_ROWS // spec.batch_size) * spec.batch_size)
    missing = list(written.missing())
    progress.start(sum(rows.values()), "pictures")
    progress.advance(sum(rows.values()) - sum(span.stop - span.start for span in missing))
    if missing:
        with scratch() as local:
            asked = _asked(_located(work, rows, missing, local), missing)
            for one, _ in device_map(_write, asked, prepare=partial(_ready, work), device=device):
                written.kept(one.span)
                progress.advance(one.span.stop - one.span.start)
    counts = written.counts()
    if not counts["captions"]:
        written.forget()
        raise DataError(f"{spec.title} did not write a caption for any of the {sum(rows.values()):,} rows ({tally_of(counts)}).")
    return artifact_of(spec.name, spec.title, sum(rows.values()), counts)


def _located(work: WriteWork, rows: dict[str, int], missing: list[RowSpan], local: Path) -> Located:
    """Where the pictures of the missing rows are. DataError if nothing was written before and there is no picture at all."""
    wanted = {span.part for span in missing}
    located = locate(work.metadata, {part: count for part, count in rows.items() if part in wanted}, work.shards, local)
    if sum(span.stop - span.start for span in missing) == sum(rows.values()) and not located.has_any():
        raise DataError(
            f"{work.shards} has no images for {sum(rows.values()):,} rows of {work.metadata}: no sample there has the uid of a "
            "row. Give the shards of this pool."
        )
    return located


def _asked(located: Located, missing: list[RowSpan]) -> Iterator[ChunkImages]:
    for span in missing:
        yield ChunkImages(span, rows_between(located.of(Span(*span)), span.start, span.stop))


class _Ready(NamedTuple):
    work: WriteWork
    captioner: Captioner


def _ready(work: WriteWork, device: str) -> _Ready:
    return _Ready(work, load(work.spec, device, of="pictures", server=work.server))


def _write(ready: _Ready, asked: ChunkImages) -> None:
    """Write one chunk, batch by batch."""
    work, captioner = ready
    spec, span = work.spec, asked.span
    uids = scan(work.metadata, span.part).select("uid").slice(span.start, span.stop - span.start).collect()["uid"]
    lines = CaptionLines(spec.name)
    for first in range(span.start, span.stop, spec.batch_size):
        stop = min(first + spec.batch_size, span.stop)
        images = _pictures(work, asked.places, uids, span, first, stop, lines.counts)
        if not images:
            continue
        texts = captioner.write(list(images.values()), batch_seed(spec.seed, span.part, first))
        for row, several in zip(images, texts, strict=True):
            lines.add(row, uids[row - span.start], several)
    lines.keep(work.out, span)


def _pictures(
    work: WriteWork, places: pl.DataFrame, uids: pl.Series, span: RowSpan, first: int, stop: int, counts: Counter[str]
) -> dict[int, Any]:
    """The pictures of rows `first` to `stop` by row, in order; why others have none is counted."""
    here = rows_between(places, first - span.start, stop - span.start)
    here = here.with_columns(uids.gather(here["row"] + first - span.start).alias("uid"))
    counts["never_arrived"] += stop - first - here.height
    found: dict[int, Any] = {}
    for _, rows in here.sort("shard", "offset", "row").group_by("shard", maintain_order=True):
        for row, members in zip(rows["row"].to_list(), read_members(work.shards, rows), strict=True):
            image = _decoded(picture_in(members))
            if image is None:
                counts["corrupt_image"] += 1
            else:
                found[row + first] = image
    return dict(sorted(found.items()))


def _decoded(data: bytes) -> Any:
    try:
        with open_picture(data) as image:
            return image.convert("RGB")
    except Exception:  # Pillow's decoders raise a dozen kinds on bad bytes
        return None
