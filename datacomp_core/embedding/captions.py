"""`embed_captions`: text features of a caption set, and the cosine of each with the picture's features that are there already.

No picture is decoded: image features come from an embedding of the pool, or from the npz files that its metadata brings. The same
chunks are encoded whatever the number of devices, and those that are kept are not encoded again.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import model_validator

from datacomp_core import caption_sets, clip, engines
from datacomp_core.artifacts import Captions, Checkpoint, Embeddings, Pool
from datacomp_core.clip_sources import ModelSource
from datacomp_core.cluster_workers import send_checkpoint
from datacomp_core.device_map import device_map
from datacomp_core.driver_files import exchange
from datacomp_core.embedding.embed import local_models
from datacomp_core.embedding.spec import EmbedSpec, Encoder
from datacomp_core.errors import DataError, SpecError
from datacomp_core.parts import FEATURES, METADATA
from datacomp_core.pool_source import PoolSource
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.store import Folder, Store, scratch, step

CHUNK_ROWS = 65_536
CHUNKS = "chunks"


class CaptionEmbedSpec(EmbedSpec):
    """The models that encode captions, as in an embedding of the pool: the same names, so that pictures and texts meet."""

    on_gpu: ClassVar[bool] = True

    @model_validator(mode="after")
    def _keeps_no_mirror(self) -> CaptionEmbedSpec:
        if any(encoder.flip != "none" for encoder in self.encoders):
            raise SpecError(
                "Captions are scored with the pool's features, which do not include mirrored pictures: use an encoder without "
                "flip=averaged."
            )
        return self


@dataclass(frozen=True)
class TextWork:
    """The input of every device."""

    spec: EmbedSpec
    models: tuple[ModelSource, ...]
    captions: Folder
    out: Folder


Chunk = tuple[str, int, int]
"""A part of the metadata, and captions of it from the first (included) to the last (excluded)."""


@step("captions", version=1, name=lambda spec, captions, pool, *_: f"{captions.name}-{spec.label()}")
def embed_captions(
    spec: CaptionEmbedSpec,
    captions: Captions,
    pool: Pool,
    embeddings: Embeddings | None,
    scorers: tuple[Checkpoint, ...],
    *,
    out: Folder,
    store: Store,
    device: str = "",
    progress: Progress = NO_PROGRESS,
) -> Captions:
    """The same captions with a score column a model, and `features/<part>.npz`: `<prefix>_txt`, float16, a row a caption.

    `embeddings`: of the pool, made with the same names; none: the metadata brings its features. SpecError for a model of another
    width than the picture's features, DataError where there are none.
    """
    if len(scorers) != spec.num_checkpoints:
        raise SpecError(f"{len(scorers)} checkpoints were given for {spec.num_checkpoints} encoders that do not name a model.")
    source = PoolSource(
        store.folder(pool) / METADATA,
        (),
        (store.folder(embeddings) / FEATURES,) if embeddings is not None else (),
    )
    with scratch() as local:
        models = local_models(spec, scorers, store, local)
        return embed_folder_captions(
            spec, models, captions, store.folder(captions), source, out, device=device, progress=progress
        )


def embed_folder_captions(
    spec: EmbedSpec,
    models: tuple[ModelSource, ...],
    captions: Captions,
    folder: Folder,
    source: PoolSource,
    out: Folder,
    *,
    device: str = "",
    progress: Progress = NO_PROGRESS,
) -> Captions:
    """`embed_captions` for plain folders. `source`: the metadata, and the features of the pool's pictures."""
    columns = [encoder.column for encoder in spec.encoders]
    parts = [part for part in source.parts() if (folder / caption_sets.CAPTIONS).exists(f"{part}.parquet")]
    for part, encoder in ((part, encoder) for part in parts[:1] for encoder in spec.encoders):
        source.require_embeddings(part, f"{encoder.prefix}_img")
    caption_sets.require_parts(folder, source.parts(), source.metadata)
    work = TextWork(spec, models, folder, out)
    there = out.files()
    todo = [part for part in parts if f"{caption_sets.CAPTIONS}/{part}.parquet" not in there]
    sizes = {part: caption_sets.captions_of(folder, part).height for part in parts}
    progress.start(sum(sizes.values()), "captions")
    progress.advance(sum(sizes[part] for part in parts if part not in todo))
    chunks = [chunk for part in todo for chunk in _chunks(part, sizes[part])]
    waiting = Counter(part for part, *_ in chunks)
    with exchange(out) as shared:
        told = replace(
            work, models=tuple(send_checkpoint(model, shared) for model in models) if engines.spans_machines() else models
        )
        for (part, start, stop), _ in device_map(_encode, chunks, prepare=partial(_ready, told), device=device):
            progress.advance(stop - start)
            waiting[part] -= 1
            if not waiting[part]:
                _finish(work, captions, source, part, sizes[part])
    counts = Counter[str]()
    for part in parts:
        counts.update(out.read_json(f"tally/{part}.json"))
    return captions.model_copy(
        update={
            **dict.fromkeys(("address", "data", "fingerprint", "content", "name", "scale"), ""),
            "scores": tuple(dict.fromkeys([*captions.scores, *columns])),
            "counts": {**captions.counts, **counts},
        }
    )


def _chunks(part: str, size: int) -> Iterator[Chunk]:
    for start in range(0, size, CHUNK_ROWS):
        yield part, start, min(size, start + CHUNK_ROWS)


@dataclass(frozen=True)
class _Models:
    work: TextWork
    loaded: tuple[clip.Clip, ...]


def _ready(work: TextWork, device: str) -> _Models:
    return _Models(work, tuple(model.load(device) for model in work.models))


def _encode(models: _Models, chunk: Chunk) -> None:
    """Keep the features of a chunk, unless an earlier try did."""
    part, start, stop = chunk
    work, name = models.work, _kept(chunk)
    if work.out.exists(name):
        return
    texts = caption_sets.captions_of(work.captions, part)["text"].slice(start, stop - start).to_list()
    arrays: dict[str, Any] = {}
    for encoder, model in zip(work.spec.encoders, models.loaded, strict=True):
        size = work.spec.batch_size
        pieces = [
            model.encode_texts(texts[first : first + size], work.spec.precision).float().cpu().numpy()
            for first in range(0, len(texts), size)
        ]
        arrays[encoder.prefix] = np.concatenate(pieces)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    work.out.write(name, buffer.getvalue())


def _kept(chunk: Chunk) -> str:
    return f"{CHUNKS}/{chunk[0]}/{chunk[1]:012d}.npz"


def _finish(work: TextWork, captions: Captions, source: PoolSource, part: str, size: int) -> None:
    """Join a part's chunks and take the cosines; the captions are written last and say that the part is done."""
    rows = caption_sets.captions_for(work.captions, part, source.read(part, ["uid"])["uid"], captions.scores)
    chunks = list(_chunks(part, size))
    features: dict[str, Any] = {}
    tally = Counter[str]()
    loaded = [dict(np.load(io.BytesIO(work.out.read(_kept(chunk))), allow_pickle=False)) for chunk in chunks]
    for encoder in work.spec.encoders:
        texts = np.concatenate([arrays[encoder.prefix] for arrays in loaded])
        texts[~np.isfinite(texts).all(axis=1)] = np.nan
        scores = _cosines(source, part, encoder, texts, rows["row"].to_numpy())
        tally[f"scored: {encoder.column}"] += int(np.isfinite(scores).sum())
        tally[f"without picture: {encoder.column}"] += int((~np.isfinite(scores)).sum())
        features[f"{encoder.prefix}_txt"] = texts.astype(np.float16)
        rows = rows.with_columns(_column(encoder.column, scores))
    with work.out.writing(f"{FEATURES}/{part}.npz") as path, path.open("wb") as file:
        np.savez(file, **features)
    work.out.write_json(f"tally/{part}.json", dict(tally))
    columns = list(dict.fromkeys([*captions.scores, *(encoder.column for encoder in work.spec.encoders)]))
    caption_sets.write_captions(work.out, part, rows, columns)
    work.out.remove(f"{CHUNKS}/{part}")


def _column(name: str, scores: npt.NDArray[np.float32]) -> pl.Series:
    return pl.Series(name, scores, dtype=pl.Float32, nan_to_null=True)


def _cosines(
    source: PoolSource, part: str, encoder: Encoder, texts: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Of each caption with the picture of its row; NaN where there is no picture. Blocks of image features are read in order."""
    scores = np.full(len(texts), np.nan, np.float32)
    start = 0
    for block in source.embeddings(part, f"{encoder.prefix}_img"):
        if block.shape[1] != texts.shape[1]:
            raise DataError(
                f"The pictures of part {part} have {encoder.prefix}_img features of width {block.shape[1]}, and the captions of "
                f"width {texts.shape[1]}: name the model that embedded the pictures."
            )
        first, last = np.searchsorted(rows, [start, start + len(block)]).tolist()
        scores[first:last] = np.einsum("nd,nd->n", block[rows[first:last] - start], texts[first:last])
        start += len(block)
    return scores
