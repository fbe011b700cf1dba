"""The page on data of one's own: its commands, run as they stand, from a clean store to the `byod` board."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest

from datacomp_core.pool.tiny_pairs import candidates
from datacomp_core.pool.tiny_pixels import is_jpeg

PAGE = (Path(__file__).parents[2] / "docs" / "byod.md").read_text()
NUM = 300


class Commands(NamedTuple):
    """The page's commands, in its order."""

    folder: str
    linked: str
    adopted: str
    run: str
    mixes: list[str]
    board: str
    report: str
    again: str


def commands() -> list[str]:
    blocks = re.findall(
        r"^```\n(.*?)^```$", re.sub(r"^```[a-z]+\n.*?^```$", "", PAGE, flags=re.DOTALL | re.MULTILINE), re.DOTALL | re.M
    )
    return [line for block in blocks for line in block.splitlines() if line.startswith("datacomp ")]


def on_the_page() -> Commands:
    folder, linked, adopted, run, *mixes, board, report, again = commands()
    assert all("--mix" in mix for mix in mixes)
    return Commands(folder, linked, adopted, run, mixes, board, report, again)


def in_a_sentence(start: str) -> str:
    """The one command in the page's sentences that begins so."""
    (found,) = [line for line in re.findall(r"`(datacomp [^`\n]+)`", PAGE) if line.startswith(start)]
    return found


def example(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    return found


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002


class _Web(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None: ...  # a client that no longer waits


@contextmanager
def web(folder: Path) -> Generator[str]:
    server = _Web(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def own_data(root: Path, seed: int, base: str) -> None:
    """`drawings/` with captions.csv, `tables/` of their urls, `wds/`: the same names in every working folder, other pictures."""
    pairs = [pair for pair in candidates(seed, 3 * NUM) if pair.served and pair.text][:NUM]
    for name in ("drawings", "tables", "wds"):
        (root / name).mkdir(parents=True)
    rows: list[tuple[str, str]] = []
    with tarfile.open(root / "wds/00000.tar", "w") as tar:
        for number, pair in enumerate(pairs):
            extension = "jpg" if is_jpeg(pair.served) else "webp"
            (root / f"drawings/{number}.{extension}").write_bytes(pair.served)
            rows.append((f"{number}.{extension}", pair.text))
            for end, data in ((extension, pair.served), ("txt", pair.text.encode())):
                member = tarfile.TarInfo(f"{number:05d}.{end}")
                member.size = len(data)
                tar.addfile(member, BytesIO(data))
    pl.DataFrame(rows, schema=["file_name", "text"], orient="row").write_csv(root / "drawings/captions.csv")
    linked = [(f"{base}/{root.name}/drawings/{name}", text) for name, text in rows]
    pl.DataFrame(linked, schema=["url", "text"], orient="row").write_csv(root / "tables/a.csv")


def datacomp(command: str, cwd: Path, home: Path, *more: str) -> Any:
    environment = {
        **os.environ,
        "DATACOMP_HOME": str(home),
        "DATACOMP_STORE": str(home / "store"),
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    words = [sys.executable, "-m", "deployments.cli", *command.split()[1:], *more]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-4000:])
    return json.loads(done.stdout) if done.stdout.lstrip().startswith("{") else done.stdout


def test_every_option_on_the_page_exists() -> None:
    from typer.main import get_command

    from deployments.cli.main import app, register

    register()
    assert len(on_the_page().mixes) == 3
    for command in commands():
        group: Any = get_command(app)
        words = command.split()[1:]
        while hasattr(group, "commands") and words and words[0] in group.commands:
            group = group.commands[words.pop(0)]
        known = {option for parameter in group.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", " ".join(words))) <= known, command


def rows_of(board: str, root: Path, home: Path) -> list[dict[str, Any]]:
    return [row for row in datacomp(board, root, home, "--json")["rows"] if row["kind"] == "run"]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_three_forms_of_ones_own_data_reach_the_byod_board_from_two_working_folders(tmp_path: Path) -> None:
    home, page = tmp_path / "home", on_the_page()
    with web(tmp_path) as base:
        addresses: list[str] = []
        for seed, user in enumerate(("anna", "bert")):
            own_data(tmp_path / user, 10 + seed, base)
            for command in (page.folder, page.linked, page.adopted):
                made = datacomp(command, tmp_path / user, home, "--json")
                assert made["shards"]["num_samples"] == NUM, command
                addresses.append(made["pool"]["address"])
        assert len(set(addresses)) == len(addresses) == 6
        for number, address in enumerate(addresses):
            both = page.run if number < 3 else page.run.replace(" --recipe no_filter", "")
            datacomp(both.replace("POOL", address), tmp_path, home)
    runs = rows_of(page.board, tmp_path, home)
    assert sorted(row["recipe"] for row in runs) == 6 * ["clip_score_tiny"] + 3 * ["no_filter"]
    assert {row["track"] for row in runs} == {"byod"}
    assert any(row["rank"] == 1 for row in runs)
    assert all(row["size"] == NUM for row in runs if row["recipe"] == "no_filter")
    assert not rows_of(page.board.replace("byod", "filtering"), tmp_path, home)
    datacomp(page.report, tmp_path, home)
    before = datacomp(page.again, tmp_path / "anna", home, "--json")["pool"]["address"]
    assert before == addresses[0], "nothing has changed, so nothing is read again"
    (tmp_path / "anna/drawings/captions.csv").write_text("file_name,text\n0.jpg,another\n0.webp,another\n")
    after = datacomp(page.again, tmp_path / "anna", home, "--json")["pool"]
    assert (after["address"] != before, after["num_samples"]) == (True, 1)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_pages_other_commands_run_as_they_stand(tmp_path: Path) -> None:
    home, page = tmp_path / "home", on_the_page()
    own_data(tmp_path, 12, "http://127.0.0.1:9")
    made = datacomp(page.folder, tmp_path, home, "--json")
    pool, shards = made["pool"]["address"], made["shards"]["address"]
    datacomp(in_a_sentence("datacomp embed --pool").replace("POOL", pool), tmp_path, home)
    datacomp(page.run.replace("POOL", pool), tmp_path, home)
    assert f"{NUM:,}" in datacomp(in_a_sentence("datacomp filter --pool").replace("POOL", pool), tmp_path, home)
    assert datacomp(in_a_sentence("datacomp compare"), tmp_path, home)
    (tmp_path / "mix.yaml").write_text(example("yaml").replace("SHARDS", shards))
    for mix in page.mixes:
        datacomp(mix.replace("SHARDS", shards), tmp_path, home)
    mixed = [row for row in rows_of(page.board, tmp_path, home) if row["size"] > NUM]
    assert len(mixed) == 1, "the three ways to name a mix are one mix"
    kept = {row["recipe"]: row["size"] for row in rows_of(page.board, tmp_path, home)}
    assert kept["no_filter"] == NUM
    own_model(tmp_path)
    (evalsets,) = (home / "store/evalsets").glob("tiny/*/attempt-*")
    (tmp_path / "evalsets").symlink_to(evalsets)
    assert "Average" in datacomp(in_a_sentence("datacomp evaluate --config"), tmp_path, home)


def own_model(root: Path) -> None:
    """The page's configuration, and random weights for it."""
    import torch
    from open_clip.model import CLIP

    config = json.loads(example("json"))
    (root / "mine.json").write_text(example("json"))
    torch.save(CLIP(**config).state_dict(), root / "epoch_5.pt")
