"""The script for a machine with a GPU, rehearsed on the CPU: every stage tells its figures in lines of JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_day.sh"
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu_day  # noqa: E402  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.timeout(3600)


@pytest.mark.slow
def test_every_stage_tells_lines_of_json() -> None:
    command = ["bash", str(SCRIPT), "--rehearse"]
    given = {**os.environ, "PYTHON": sys.executable, "GPU_DAY_PATIENCE": "20"}
    done = subprocess.run(command, capture_output=True, text=True, env=given, timeout=3000, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, lines
    assert {line["stage"] for line in lines} == {"tests", "train", "embed", "evaluate", "nearest"}
    rates = {line["variant"]: line["samples_per_second"] for line in lines if line["stage"] == "train"}
    assert {"ceiling", "ceiling, fused", "full", "fast", "cuda"} == rates.keys()
    assert all(rate > 0 for rate in rates.values())


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["train", "nearest"])
def test_without_a_gpu_a_stage_says_so(stage: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_day.py"), stage]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "torch finds no CUDA device on this machine: give --rehearse" in done.stderr


def test_ten_minutes_hold_with_a_margin_even_if_every_stage_must_be_killed() -> None:
    text = SCRIPT.read_text()
    stages = dict(reversed(found) for found in re.findall(r"^stage (\d+) (\w+)$", text, re.MULTILINE))
    [grace] = re.findall(r"--kill-after=(\d+) ", text)
    assert stages.keys() == gpu_day.STAGES.keys()
    assert sum(map(int, stages.values())) + len(stages) * int(grace) <= 570


@pytest.mark.parametrize("ending", ["kill -9 $$", "kill -15 $$", "echo broken >&2; exit 3"])
def test_a_stage_that_ends_badly_is_told_and_the_others_run(tmp_path: Path, ending: str) -> None:
    """The interpreter is a stand-in here: stages say their name, and one of them ends as in the case."""
    python = tmp_path / "python"
    body = f'case "$2" in train) {ending};; *) echo "{{\\"stage\\": \\"$2\\"}}";; esac'
    python.write_text(f'#!/bin/bash\n[ "$1" = - ] && exec {sys.executable} "$@"\n{body}\n')
    python.chmod(0o755)
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, env={**os.environ, "PYTHON": str(python)})
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["stage"] for line in lines] == ["tests", "train", "embed", "evaluate", "nearest"]
    assert [line["stage"] for line in lines if "error" in line] == ["train"]
    assert done.returncode == 1
    if "broken" in ending:
        assert (lines[1]["status"], lines[1]["error"]) == (3, "broken")


def test_without_a_temporary_folder_every_stage_says_so(tmp_path: Path) -> None:
    given = {**os.environ, "PYTHON": sys.executable, "TMPDIR": str(tmp_path / "missing")}
    done = subprocess.run(["bash", str(SCRIPT)], capture_output=True, text=True, env=given, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["stage"] for line in lines] == ["tests", "train", "embed", "evaluate", "nearest"]
    assert all("set TMPDIR" in line["error"] for line in lines)
    assert done.returncode == 1


class Way:
    def __init__(self, words: str) -> None:
        self.memory_words = words


@pytest.mark.parametrize(
    "problem",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_what_does_not_fit_is_tried_with_the_next_way(problem: RuntimeError) -> None:
    first, second, third = Way("off, 1"), Way("on, 1"), Way("off, 2")
    tried: list[Any] = []

    def measure(way: Any) -> dict[str, Any]:
        tried.append(way)
        if way is not third:
            raise problem
        return {"samples_per_second": 1.0}

    found = gpu_day.first_that_fits([first, second, third], measure)
    assert found == {"samples_per_second": 1.0, "out_of_memory": ["off, 1", "on, 1"]}
    assert tried == [first, second, third]
    assert gpu_day.first_that_fits([third], measure) == {"samples_per_second": 1.0}
    with pytest.raises(RuntimeError) as told:
        gpu_day.first_that_fits([first, second], measure)
    assert told.value is problem


def test_another_error_is_not_tried_again() -> None:
    tried: list[Any] = []

    def measure(way: Any) -> dict[str, Any]:
        tried.append(way)
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        gpu_day.first_that_fits([Way("a"), Way("b")], measure)
    assert len(tried) == 1
