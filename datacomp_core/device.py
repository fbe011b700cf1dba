"""Which torch devices there are: the one probe of the project, and the one sentence for a device that is not there.

Torch is asked only where an NVIDIA driver is loaded, since its import takes seconds.
"""

from __future__ import annotations

import os
from functools import cache

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings

DRIVERS = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")


@cache
def has_cuda() -> bool:
    """Whether torch can use a CUDA device in this process."""
    if not any(os.path.exists(path) for path in DRIVERS):
        return False
    import torch

    return torch.cuda.is_available()


def num_cuda() -> int:
    """How many CUDA devices torch can use."""
    if not has_cuda():
        return 0
    import torch

    return torch.cuda.device_count()


def default_device() -> str:
    """The device of the settings (`DATACOMP_DEVICE`), else cuda where it can be used, else cpu."""
    return settings().device or ("cuda" if has_cuda() else "cpu")


def checked(device: str) -> str:
    """The device, if it is one that torch can use here. SpecError says what there is."""
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise SpecError(f"Unknown device {device!r}: give cpu, cuda, or one GPU by its number, such as cuda:0.")
    if kind == "cuda":
        there = num_cuda()
        if not there:
            raise SpecError(f"The device {device!r} cannot be used: torch finds no CUDA device on this machine. Give cpu.")
        if number and int(number) >= there:
            raise SpecError(f"The device {device!r} does not exist: this machine has {there}, cuda:0 to cuda:{there - 1}.")
    return device


def devices_of(device: str) -> tuple[str, ...]:
    """The devices that `device` names, with commas between several; `cuda:*` stands for every GPU. Empty: the default.

    SpecError for one that is not there.
    """
    given = device or default_device()
    if given == "cuda:*":
        checked("cuda")
        return tuple(f"cuda:{number}" for number in range(num_cuda()))
    return tuple(checked(name.strip()) for name in given.split(","))
