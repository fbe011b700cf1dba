"""The set-up: refused interpreters are named before anything is made, and nothing that gets installed floats."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest
from minimal_systems import floating
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SUPPORTED = ["3.11", "3.12", "3.13", "3.14"]
PINS = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines()]


def _interpreter(folder: Path, version: str) -> Path:
    """A Python that says it is another version."""
    path = folder / f"python{version}"
    major, minor = version.split(".")
    told = f"import sys; sys.version_info = ({major}, {minor}, 0, 'final', 0); "
    path.write_text(f'#!/bin/sh\n[ "$1" = -c ] && exec {sys.executable} -c "{told}$2"\necho "$@" >> {folder}/called\n')
    path.chmod(0o755)
    return path


def _make_setup(python: Path | str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "-s", "-f", str(ROOT / "Makefile"), "setup", f"PYTHON={python}", f"VENV={folder}/venv"]
    (folder / "pyproject.toml").touch()
    (folder / "constraints.txt").touch()
    # Under `make test` this is a make below a make, which would inherit its level and its variables (VENV, JOBS, ...).
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=outside)


@pytest.mark.parametrize("version", ["2.7", "3.10", "3.15"])
def test_an_unsupported_python_is_named_before_anything_is_made(version: str, tmp_path: Path) -> None:
    python = _interpreter(tmp_path, version)
    made = _make_setup(python, tmp_path)
    assert made.returncode != 0
    said = [line for line in made.stderr.splitlines() if not line.startswith("make:")]
    assert said == [
        f"Python 3.11, 3.12, 3.13 or 3.14 is needed, and {python} is Python {version}: call make with PYTHON=/path/to/python3.13"
    ]
    assert not (tmp_path / "venv").exists()
    assert not (tmp_path / "called").exists()


def test_a_missing_python_is_named(tmp_path: Path) -> None:
    made = _make_setup("python3.99", tmp_path)
    assert made.returncode != 0
    assert "There is no python3.99" in made.stdout + made.stderr


def test_a_supported_python_gets_as_far_as_its_venv(tmp_path: Path) -> None:
    for version in SUPPORTED:
        _make_setup(_interpreter(tmp_path, version), tmp_path)
    assert (tmp_path / "called").read_text().splitlines() == [f"-m venv {tmp_path}/venv"] * len(SUPPORTED)


def test_the_supported_versions_are_those_of_the_package() -> None:
    wanted = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(20) if f"3.{minor}.1" in wanted] == SUPPORTED


@cache
def _distribution(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:  # of another version of Python
        return None


def _pinned(name: str, environment: dict[str, str]) -> Version | None:
    for pin in PINS:
        if canonicalize_name(pin.name) == name and (pin.marker is None or pin.marker.evaluate(environment)):
            [exact] = pin.specifier
            assert exact.operator == "==", pin
            return Version(exact.version)
    return None


@pytest.mark.parametrize("version", SUPPORTED)
def test_everything_that_gets_installed_is_pinned(version: str) -> None:
    """Followed through the requirements of the installed packages, with the markers of each supported version."""
    environment = {**{name: str(value) for name, value in default_environment().items()}, "python_version": version}
    environment |= {"python_full_version": f"{version}.0", "platform_system": "Linux", "sys_platform": "linux"}
    extras = PROJECT["optional-dependencies"]
    left = [(Requirement(line), "") for line in (*PROJECT["dependencies"], *extras["cpu"], *extras["dev"])]
    seen: set[tuple[str, str]] = set()
    while left:
        wanted, extra = left.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({**environment, "extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        pinned = _pinned(name, environment)
        assert pinned is not None, f"{name} is not pinned for Python {version}"
        assert wanted.specifier.contains(pinned, prereleases=True), f"{wanted} does not take {name} {pinned}"
        distribution = _distribution(name)
        for asked in {"", *wanted.extras}:
            if (name, asked) not in seen and distribution is not None:
                seen.add((name, asked))
                left += [(Requirement(line), asked) for line in distribution.requires or ()]
    assert len(seen) > 150


def test_no_line_of_the_constraints_is_doubled_or_loose() -> None:
    names = [(canonicalize_name(pin.name), str(pin.marker or "")) for pin in PINS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"==[\w.!+]+", str(pin.specifier)) for pin in PINS)


def test_what_floats_is_seen() -> None:
    frozen = "torch==2.0.0\nfilelock==4.2.11\nruamel.yaml==0.19.1\nother==1\npip==99\n"
    constraints = "torch==2.0.1\nfilelock==4.2.11\nruamel-yaml==0.19.1; python_version > '3'\n"
    assert floating(frozen, constraints) == ["torch==2.0.0", "other==1"]
