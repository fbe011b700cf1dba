"""`embed`: features of both towers and their cosine for every row of a pool, in DataComp's layout, by one or several CLIPs.

Rows are aligned one to one with the metadata: a sample whose image never arrived or cannot be decoded has a null score and
NaN image features.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from datacomp_core.artifacts import Checkpoint, Embeddings, Pool, ShardSet
from datacomp_core.clip_named import model_of, title
from datacomp_core.clip_sources import FileModel, ModelSource
from datacomp_core.cluster_workers import of_cluster
from datacomp_core.device_map import device_names
from datacomp_core.embedding.assemble import CHUNKS, ENCODERS, NOT_FINITE, TALLY, EncoderColumn, PartAssembler, part_files
from datacomp_core.embedding.devices import encode_on, encode_on_cluster
from datacomp_core.embedding.encode import EncodeWork
from datacomp_core.embedding.locate import count_rows, locate
from datacomp_core.embedding.spec import EmbedSpec
from datacomp_core.errors import SpecError
from datacomp_core.parts import FEATURES, METADATA, SCORES, part_names, scan
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.shards import INDEX
from datacomp_core.store import Folder, Store, scratch, step
from datacomp_core.store.content_marks import Marks, Trust, marks
from datacomp_core.store.folder_request import bind_folder

log = logging.getLogger(__name__)


@step("embeddings", version=1, name=lambda spec, pool, shards, scorers: f"{spec.label()}-{pool.name}")
def embed(
    spec: EmbedSpec,
    pool: Pool,
    shards: ShardSet,
    scorers: tuple[Checkpoint, ...],
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    device: str = "",
    progress: Progress = NO_PROGRESS,
) -> Embeddings:
    """Write `scores/<part>.parquet` (uid and a float32 column a model) and `features/<part>.npz` (float16, normalised).

    `device` may name several with commas; empty: every GPU, else the CPU. `workers` are decoding processes of all devices
    together. DataError if a shard is missing or is not what its index says; a corrupt image is a counted row.
    """
    metadata = store.folder(pool) / METADATA
    _refuse(spec, shards, scorers, metadata)
    with scratch() as local:
        models = local_models(spec, scorers, store, local)
        counts = embed_rows(
            spec, models, metadata, store.folder(shards), out, local, workers=workers, device=device, progress=progress
        )
    return Embeddings(
        model=", ".join(_names(spec, scorers)),
        columns=tuple(encoder.column for encoder in spec.encoders),
        num_samples=counts.pop("rows"),
        num_embedded=counts["embedded"],
        counts={name: count for name, count in counts.items() if count},
    )


def embed_folder(
    spec: EmbedSpec,
    models: tuple[ModelSource, ...],
    metadata: str,
    shards: str,
    out: str,
    *,
    workers: int = 1,
    device: str = "",
    trust: Trust = "content",
    progress: Progress = NO_PROGRESS,
) -> Counter[str]:
    """`embed` on plain folders; the same call resumes one that stopped.

    `out` belongs to its models, metadata and shards by content: SpecError, naming what has changed, if it was begun with others.
    """
    folders = Folder(metadata), Folder(shards), Folder(out)
    _refuse_released(spec, folders[0])
    made_of = [{"weights": model.fingerprint()} | model.made_of() for model in models]
    request = spec.model_dump(mode="json") | {
        "models": {encoder.prefix: found for encoder, found in zip(spec.encoders, made_of, strict=True)}
    }
    stations = of_cluster(device)
    kind = devices_of(device)[0].partition(":")[0] if stations is None else stations.kind
    inputs = {"metadata": partial(_metadata_marks, folders[0], trust), "shards": partial(_shard_marks, folders[1], trust)}
    bind_folder(folders[2], request | {"device": kind}, inputs, results=(SCORES, FEATURES, TALLY, CHUNKS))
    with scratch() as local:
        return embed_rows(spec, models, *folders, local, workers=workers, device=device, progress=progress)


def embed_rows(
    spec: EmbedSpec,
    models: tuple[ModelSource, ...],
    metadata: Folder,
    shards: Folder,
    out: Folder,
    local: Path,
    *,
    workers: int,
    device: str,
    progress: Progress,
) -> Counter[str]:
    """Embed every row of a metadata folder, going on where an interrupted run stopped; counts by reason, and `rows`."""
    rows = count_rows(metadata, part_names(metadata))
    there = out.files()
    todo = {part: count for part, count in rows.items() if not there.keys() >= set(part_files(part))}
    progress.start(sum(rows.values()), "samples")
    progress.advance(sum(rows.values()) - sum(todo.values()))
    if todo:
        columns = tuple(
            EncoderColumn(encoder.column, encoder.prefix, model.dim(), encoder.flip)
            for encoder, model in zip(spec.encoders, models, strict=True)
        )
        parts = PartAssembler(out, metadata, todo, columns, spec.batch_size)
        chunks = list(parts.missing())
        progress.advance(sum(todo.values()) - sum(chunk.stop - chunk.start for chunk in chunks))
        todo = {part: count for part, count in todo.items() if parts.waiting[part]}
        stations = of_cluster(device)
        devices = devices_of(device) if stations is None else ()
        if chunks:
            located = locate(metadata, todo, shards, local)
            work = EncodeWork(
                models=models,
                columns=columns,
                precision=spec.precision,
                batch_size=spec.batch_size,
                metadata=metadata,
                shards=shards,
                located=located,
                rows=todo,
                step=parts.step,
                workers=max(1, workers // len(devices)) if devices else workers,
                decoding=spec.decoding,
            )
            if stations is not None:
                encode_on_cluster(stations, work, chunks, parts, progress)
            else:
                encode_on(devices, work, chunks, parts, progress)
    counts, bad = Counter[str](rows=sum(rows.values())), Counter[str]()
    for part in rows:
        found: dict[str, Any] = out.read_json(f"{TALLY}/{part}.json")
        for prefix, own in found.pop(ENCODERS, {}).items():
            bad[prefix] += own.get(NOT_FINITE, 0)
        counts.update(found)
    for prefix, count in bad.items():
        if count:
            log.warning(
                "%s: %s of %s rows have no features, because the model gave NaN or infinity (%s overflows): they are null and "
                "counted as not_finite. Embed again with fp32 or bf16.",
                prefix,
                f"{count:,}",
                f"{counts['rows']:,}",
                spec.precision,
            )
    return counts


def devices_of(device: str) -> tuple[str, ...]:
    """The devices that `device` names: `cuda` and nothing are every GPU of this machine; `cpu,cpu` are two processes."""
    return device_names(device)


def _metadata_marks(metadata: Folder, trust: Trust, known: Marks) -> Marks:
    return marks(metadata, only=[f"{part}.parquet" for part in part_names(metadata)], known=known, trust=trust)


def _shard_marks(shards: Folder, trust: Trust, known: Marks) -> Marks:
    """Of the tars and their index: what is read of them."""
    names = [name for name in shards.files() if name.endswith(".tar") or name.startswith(f"{INDEX}/")]
    return marks(shards, only=names, known=known, trust=trust)


def _refuse(spec: EmbedSpec, shards: ShardSet, scorers: tuple[Checkpoint, ...], metadata: Folder) -> None:
    if shards.tars:
        raise SpecError(
            f"{shards.name or shards.data} is a view of other shards: embed those shards, which contain every row of the pool."
        )
    if len(scorers) != spec.num_checkpoints:
        raise SpecError(
            f"{len(scorers)} checkpoints were given for {spec.num_checkpoints} encoders that do not name a model: give one "
            "for each."
        )
    _refuse_released(spec, metadata)


def _refuse_released(spec: EmbedSpec, metadata: Folder) -> None:
    if spec.released == "keep" and (brought := released_scores(metadata, [encoder.column for encoder in spec.encoders])):
        raise SpecError(
            f"The pool's metadata contains {', '.join(brought)}, and filters use these values: leave the encoder "
            "out, or compute the scores again (released='recompute')."
        )


def released_scores(metadata: Folder, columns: list[str]) -> list[str]:
    """Which of these scores the metadata brings: columns of its first part with any value."""
    first = scan(metadata, part_names(metadata)[0])
    there = [column for column in columns if column in first.collect_schema().names()]
    if not there:
        return []
    filled = first.select(pl.col(column).is_not_null().any() for column in there).collect()
    return [column for column in there if filled[column][0]]


def local_models(spec: EmbedSpec, scorers: tuple[Checkpoint, ...], store: Store, local: Path) -> tuple[ModelSource, ...]:
    """Every encoder's weights as a local file, in the order of the spec."""
    made: list[ModelSource] = []
    given = iter(enumerate(scorers))
    for encoder in spec.encoders:
        if encoder.model:
            made.append(model_of(encoder.model, encoder.weights, encoder.sha256))
            continue
        number, scorer = next(given)
        made.append(FileModel(scorer.model, scorer.model, _local(store.folder(scorer), local / f"checkpoint-{number}.pt")))
    return tuple(made)


def _local(folder: Folder, copy: Path) -> Path:
    if folder.is_local:
        return folder.path / "checkpoint.pt"
    with folder.open("checkpoint.pt") as source, copy.open("wb") as file:
        shutil.copyfileobj(source, file, 16 << 20)
    return copy


def _names(spec: EmbedSpec, scorers: tuple[Checkpoint, ...]) -> list[str]:
    given = iter(scorers)
    taken = [(encoder, None if encoder.model else next(given)) for encoder in spec.encoders]
    return [title(encoder.model, encoder.weights) if scorer is None else scorer.name or scorer.model for encoder, scorer in taken]
