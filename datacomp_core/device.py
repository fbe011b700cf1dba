"""Probes the torch devices for the whole project, and reports a missing device in one sentence. Torch is imported only if an
NVIDIA driver is loaded, because its import takes seconds.
"""

from __future__ import annotations

import os
from functools import cache

from datacomp_core.errors import SpecError
from datacomp_core.settings import settings

DRIVERS = ("/proc/driver/nvidia/version", "/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")


@cache
def has_cuda() -> bool:
    """Return whether torch can use a CUDA device in this process."""
    if not any(os.path.exists(path) for path in DRIVERS):
        return False
    import torch

    return torch.cuda.is_available()


def num_cuda() -> int:
    """Return the number of CUDA devices that torch can use."""
    if not has_cuda():
        return 0
    import torch

    return torch.cuda.device_count()


def default_device() -> str:
    """Return the device of the settings (`DATACOMP_DEVICE`), else cuda if available, else cpu."""
    return settings().device or ("cuda" if has_cuda() else "cpu")


def check_device(device: str) -> str:
    """Return the device if torch can use it here. SpecError says what is available."""
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise SpecError(f"Unknown device {device!r}: give cpu, cuda, or one GPU by its number, such as cuda:0.")
    if kind == "cuda":
        there = num_cuda()
        if not there:
            raise SpecError(f"The device {device!r} cannot be used because torch finds no CUDA device on this machine: use cpu.")
        if number and int(number) >= there:
            raise SpecError(f"The device {device!r} does not exist: this machine has {there}, cuda:0 to cuda:{there - 1}.")
    return device


def devices_of(device: str) -> tuple[str, ...]:
    """Parse the devices in `device`, separated by commas; `cuda:*` means every GPU. Empty: the default. SpecError for a
    missing device.
    """
    given = device or default_device()
    if given == "cuda:*":
        check_device("cuda")
        return tuple(f"cuda:{number}" for number in range(num_cuda()))
    return tuple(check_device(name.strip()) for name in given.split(","))
