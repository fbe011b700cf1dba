"""Identifies the process that wrote something, and checks whether it is alive: for leases, unfinished files and scratch
folders. A process is identified by machine, boot, pid namespace, pid and start time. Only a process of the same boot and pid
namespace can be checked; for any other one only the time since its last sign of life is known.
"""

from __future__ import annotations

import os
import re
import socket
import uuid
from functools import cache
from pathlib import Path
from typing import Any

TOKEN = re.compile(r"(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>\d+)-[0-9a-f]{8}")


def start_ticks(pid: int) -> str:
    """A process's start in clock ticks since boot, empty if there is none: with pid and boot it identifies one process
    uniquely."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def identity() -> dict[str, Any]:
    """This process as plain values."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "machine": _text("/etc/machine-id"),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "pids": _pid_namespace(),
        "pid": pid,
        "started": start_ticks(pid),
    }


def is_gone(other: dict[str, Any]) -> bool | None:
    """Whether the process of an `identity` has ended; None if this machine cannot tell."""
    here = identity()
    if other.get("host") != here["host"]:
        return None
    if other.get("boot") != here["boot"]:
        is_this_machine = bool(here["machine"]) and other.get("machine") == here["machine"]
        return True if is_this_machine else None
    if other.get("pids", here["pids"]) != here["pids"]:
        return None
    try:
        pid = int(str(other.get("pid", 0)))
    except ValueError:
        return None
    return not start_ticks(pid) or start_ticks(pid) != other.get("started")


def token() -> str:
    """A part of a file name that says which process made it and that no other file has."""
    pid = os.getpid()
    return f"{_place()}-{pid}-{start_ticks(pid) or 0}-{uuid.uuid4().hex[:8]}"


def is_left_behind(name: str) -> bool:
    """Whether a name carries the `token` of a process of this machine that has ended."""
    found = TOKEN.search(name)
    if found is None or found["place"] != _place():
        return False
    return start_ticks(int(found["pid"])) != found["started"]


def _place() -> str:
    """Eight hex digits for machine and pid namespace, without the boot: what was written before a reboot is left behind too."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{socket.gethostname()} {_text('/etc/machine-id')} {_pid_namespace()}").hex[:8]


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


@cache
def _text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
