"""A real run with secrets in its environment, and its honest submission: nobody can read them, and the board takes the result.

Everything is looked through: arguments of all processes while it runs, every file that is written, all that is printed.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import free_port

SECRET = "hunter2-0b5e1c9a"
URL = f"http://me:{SECRET}@127.0.0.1:9/x?key={SECRET}"
ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


class Arguments(threading.Thread):
    """Reads the arguments of every process of this machine until it is told to end; `shown` are those that have the secret."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.over, self.shown, self.num_seen = threading.Event(), set[str](), set[str]()

    def run(self) -> None:
        while not self.over.wait(0.05):
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                self.num_seen.add(line)
                if SECRET in line:
                    self.shown.add(line)


@pytest.fixture
def arguments() -> Generator[Arguments]:
    watching = Arguments()
    watching.start()
    yield watching
    watching.over.set()
    watching.join()


def environment(home: Path) -> dict[str, str]:
    """Secrets wherever a user of the field has some."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), f"http://me:{SECRET}@127.0.0.1:9")
    others: dict[str, str] = dict.fromkeys(("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"), SECRET)
    others["WANDB_API_KEY"] = f"{SECRET}-{'a' * 40}"  # of a form that W&B takes, so that it tries to reach its server
    own = {"DATACOMP_HOME": str(home), "PYTHONPATH": str(ROOT), "HF_ENDPOINT": URL, "no_proxy": "127.0.0.1,localhost"}
    return {**os.environ, **proxies, **others, **own}


def datacomp(*words: str, home: Path, **more: str) -> str:
    """Standard output of a command that must end well; what it printed has no secret."""
    command = [sys.executable, "-m", "deployments.cli", *words]
    done = subprocess.run(command, cwd=home.parent, env=environment(home) | more, capture_output=True, text=True, timeout=3000)
    assert SECRET not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@contextmanager
def board(folder: Path, evalsets: Path, home: Path) -> Generator[tuple[str, Path]]:
    """A board that evaluates again: its address and log."""
    port, log = free_port(), folder / "board.log"
    command = [sys.executable, "-m", "deployments.cli", "leaderboard", "serve", "--port", str(port)]
    command += ["--folder", str(folder / "board"), "--tokens", str(folder / "tokens.json"), "--evalsets", str(evalsets)]
    with log.open("wb") as output:
        served = subprocess.Popen(command, cwd=folder, env=environment(home), stdout=output, stderr=output)
    try:
        for _ in range(1200):
            if served.poll() is not None or b"running on" in log.read_bytes():
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", log
    finally:
        served.terminate()
        served.wait(60)


def files_with_the_secret(*folders: Path) -> list[str]:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 50
    return [str(path) for path in files if SECRET.encode() in path.read_bytes()]


def test_a_real_run_is_submitted_and_shows_no_secret(tmp_path: Path, arguments: Arguments) -> None:
    home = tmp_path / "home"
    datacomp("run", "--recipe", "no_filter", "--json", home=home)
    store = home / "store"
    [entry] = [path.parent.relative_to(store) for path in store.glob("entries/*/*/_artifact.json")]
    [evalsets] = [Path(json.loads(path.read_bytes())["artifact"]["data"]) for path in store.glob("evalsets/*/*/_artifact.json")]
    datacomp("bundle", str(entry), "--out", "mine.tar", "--checkpoint", home=home)
    assert "The bundle is valid." in datacomp("verify", "mine.tar", home=home)
    token = datacomp("leaderboard", "token", "alice", "--tokens", "tokens.json", home=home).strip()
    with board(tmp_path, store / evalsets, home) as (url, log):
        told = json.loads(datacomp("submit", "mine.tar", url, "--json", home=home, DATACOMP_TOKEN=token))
        assert told["status"] == "published", told
        assert any(found["rule"] == "evaluated again" and found["ok"] for found in told["findings"])
        datacomp("withdraw", told["id"], url, home=home, DATACOMP_TOKEN=token)
    assert token not in log.read_text()
    arguments.over.set()
    arguments.join()
    assert any("torchrun" in line or "elastic" in line for line in arguments.num_seen), "the training was looked at"
    assert arguments.shown == set()
    assert not any(token in line for line in arguments.num_seen)
    assert files_with_the_secret(tmp_path) == []
    assert home.stat().st_mode & 0o777 == 0o700
    assert store.stat().st_mode & 0o777 == 0o700
    for database in (home / "prefect").glob("prefect.db*"):
        assert database.stat().st_mode & 0o777 == 0o600, database
    assert (tmp_path / "tokens.json").stat().st_mode & 0o777 == 0o600
    assert re.search(r"\bPOST /submissions\b", log.read_text()), "the board's own log was looked at"
