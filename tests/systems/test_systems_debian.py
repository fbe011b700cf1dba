"""Both commands in fresh minimal systems, from a clean clone: `make test-all` as root, where debootstrap is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from minimal_systems import SUITES

SCRIPT = Path(__file__).with_name("minimal_systems.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3 * 3600),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("debootstrap") is None, reason="needs root and Debian's debootstrap"),
]


@pytest.mark.parametrize("suite", SUITES)
def test_both_commands_work_in_a_minimal_system(suite: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), suite], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
