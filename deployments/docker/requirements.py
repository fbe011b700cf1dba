"""Prints the dependencies in pyproject.toml, without the project itself: `python requirements.py cpu,postgres`. The image
installs them in a separate layer, which stays unchanged in a release that changes no dependency.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: str, extras: list[str]) -> list[str]:
    """The dependencies of the project and of some of its extras. KeyError for an unknown extra."""
    project = tomllib.loads(pyproject)["project"]
    return [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]


if __name__ == "__main__":
    print("\n".join(requirements(Path("pyproject.toml").read_text(), sys.argv[1].split(","))))  # noqa: T201
