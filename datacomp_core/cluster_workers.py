"""Starts the encoding workers of a cluster: one per GPU, or one per machine without GPUs."""

from __future__ import annotations

import logging
import socket
from dataclasses import dataclass, replace
from functools import cache

from datacomp_core import engines
from datacomp_core.clip import Clip
from datacomp_core.clip_sources import FileModel, ModelSource
from datacomp_core.device import check_device, default_device, has_cuda
from datacomp_core.driver_files import Exchange, Reachable
from datacomp_core.errors import SpecError
from datacomp_core.machine_cache import CachedFile
from datacomp_core.parallel import prepared_map
from datacomp_core.settings import settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterWorkers:
    """`count` workers of the engine's cluster, each with a number of GPUs.

    `device` is what each opens; empty: what it finds. `kind` is what all of them work on, cuda or cpu: it stands in records.
    """

    count: int
    gpus: int
    device: str
    kind: str

    def open(self) -> str:
        """In a worker: the device that it works on. SpecError if torch cannot use it there, or if others work on another kind."""
        found = _opened(self.gpus, self.device)
        if not found.startswith(self.kind):
            raise SpecError(
                f"The machine {socket.gethostname()} would work on {found} and another one of the cluster works on {self.kind}, "
                "which the records would not distinguish: set the same DATACOMP_DEVICE on all machines of the cluster."
            )
        return found


def _opened(gpus: int, device: str) -> str:
    """The device that a worker here opens. SpecError if it holds a GPU that torch cannot use.

    What DATACOMP_DEVICE says on the worker's own machine counts, for a machine whose GPUs are only declared.
    """
    if not gpus:
        return check_device(device or default_device())
    own, host = settings().device, socket.gethostname()
    if own.startswith("cpu") and not device:
        log.warning("the worker on %s has a GPU but encodes on the CPU, because DATACOMP_DEVICE is cpu there", host)
        return own
    if not has_cuda():
        raise SpecError(
            f"The cluster says that the machine {host} has a GPU, and torch finds no CUDA device there: repair its driver or "
            "its image, or start it without the GPU (ray start --num-gpus=0, dask worker without --resources), or with "
            "DATACOMP_DEVICE=cpu to work on its CPU."
        )
    return own or "cuda"


def _kind_here(_: None, device: str) -> str:
    return _opened(1, device).partition(":")[0]


@cache
def _kind_of_gpus(engine: engines.Engine, cluster: str) -> str:
    """Ask one GPU worker of the cluster for its kind of device."""
    log.info("asking a worker of the %s cluster at %s for its device", engine, cluster)
    [(_, kind)] = prepared_map(_kind_here, [""], prepare=_nothing, workers=1, one_worker="apart", engine=engine, gpus=1)
    return kind


def _nothing() -> None:
    return None


def of_cluster(device: str) -> ClusterWorkers | None:
    """The stations of the current engine's cluster; None if all workers run on this machine, whose devices are known.

    `device` as in the settings: empty for every GPU, else the CPUs; `cpu,cpu` for two workers. SpecError if it asks for GPUs
    and the cluster has none.
    """
    if not engines.spans_machines():
        return None
    engine, names = engines.current(), [name.strip() for name in device.split(",") if name.strip()]
    wants_gpus = not names or names[0].startswith("cuda")
    there = engines.cluster_cores(engine, gpus=1) if wants_gpus else 0
    if there:
        kind = "cuda" if names else _kind_of_gpus(engine, engines.address(engine))
        return ClusterWorkers(len(names) if len(names) > 1 else there, 1, "cuda" if names else "", kind)
    if names and wants_gpus:
        raise SpecError(
            f"The {engine} cluster has no GPU, and the device {device!r} asks for some: start its machines with theirs "
            "(ray start --num-gpus, dask worker --resources GPU=1), or set DATACOMP_DEVICE=cpu."
        )
    return ClusterWorkers(len(names) if len(names) > 1 else max(1, engines.cluster_machines(engine)), 0, "cpu", "cpu")


def decoders(share: int) -> int:
    """How many processes or threads decode for a station: what DATACOMP_WORKERS says on its machine, else the driver's share.

    A Dask worker that has a GPU has one thread, so Dask does not know of the cores that decode for it.
    """
    return settings().workers or max(1, share)


def send_checkpoint(source: ModelSource, shared: Exchange) -> ModelSource:
    """The model as other machines can load it: a checkpoint on our disk is brought to where they reach it."""
    if not isinstance(source, FileModel) or source.checkpoint is None:
        return source
    file = Reachable(shared.folder, shared.bring(source.checkpoint))
    return SharedModel(replace(source, checkpoint=None), source.fingerprint(), file)


@dataclass(frozen=True)
class SharedModel:
    """A model of a file that every machine of a cluster can reach."""

    model: FileModel
    sha256: str
    file: Reachable

    @property
    def title(self) -> str:
        return self.model.title

    def fingerprint(self) -> str:
        return self.sha256

    def made_of(self) -> dict[str, str]:
        return self.model.made_of()

    def dim(self) -> int:
        return self.model.dim()

    def load(self, device: str) -> Clip:
        held = CachedFile(*self.file)
        try:
            return replace(self.model, checkpoint=held.path).load(device)
        finally:
            held.close()
