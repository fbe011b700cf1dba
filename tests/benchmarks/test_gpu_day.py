"""The script for a machine with a GPU, rehearsed on the CPU: every stage tells its figures in lines of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_every_stage_tells_lines_of_json() -> None:
    command = ["bash", str(ROOT / "benchmarks" / "gpu_day.sh"), "--rehearse"]
    given = {**os.environ, "PYTHON": sys.executable, "GPU_DAY_PATIENCE": "20"}
    done = subprocess.run(command, capture_output=True, text=True, env=given, timeout=3000, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, lines
    assert {line["stage"] for line in lines} == {"tests", "train", "embed", "evaluate", "nearest"}
    rates = {line["variant"]: line["samples_per_second"] for line in lines if line["stage"] == "train"}
    assert {"ceiling", "ceiling, fused", "full", "fast", "cuda"} == rates.keys()
    assert all(rate > 0 for rate in rates.values())


@pytest.mark.parametrize("stage", ["train", "nearest"])
def test_without_a_gpu_a_stage_says_so(stage: str) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_day.py"), stage]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "torch finds no CUDA device on this machine: give --rehearse" in done.stderr
