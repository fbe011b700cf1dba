"""Checks a bundle in a separate process, with limits on memory, time and what it writes.

Bounds stand before every decoder, but a decoder may have faults of its own: whatever a hostile file makes it do ends that
process, and is a verdict on the bundle. The process gets its request on standard input and nothing secret in its environment.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datacomp_core.leaderboard.submission.verify import Reevaluate, VerificationResult
    from datacomp_core.store import Folder

log = logging.getLogger(__name__)
MIB, GIB = 1 << 20, 1 << 30
VERDICT, ERRORS = "verdict.json", "errors.txt"
KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "COVERAGE_PROCESS_START")
FEW_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "2", "ARROW_NUM_THREADS": "1"}


@dataclass(frozen=True)
class CheckLimits:
    """The limits of checking one bundle. CPU time and file size grow with the bundle."""

    memory_bytes: int = 4 * GIB
    cpu_seconds: int = 300
    cpu_seconds_per_gib: int = 120

    def cpu(self, num_bytes: int) -> int:
        return self.cpu_seconds + self.cpu_seconds_per_gib * num_bytes // GIB


def verify_apart(
    bundle: Path,
    folder: Path,
    *,
    pool: Folder | None = None,
    downloaded: Folder | None = None,
    reevaluate: Reevaluate | None = None,
    known_only: bool = False,
    limits: CheckLimits | None = None,
) -> VerificationResult:
    """Verify a bundle in a separate process. `folder/files` has the bundle's files, its `hits.npz` made again, afterwards."""
    from datacomp_core.leaderboard.submission.verify import second_evaluation

    limits, files = limits or CheckLimits(), folder / "files"
    files.mkdir()
    request = {
        "bundle": str(bundle.absolute()),
        "folder": str(files.absolute()),
        "verdict": str((folder / VERDICT).absolute()),
        "pool": None if pool is None else pool.url,
        "downloaded": None if downloaded is None else downloaded.url,
        "known_only": known_only,
        "modules": _modules(),
        "path": sys.path,
        "limits": [limits.memory_bytes, limits.cpu(bundle.stat().st_size), bundle.stat().st_size + 256 * MIB],
    }
    in_bucket = any(place is not None and not place.is_local for place in (pool, downloaded))
    ended = _run(request, folder / ERRORS, 4 * limits.cpu(bundle.stat().st_size), whole=in_bucket)
    found = _read(folder / VERDICT, files, ended, limits)
    if found.ok and reevaluate is not None:
        second_evaluation(found, reevaluate)
    return found


def _modules() -> list[str]:
    """The modules whose steps and scores this process knows: the other must know the same."""
    from datacomp_core import recomputed_scores
    from datacomp_core.store.step import STEPS

    known = {step.function.__module__ for step in STEPS.values()}
    compute = recomputed_scores.registered()
    return sorted((known | ({compute.__module__} if compute else set())) - {"__main__"})


def _run(request: dict[str, Any], errors: Path, seconds: int, *, whole: bool) -> int:
    """Its exit status; -9 if it did not end in time. `whole`: the whole environment, which has the settings of buckets."""
    environment = {name: value for name, value in os.environ.items() if whole or name in KEPT_ENVIRONMENT}
    command = [sys.executable, "-P", "-m", __name__]
    with errors.open("wb") as told:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=told, stderr=told, env=environment | FEW_THREADS | {"PYTHONPATH": _root()}
        )
        try:
            process.communicate(json.dumps(request).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    return process.returncode


def _root() -> str:
    """The folder in which this package is."""
    return str(Path(__file__).parents[3])


def _read(verdict: Path, files: Path, ended: int, limits: CheckLimits) -> VerificationResult:
    from datacomp_core.leaderboard.entries.entry import Entry
    from datacomp_core.leaderboard.entries.rules import RuleCheck
    from datacomp_core.leaderboard.submission.recompute import RecomputedEntry
    from datacomp_core.leaderboard.submission.verify import VerificationResult

    found = VerificationResult(files)
    if ended != 0 or not verdict.is_file():
        with (verdict.parent / ERRORS).open("rb") as file:
            file.seek(max(0, (verdict.parent / ERRORS).stat().st_size - 2000))
            log.warning("the check of a bundle ended with status %d: %s", ended, file.read().decode("utf-8", "replace"))
        most = f"{limits.memory_bytes / GIB:.1f} GiB of memory and the time"
        found.say("bundle", False, f"The check of the bundle exceeded its limit ({most} for its size), or crashed.")
        return found
    told = json.loads(verdict.read_bytes())
    found.findings = [RuleCheck.model_validate(one) for one in told["findings"]]
    found.address = told["address"]
    found.entry = None if told["entry"] is None else Entry.model_validate(told["entry"])
    found.proved = None if told["proved"] is None else RecomputedEntry(Entry.model_validate(told["proved"]), {})
    return found


# In the other process ------------------------------------------------------------------------------------------------


def _limit(memory_bytes: int, cpu_seconds: int, file_bytes: int) -> None:
    """Memory is what is allocated, not what is mapped of files: a subset larger than memory can still be counted."""
    for kind, most in (
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))


def _main() -> None:
    request = json.loads(sys.stdin.buffer.read())
    _limit(*request["limits"])
    sys.path[:] = request["path"]
    for module in request["modules"]:
        importlib.import_module(module)
    from datacomp_core.leaderboard.entries import per_image_scores
    from datacomp_core.leaderboard.submission.verify import verify
    from datacomp_core.store import Folder

    files = Path(request["folder"])
    pool, downloaded = (None if request[name] is None else Folder(request[name]) for name in ("pool", "downloaded"))
    found = verify(Path(request["bundle"]), files, pool=pool, downloaded=downloaded, known_only=request["known_only"])
    if found.ok and found.proved is not None:
        per_image_scores.write(Folder(files), found.proved.hits)
    told = {
        "findings": [one.model_dump() for one in found.findings],
        "address": found.address,
        "entry": None if found.entry is None else found.entry.model_dump(mode="json"),
        "proved": None if found.proved is None else found.proved.entry.model_dump(mode="json"),
    }
    Path(request["verdict"]).write_text(json.dumps(told), "utf-8")


if __name__ == "__main__":
    _main()
