"""Runs an evaluation in a separate process: a hostile checkpoint can end only that process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from datacomp_core.errors import DataError
from datacomp_core.store.folder import scratch

SECONDS = 6 * 3600
MEMORY_FLOOR = 16 << 30
MEMORY_PER_BYTE = 8
"""Of the checkpoint: it, its copy in the model, and what one batch needs beside them."""


def evaluate_apart(
    *, model: str, suite: str, checkpoint: Path, data: str, device: str = "", workers: int = 1, seconds: int = SECONDS
) -> Mapping[str, float | None]:
    """Return the main metric by task of a checkpoint on your own test sets. DataError if it cannot be evaluated."""
    with scratch() as out:
        request = {
            "model": model,
            "suite": suite,
            "checkpoint": str(checkpoint),
            "data": data,
            "out": str(out / "results"),
            "device": device,
            "workers": workers,
            "memory": MEMORY_FLOOR + MEMORY_PER_BYTE * checkpoint.stat().st_size,
        }
        command = [sys.executable, "-P", "-m", __name__]
        try:
            done = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired as problem:
            raise DataError(f"it took more than {seconds:,} seconds.") from problem
        verdict = out / "results" / "verdict.json"
        if done.returncode != 0 or not verdict.is_file():
            raise DataError("the process that evaluated it crashed: it is not a checkpoint of this model, or it is too large.")
        told = json.loads(verdict.read_bytes())
    if told["error"]:
        raise DataError(told["error"])
    return told["values"]


def _main() -> None:
    import resource

    from datacomp_core.errors import DatacompError
    from datacomp_core.evaluation.evaluate import EvalSpec, evaluate_folder

    asked = json.loads(sys.stdin.buffer.read())
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = asked["memory"] if hard == resource.RLIM_INFINITY else min(asked["memory"], hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    error, values = "", dict[str, float | None]()
    out = Path(asked["out"])
    try:
        report = evaluate_folder(
            model=asked["model"],
            checkpoint=Path(asked["checkpoint"]),
            data=asked["data"],
            out=str(out),
            spec=EvalSpec(suite=asked["suite"]),
            device=asked["device"],
            workers=asked["workers"],
        )
        values = {task.key: task.value for task in report.tasks}
    except DatacompError as problem:
        error = (
            str(problem)
            .replace(f"{out}/", "")
            .replace(str(Path(asked["checkpoint"]).parent) + "/", "")
            .replace(asked["data"], "the test sets")
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "verdict.json").write_text(json.dumps({"error": error, "values": values}), "utf-8")


if __name__ == "__main__":
    _main()
