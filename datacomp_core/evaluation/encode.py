"""Batches to features: decoded by processes that all tasks share, and encoded by one model, or by one on each of several devices.

Samples come as pixels and leave as features (float32 on the CPU, whatever they were encoded in), so that every protocol sees
the same whether one device was at work or eight. Several devices get runs of batches of one task, each with decoders of its own.
"""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from datacomp_core.clip_sources import ModelSource
from datacomp_core.cluster_workers import ClusterWorkers, decoders, send_checkpoint
from datacomp_core.driver_files import exchange
from datacomp_core.evaluation.datasets import EvalBatch, Samples
from datacomp_core.evaluation.zero_shot_model import EvalModel, Exactness
from datacomp_core.parallel import prepared_map, process_map
from datacomp_core.store.folder import Folder

Features = npt.NDArray[np.float32]
JOBS_A_CHUNK = 16


@dataclass(frozen=True)
class EncodeJob:
    """A batch, and whether the reference encodes its images under autocast."""

    batch: EvalBatch
    half: bool


@dataclass(frozen=True)
class Encoded:
    """An encoded batch: normalised features (n, d) and the other members of its samples; or `fault`, as in `Samples`."""

    keys: list[str]
    features: Features
    members: dict[str, list[Any]]
    digest: bytes
    fault: str = ""


def encode(model: EvalModel, samples: Samples, *, half: bool) -> Encoded:
    """The features of decoded samples; none if they have a fault."""
    if samples.fault:
        return Encoded(samples.keys, np.empty((0, 0), np.float32), samples.members, b"", samples.fault)
    features = model.images(samples.pixels, half=half).float().cpu().numpy()
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        fault = f"sample {samples.keys[bad[0]]}: the model gives NaN or infinity for its image ({model.precision(half=half)})"
        return Encoded(samples.keys, np.empty((0, 0), np.float32), samples.members, b"", fault)
    return Encoded(samples.keys, features, samples.members, samples.digest)


def encode_all(jobs: Iterable[EncodeJob], model: EvalModel, *, workers: int) -> Iterator[tuple[EvalBatch, Encoded]]:
    """With the one model that is here."""
    for job, samples in process_map(_read, jobs, workers=workers):
        yield job.batch, encode(model, samples, half=job.half)


def encode_apart(
    jobs: Iterable[EncodeJob], source: ModelSource, exactness: Exactness, *, devices: Sequence[str], workers: int
) -> Iterator[tuple[EvalBatch, Encoded]]:
    """Encode with a model on each device, each in a separate process; `workers` decoders are divided among them."""
    waiting = multiprocessing.get_context("spawn").SimpleQueue()
    for device in devices:
        waiting.put(device)
    prepare = partial(_Station.open, source, exactness, waiting, max(1, workers // len(devices)))
    chunks = _chunks(jobs)
    mapped = prepared_map(_encode_chunk, chunks, prepare=prepare, workers=len(devices), one_worker="apart", engine="local")
    for chunk, found in mapped:
        yield from zip((job.batch for job in chunk), found, strict=True)


def encode_on_cluster(
    jobs: Iterable[EncodeJob], source: ModelSource, exactness: Exactness, *, stations: ClusterWorkers, near: Folder, workers: int
) -> Iterator[tuple[EvalBatch, Encoded]]:
    """With a model on each station of a cluster, which decodes on its own machine; `near` as in `exchange`."""
    with exchange(near) as shared:
        threads = max(1, workers // stations.count)
        prepare = partial(_Station.on_cluster, send_checkpoint(source, shared), exactness, stations, threads)
        mapped = prepared_map(
            _encode_chunk,
            _chunks(jobs),
            prepare=prepare,
            workers=stations.count,
            one_worker="apart",
            gpus=stations.gpus,
        )
        for chunk, found in mapped:
            yield from zip((job.batch for job in chunk), found, strict=True)


def _read(job: EncodeJob) -> Samples:
    return job.batch.read()


def _chunks(jobs: Iterable[EncodeJob]) -> Iterator[tuple[EncodeJob, ...]]:
    """Runs of batches of one task, in order; each is handed on as soon as it is full or its task ends."""
    for _, same in groupby(jobs, key=lambda job: job.batch.task):
        chunk: list[EncodeJob] = []
        for job in same:
            chunk.append(job)
            if len(chunk) == JOBS_A_CHUNK:
                yield tuple(chunk)
                chunk = []
        if chunk:
            yield tuple(chunk)


class _Station:
    """One device's process: its model, and threads that decode for it (Pillow works without Python's lock)."""

    def __init__(self, model: EvalModel, threads: int) -> None:
        self.model, self.threads = model, threads
        self.pool = ThreadPoolExecutor(threads)

    @classmethod
    def open(cls, source: ModelSource, exactness: Exactness, waiting: Any, threads: int) -> _Station:
        return cls(EvalModel(source.load(waiting.get()), exactness), threads)

    @classmethod
    def on_cluster(cls, source: ModelSource, exactness: Exactness, stations: ClusterWorkers, threads: int) -> _Station:
        return cls(EvalModel(source.load(stations.open()), exactness), decoders(threads))

    def samples(self, chunk: Sequence[EncodeJob]) -> Iterator[Samples]:
        flying: deque[Future[Samples]] = deque()
        for job in chunk:
            flying.append(self.pool.submit(job.batch.read))
            if len(flying) > self.threads:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()


def _encode_chunk(station: _Station, chunk: tuple[EncodeJob, ...]) -> list[Encoded]:
    found = zip(chunk, station.samples(chunk), strict=True)
    return [encode(station.model, samples, half=job.half) for job, samples in found]
