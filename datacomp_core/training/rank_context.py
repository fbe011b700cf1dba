"""Describes where one rank of a training runs: its number, its device, and its process group. torchrun sets this for each rank
in environment variables; nothing else is read, so a scheduler's own variables have no effect.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

import numpy as np

from datacomp_core.device import check_device
from datacomp_core.errors import DatacompError


@dataclass(frozen=True)
class RankContext:
    """`device` is this rank's own torch device: with several ranks on CUDA, the GPU of its local number."""

    device: str
    rank: int = 0
    world_size: int = 1

    @property
    def kind(self) -> str:
        return self.device.partition(":")[0]

    @property
    def is_main(self) -> bool:
        """Rank 0 writes logs, history and checkpoints."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        return self.world_size > 1


def join_ranks(device: str) -> RankContext:
    """This process's place among the ranks, after the process group has been made. SpecError if the device is not there."""
    import torch

    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if not device.startswith("cpu"):
        check_device("cuda" if device.startswith("cuda") and world_size > 1 else device)
    if world_size == 1:
        return RankContext(device)
    kind = device.partition(":")[0]
    if kind == "cuda":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    return RankContext(device, torch.distributed.get_rank(), torch.distributed.get_world_size())


def leave_ranks() -> None:
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def require_equal(place: RankContext, value: Any, what: str) -> None:
    """DatacompError if the ranks do not have the same `value`."""
    if not place.is_distributed:
        return
    import torch

    found: list[Any] = [None] * place.world_size
    torch.distributed.all_gather_object(found, value)
    if any(other != found[0] for other in found):
        raise DatacompError(
            f"The ranks of the training found different {what}: {found}. The nodes do not see the same run folder: put it on a "
            "disk that they share (the store, or DATACOMP_HOME)."
        )


def wait_for_all(place: RankContext) -> None:
    if place.is_distributed:
        import torch

        torch.distributed.barrier()


def seed_everything(seed: int) -> None:
    """Seed as open_clip_train does: seed 0 of a run for the weights, seed + rank for everything after them."""
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
