"""Each command that writes to a plain `--out` is killed, and run again: the files of an undisturbed run, and nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli_stale import made, world  # noqa: F401  # fixtures

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
UNSTEADY = ("seconds", "started", "began", "at", "host", "built", "environment")
POOL = ("--metadata", "metadata", "--features", "features", "--by-position")

COMMANDS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "filter": lambda out: ("filter", *POOL, "--keep-scores", f"{out}/kept", "-r", "neg_clip_loss", "--out", f"{out}/subset.npy"),
    "cluster": lambda out: ("cluster", *POOL[:4], "--num-clusters", "3", "--captions", "any", "--out", f"{out}/centroids.npy"),
    "captions": lambda out: ("captions", "template", "a picture of {text}", "--metadata", "metadata", "--out", out),
    "subset": lambda out: ("subset", "union", "one.npy", "two.npy", "--out", f"{out}/both.npy"),
    "convert": lambda out: ("convert-checkpoint", "model.pt", f"{out}/weights.safetensors"),
    "embed": lambda out: ("embed", *POOL[:2], "--shards", "shards", "--encoder", "mine=./model", "--out", out),
    "evaluate": lambda out: ("evaluate", "--model", "model", "--data", "sets", "--add-tasks", "tasks.yaml", "--out", out),
    "reshard": lambda out: ("reshard", "--shards", "shards", "--subset", "one.npy", "--out", out),
}


def start(world: Path, *words: str) -> subprocess.Popen[str]:  # noqa: F811
    (world / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DATACOMP_WORKERS": "1", "TMPDIR": str(world / "tmp")}
    command = [sys.executable, "-m", "deployments.cli", *words]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=world, env=environment, text=True, start_new_session=True, **quiet)  # pyright: ignore


def finished(world: Path, *words: str) -> None:  # noqa: F811
    process = start(world, *words)
    _, told = process.communicate(timeout=900)
    assert process.returncode == 0, told[-3000:]


def kill_when_it_writes(process: subprocess.Popen[str], out: Path) -> bool:
    """SIGKILL to all of its processes when something lies in `out`; False if it ended before."""
    while process.poll() is None:
        if any(path.is_file() for path in out.rglob("*")):
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.005)
    process.communicate()
    return False


def steady(value: Any) -> Any:
    """Without what differs between any two runs."""
    if isinstance(value, dict):
        return {name: steady(inner) for name, inner in value.items() if not any(word in name for word in UNSTEADY)}
    return [steady(inner) for inner in value] if isinstance(value, list) else value


def content(path: Path, out: Path) -> str:
    data = path.read_bytes()
    if path.suffix in (".json", ".jsonl"):
        lines = data.decode().splitlines() if path.suffix == ".jsonl" else [data.decode()]
        data = json.dumps([steady(json.loads(line)) for line in lines], sort_keys=True).encode()
    if path.suffix == ".npz":
        with np.load(io.BytesIO(data)) as arrays:
            data = b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays.files))
    return hashlib.sha256(data.replace(out.name.encode(), b"OUT")).hexdigest()


def files(out: Path) -> dict[str, str]:
    """Every file, hidden ones too. Logs and curves have times in them."""
    found = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
    return {name: "" if path.suffix in (".log", ".svg", ".parquet") else content(path, out) for name, path in found.items()}


@pytest.fixture(scope="module")
def dead() -> str:
    """What the name of an unfinished file has in it whose process has ended."""
    script = "from datacomp_core.store.process import token; print(token())"
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return told.stdout.strip()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_command_that_is_run_again_leaves_what_an_undisturbed_one_leaves(
    name: str,
    world: Path,  # noqa: F811
    dead: str,
) -> None:
    for file, rows in (("one.npy", range(6)), ("two.npy", range(4, 8))):
        np.save(world / file, np.array([(0, row) for row in rows], "u8,u8"))
    outs = [world / "calm", world / "hurt"]
    for out in outs:
        out.mkdir()
    finished(world, *COMMANDS[name]("calm"))
    process = start(world, *COMMANDS[name]("hurt"))
    kill_when_it_writes(process, outs[1])
    there = [path for path in outs[1].rglob("*") if path.is_dir()]
    single = [Path(word).name for word in COMMANDS[name]("hurt") if word.startswith("hurt/") and "." in word]
    for folder in outs[1:] if single else [*outs[1:], *there]:
        (folder / f".{(single or ['something'])[-1]}.{dead}.tmp").write_bytes(b"half of it")
    finished(world, *COMMANDS[name]("hurt"))
    assert files(outs[1]) == files(outs[0])
    assert not [path.name for path in (world / "tmp").iterdir() if path.name.startswith("datacomp-")], "scratch of the killed"
