"""Maps work over many items with models that are loaded once per device: GPUs of this machine or of a cluster, or the CPU."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from datacomp_core.cluster_workers import ClusterWorkers, of_cluster
from datacomp_core.device import default_device, devices_of, has_cuda
from datacomp_core.parallel import prepared_map

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")


def device_names(device: str) -> tuple[str, ...]:
    """Return the devices in `device`: `cuda` or nothing means every GPU of this machine; `cpu,cpu` means two processes."""
    given = device or default_device()
    return devices_of("cuda:*" if given == "cuda" and has_cuda() else given)


def device_map(
    function: Callable[[S, T], R], items: Iterable[T], *, prepare: Callable[[str], S], device: str = ""
) -> Iterator[tuple[T, R]]:
    """`(item, function(prepared, item))` as they finish; `prepare(device)` runs once per device. One device works in this
    process. As in `prepared_map`, two items per device are in flight, and the first error ends the rest.
    """
    stations = of_cluster(device)
    if stations is not None:
        ready = partial(_alone, prepare, stations)
        yield from prepared_map(function, items, prepare=ready, workers=stations.count, one_worker="apart", gpus=stations.gpus)
        return
    names = device_names(device)
    ready = partial(_mine, prepare, names)
    yield from prepared_map(function, items, prepare=ready, workers=len(names), processes="own", engine="local")


def _alone(prepare: Callable[[str], S], stations: ClusterWorkers) -> S:
    return prepare(stations.open())


def _mine(prepare: Callable[[str], S], names: tuple[str, ...]) -> S:
    """Each process of a pool takes the device of its number."""
    number = multiprocessing.current_process()._identity  # pyright: ignore[reportAttributeAccessIssue] # as concurrent.futures counts
    return prepare(names[(number[-1] if number else 0) % len(names)])
