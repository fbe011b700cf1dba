"""Pyright for the lowest supported Python (or the one given), on the files that it has not found good before.

    .venv/bin/python .ci/check_types.py [--all] [3.14]

A file is known to be good by its own content, that of every file of this project that it imports (directly or not), the pinned
packages, pyright's configuration and version. What is known lies in the user's cache folder, so a fresh clone of what was checked
on this machine costs nothing. `--all` forgets it. The exit status is 1 if there is an error.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "datacomp-types"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOWEST = SETTINGS["tool"]["pyright"]["pythonVersion"]
FILES = sorted(path for package in SETTINGS["tool"]["pyright"]["include"] for path in (ROOT / package).rglob("*.py"))


@cache
def imports(path: Path) -> frozenset[Path]:
    """The files of this project that one file imports, with the packages they lie in."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    parents = {name.rsplit(".", count)[0] for name in names for count in range(name.count(".") + 1)}
    places = [ROOT.joinpath(*name.split(".")) for name in parents]
    return frozenset(file for place in places for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file())


@cache
def content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def key(path: Path, python: str) -> str:
    """What says that a file was checked as it is now."""
    reached, left = {path}, [path]
    while left:
        fresh = imports(left.pop()) - reached
        reached |= fresh
        left += fresh
    parts = [
        python,
        version("pyright"),
        json.dumps(SETTINGS["tool"]["pyright"], sort_keys=True),
        content(ROOT / "constraints.txt"),
    ]
    parts += [str(path.relative_to(ROOT)), *(f"{file.relative_to(ROOT)} {content(file)}" for file in sorted(reached))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def check(python: str) -> int:
    """The number of errors for one version of Python."""
    left = {path: key(path, python) for path in FILES}
    left = {path: mark for path, mark in left.items() if not (CACHE / mark).exists()}
    say(f"types for Python {python}: {len(FILES) - len(left)} files are known to be good, {len(left)} are checked")
    if not left:
        return 0
    command = [str(Path(sys.executable).with_name("pyright")), "--outputjson", "--threads", "--pythonversion", python]
    done = subprocess.run([*command, *map(str, left)], check=False, cwd=ROOT, capture_output=True, text=True)
    try:
        told = json.loads(done.stdout)["generalDiagnostics"]
    except (ValueError, KeyError):
        say(f"pyright ended with status {done.returncode}:\n{done.stdout}{done.stderr}")
        return 1
    errors = [found for found in told if found["severity"] == "error"]
    for found in errors:
        line = found["range"]["start"]["line"] + 1 if "range" in found else 0
        say(f"{found['file']}:{line}: {found['message']} ({found.get('rule', 'error')}, Python {python})")
    bad = {found["file"] for found in errors}
    for path, mark in left.items():
        if str(path) not in bad and done.returncode in (0, 1):
            (CACHE / mark).touch()
    return len(errors) or (done.returncode not in (0, 1))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    CACHE.mkdir(parents=True, exist_ok=True)
    if "--all" in sys.argv[1:]:
        for mark in CACHE.iterdir():
            mark.unlink()
    errors = sum(map(check, [word for word in sys.argv[1:] if not word.startswith("-")] or [LOWEST]))
    say(f"{errors} errors" if errors else "no errors")
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
