"""Anybody's list, code and package: from files that import nothing of ours to a subset, and through the real chain."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "participate.md").read_text()
TEXTS = ["a dog", "1 dog", "12 dogs", "1234 dogs", None, "call 0800 12345"]
LIST = """
import glob, numpy as np, pyarrow.parquet as pq
uids = []
for file in sorted(glob.glob({pattern!r}, recursive=True)):
    uids += pq.read_table(file, columns=["uid"])["uid"].to_pylist()
chosen = [uids[place] for place in np.random.default_rng(0).permutation(len(uids))[: len(uids) // 2]]
np.save({out!r}, np.array([(int(u[:16], 16), int(u[16:], 16)) for u in chosen + chosen[:50]], "u8,u8"))
"""


def block(word: str) -> str:
    """The one block of Python on the page that has a word."""
    [code] = [code for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if word in code]
    return code


def datacomp(*arguments: str, cwd: Path, path: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    known = [str(root), *([str(path)] if path else [])]
    env = {**os.environ, "DATACOMP_HOME": str(cwd / ".datacomp"), "PYTHONPATH": os.pathsep.join(known), **environment}
    command = [sys.executable, "-m", "deployments.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=1500)


def pool(folder: Path) -> list[str]:
    (folder / "metadata").mkdir(parents=True)
    uids = [f"{row:032x}" for row in range(len(TEXTS))]
    pl.DataFrame({"uid": uids, "text": TEXTS}).write_parquet(folder / "metadata" / "00000000.parquet")
    return uids


def kept(folder: Path) -> list[int]:
    return [int(low) for _, low in np.load(folder / "subset.npy").tolist()]


def test_a_file_in_an_empty_folder(tmp_path: Path) -> None:
    pool(tmp_path)
    code = block("no_digits")
    (tmp_path / "mine.py").write_text(code)
    for recipe, expected in (("mine.py", [0, 1, 2]), ("mine.py:digits_at_most=0", [0]), ("mine.py:no_digits", [0, 1, 2])):
        done = datacomp("filter", "--metadata", "metadata", "--recipe", recipe, "--out", "subset.npy", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert kept(tmp_path) == expected


def test_a_file_that_fails_is_one_sentence(tmp_path: Path) -> None:
    pool(tmp_path)
    for code, told in (
        ("x = 1\n1 / 0\n", "line 2: ZeroDivisionError"),
        ("def f(:\n", "line 1: SyntaxError"),
        ("x = 1\n", "does not register a filter"),
    ):
        (tmp_path / "mine.py").write_text(code)
        done = datacomp("filter", "--metadata", "metadata", "--recipe", "mine.py", "--explain", cwd=tmp_path)
        assert done.returncode == 2
        assert told in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr


def installed(folder: Path, code: str) -> Path:
    """A place with an installed package of one module and an entry point."""
    site = folder / "site"
    (site / "my_package").mkdir(parents=True)
    (site / "my_package" / "__init__.py").write_text("")
    (site / "my_package" / "filters.py").write_text(code)
    info = site / "my_package-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.2\n")
    (info / "RECORD").write_text("my_package/__init__.py,,\nmy_package/filters.py,,\n")
    (info / "entry_points.txt").write_text("[datacomp.filters]\nmine = my_package.filters\n")
    return site


def test_an_installed_package_with_an_entry_point(tmp_path: Path) -> None:
    pool(tmp_path)
    code = block("no_digits")
    site = installed(tmp_path, code)
    arguments = ("filter", "--metadata", "metadata", "--recipe", "no_digits:digits_at_most=1", "--out", "subset.npy", "--json")
    done = datacomp(*arguments, cwd=tmp_path, path=site)
    assert done.returncode == 0, done.stderr
    assert kept(tmp_path) == [0, 1]
    assert json.loads(done.stdout)["filter"]["code"] == "my-package==1.2"


def test_the_list_of_recipes_names_the_package_of_each(tmp_path: Path) -> None:
    code = "from datacomp_core.filters import Everything\nfrom datacomp_core.recipes import register\n\n\n"
    site = installed(tmp_path, code + '@register()\ndef theirs() -> Everything:\n    """All of it."""\n    return Everything()\n')
    done = datacomp("filter", "--list", "--json", cwd=tmp_path, path=site)
    assert done.returncode == 0, done.stderr
    assert "my-package==1.2" in str(next(row for row in json.loads(done.stdout) if "theirs" in str(row)))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_list_written_with_plain_numpy_is_a_line_of_the_board(tmp_path: Path) -> None:
    done = datacomp("pool", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pattern = str(tmp_path / ".datacomp" / "store" / "pools" / "tiny" / "**" / "metadata" / "*.parquet")
    (tmp_path / "make.py").write_text(LIST.format(pattern=pattern, out=str(tmp_path / "my.npy")))
    subprocess.run([sys.executable, "-I", "make.py"], cwd=tmp_path, check=True)
    done = datacomp("run", "--subset", "my.npy", "--name", "My filter", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [row] = [row for row in json.loads(done.stdout)["rows"] if row["kind"] == "run"]
    listed = np.load(tmp_path / "my.npy")
    assert row["method"] == "My filter"
    assert (row["size"], row["unique"]) == (len(listed), len(np.unique(listed)))
    assert row["breaches"] == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_page_from_an_empty_folder_to_the_board(tmp_path: Path) -> None:
    """Its commands for `tiny`, one after another, as they stand."""
    (tmp_path / "half.py").write_text(block("half"))
    begin = PAGE.index("```\ndatacomp pool\n") + len("```\n")
    commands = [shlex.split(line) for line in PAGE[begin : PAGE.index("```", begin)].splitlines()]
    assert [command[:2] for command in commands].count(["datacomp", "run"]) == 2
    for command in commands:
        if command[0] == "python":
            subprocess.run([sys.executable, "-I", *command[1:]], cwd=tmp_path, check=True)
            continue
        done = datacomp(*command[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "My filter" in done.stdout
    assert "no_filter" in done.stdout
    listed = np.load(tmp_path / "my.npy")
    shown = json.loads(datacomp("leaderboard", "--json", cwd=tmp_path).stdout)
    [row] = [row for row in shown["rows"] if row["method"] == "My filter"]
    assert row["size"] == len(listed) == len(set(listed.tolist()))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_file_and_a_package_are_lines_of_the_board(tmp_path: Path) -> None:
    """`mine.py` in an empty folder, and an installed package's entry point, through the real chain."""
    code = block("no_digits")
    (tmp_path / "mine.py").write_text(code)
    site = installed(tmp_path, code.replace('"no_digits"', '"few_digits"'))
    arguments = ("run", "-r", "mine.py", "-r", "few_digits:digits_at_most=0", "--made-from", "released", "--json")
    done = datacomp(*arguments, cwd=tmp_path, path=site)
    assert done.returncode == 0, done.stderr
    rows = {row["recipe"]: row for row in json.loads(done.stdout)["rows"] if row["kind"] == "run"}
    assert set(rows) == {"no_digits", "few_digits:digits_at_most=0"}
    tables = sorted((tmp_path / ".datacomp" / "store" / "pools" / "tiny").rglob("metadata/*.parquet"))
    texts = pl.concat([pl.read_parquet(table, columns=["text"]) for table in tables])["text"].drop_nulls().to_list()
    digits = [len(re.findall("[0-9]", text)) for text in texts]
    for recipe, most in (("no_digits", 3), ("few_digits:digits_at_most=0", 0)):
        assert rows[recipe]["size"] == sum(number <= most for number in digits)
        assert (rows[recipe]["inputs"], rows[recipe]["inputs_claimed"]) == ("released", True)
        assert rows[recipe]["average"] if "average" in rows[recipe] else rows[recipe]["scores"]["average"]["mean"] > 0
        assert not rows[recipe]["breaches"]
