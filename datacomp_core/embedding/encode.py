"""`embed`: features of both towers and their cosine for every row of a pool, in DataComp's layout.

Rows are aligned one to one with the metadata: a sample whose image never arrived or cannot be decoded has a null score and
NaN image features. Batches are cut by metadata row, never by shard or by who is done first, so the same bytes come out
however the pool is sharded and however many workers there are.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from datacomp_core import clip
from datacomp_core.artifacts import Checkpoint, Embeddings, Pool, ShardSet, Spec
from datacomp_core.embedding.assemble import TALLY, Assembly, Features, Span
from datacomp_core.embedding.decode import Batch, Decoded, decode
from datacomp_core.embedding.locate import count_rows, locate
from datacomp_core.parallel import process_map
from datacomp_core.parts import METADATA, SCORES, part_names
from datacomp_core.progress import NoProgress, Progress
from datacomp_core.store import Folder, Store, scratch, step

IN_FLIGHT = 4
NO_PROGRESS = NoProgress()


class EmbedSpec(Spec):
    """What to compute for each row of the pool."""

    column: str = Field(
        default="clip_tiny_similarity_score", pattern=r"^[a-z0-9_]+$", description="Name of the score column: the cosine."
    )
    prefix: str = Field(default="tiny", pattern=r"^[a-z0-9_]+$", description="The npz keys are <prefix>_img and <prefix>_txt.")
    precision: clip.Precision = Field(default="fp32", description="fp32, or autocast to bf16 or fp16.")
    batch_size: int = Field(default=256, ge=1, description="Metadata rows encoded together; it moves the last bits.")

    def label(self) -> str:
        return self.prefix


@step("embeddings", version=1, name=lambda spec, pool, shards, scorer: f"{spec.label()}-{pool.name}")
def embed(
    spec: EmbedSpec,
    pool: Pool,
    shards: ShardSet,
    scorer: Checkpoint,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    device: str = "",
    progress: Progress = NO_PROGRESS,
) -> Embeddings:
    """Write `scores/<part>.parquet` (uid and `spec.column`, float32) and `features/<part>.npz` (float16, normalised).

    DataError if a shard is missing or is not what its index says; a corrupt image is a counted row.
    """
    metadata, tars = store.folder(pool) / METADATA, store.folder(shards)
    rows = count_rows(metadata, part_names(metadata))
    there = out.files()
    todo = {part: count for part, count in rows.items() if f"{SCORES}/{part}.parquet" not in there}
    progress.start(sum(rows.values()), "samples")
    progress.advance(sum(rows.values()) - sum(todo.values()))
    if todo:
        with store.folder(scorer).open("checkpoint.pt") as file:
            model = clip.load(scorer.model, file, device or clip.default_device())
        with scratch() as located:
            locate(metadata, todo, tars, located)
            assembly = Assembly(out, located, todo, column=spec.column, prefix=spec.prefix, dim=model.dim, batch=spec.batch_size)
            chunks = list(assembly.missing())
            progress.advance(sum(todo.values()) - sum(chunk.stop - chunk.start for chunk in chunks))
            _encode(spec, model, _batches(chunks, spec.batch_size, located, tars, model.pixels), assembly, workers, progress)
    counts: Counter[str] = Counter()
    for part in rows:
        counts.update(out.read_json(f"{TALLY}/{part}.json"))
    return Embeddings(
        model=scorer.name or scorer.model,
        columns=(spec.column,),
        num_samples=sum(rows.values()),
        num_embedded=counts["embedded"],
        counts={name: count for name, count in counts.items() if count},
    )


def _batches(chunks: Iterable[Span], size: int, located: Path, shards: Folder, pixels: clip.Pixels) -> Iterator[Batch]:
    for part, pieces in groupby(chunks, key=lambda chunk: chunk.part):
        table = pl.read_parquet(located / f"{part}.parquet")
        for chunk in pieces:
            for start in range(chunk.start, chunk.stop, size):
                stop = min(start + size, chunk.stop)
                rows = table.slice(start, stop - start).with_row_index("row")
                arrived = rows.filter(pl.col("shard").is_not_null()).drop("text")
                yield Batch(part, start, stop, tuple(rows["text"]), arrived, shards, pixels)


def _encode(
    spec: EmbedSpec, model: clip.Clip, batches: Iterable[Batch], assembly: Assembly, workers: int, progress: Progress
) -> None:
    flying: deque[tuple[Batch, Decoded, Any, Any]] = deque()

    def land() -> None:
        batch, decoded, images, texts = flying.popleft()
        captioned = [row for row, text in enumerate(batch.texts) if text is not None]
        size = batch.stop - batch.start
        tally = {
            "never_arrived": size - batch.located.height,
            "no_caption": size - len(captioned),
            **decoded.failed,
        }
        span = Span(batch.part, batch.start, batch.stop)
        sides = (_rows(images, decoded.rows, size, model.dim), _rows(texts, captioned, size, model.dim))
        embedded = assembly.add(span, *sides, tally)
        progress.advance(size, embedded=embedded, **{name: count for name, count in tally.items() if count})

    for batch, decoded in process_map(decode, batches, workers=workers):
        texts = [text for text in batch.texts if text is not None]
        images = model.encode_images(decoded.pixels, spec.precision) if decoded.rows else None
        flying.append((batch, decoded, images, model.encode_texts(texts, spec.precision) if texts else None))
        if len(flying) >= IN_FLIGHT:  # a GPU computes while we go on: ask for its answer late
            land()
    while flying:
        land()


def _rows(features: Any, rows: list[int], size: int, dim: int) -> Features:
    """Features (n, dim) of the rows `rows` among `size`, NaN elsewhere."""
    full = np.full((size, dim), np.nan, np.float32)
    if features is not None:
        full[rows] = features.float().cpu().numpy()
    return full
