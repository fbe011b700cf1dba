"""A process that was silent for so long that another machine went on in its folder writes nothing more into it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from signal import SIGCONT, SIGSTOP

import pytest

from datacomp_core.artifacts import Pool
from datacomp_core.store import Folder, Store

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys
from datacomp_core.artifacts import Pool, Spec
from datacomp_core.store import Folder, Store, lease, process, step

url, host, waits = sys.argv[1:]
real = process.identity()
process.identity = lambda: {**real, "host": host}
lease.DEAD_AFTER_SECONDS, lease.RENEW_SECONDS, lease.MARGIN_SECONDS, lease.SETTLE_SECONDS = 8, 1, 2, 2

class Asked(Spec):
    scale: str = "tiny"

@step("pools", version=1)
def made(spec: Asked, *, out: Folder) -> Pool:
    if "a" not in out.files():
        out.write("a", host.encode())
    if waits == "waits":
        print("written", flush=True)
        sys.stdin.readline()
    out.write("b", host.encode() * 2)
    return Pool(num_samples=1, num_parts=1)

print(made.run(Asked(), store=Store(Folder(url))).status)
"""


def start(url: str, host: str, waits: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, url, host, waits]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, errors = process.communicate("\n", timeout=300)
    return process.returncode, out + errors


@pytest.mark.parametrize("where", ["bucket", pytest.param("disk", marks=pytest.mark.slow)])
def test_a_process_that_others_took_for_dead_writes_nothing_more(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("s3_url") if where == "bucket" else str(tmp_path / "store")
    slow = start(url, "one", "waits")
    assert slow.stdout is not None
    assert slow.stdout.readline() == "written\n"
    slow.send_signal(SIGSTOP)
    time.sleep(12)
    status, told = ended(start(url, "two", "goes on"))
    assert (status, told.split()) == (0, ["built"]), told
    slow.send_signal(SIGCONT)
    status, told = ended(slow)
    assert status == 1
    assert "LostProcessError: Another run has taken over" in told
    store = Store(Folder(url))
    (record,) = store.records()
    made = store.folder(store.artifact(Pool, record))
    assert {name: made.read(name) for name in made.files()} == {"a": b"one", "b": b"twotwo"}
    assert store.missing(record) == ""
    status, told = ended(start(url, "one", "waits"))
    assert (status, told.split()) == (0, ["reused"]), told


def test_a_process_that_was_silent_and_that_nobody_took_for_dead_goes_on(s3_url: str) -> None:
    """A laptop that slept."""
    slow = start(s3_url, "one", "waits")
    assert slow.stdout is not None
    assert slow.stdout.readline() == "written\n"
    slow.send_signal(SIGSTOP)
    time.sleep(12)
    slow.send_signal(SIGCONT)
    assert ended(slow) == (0, "built\n")
