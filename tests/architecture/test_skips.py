"""A run ends as failed if a test was skipped for a reason that `expected_skips.py` does not list, also in several processes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


def ended(folder: Path, source: str, *options: str) -> tuple[int, str]:
    """Exit status and output of a run of pytest over one file."""
    (folder / "test_one.py").write_text("import pytest\n" + source)
    command = [sys.executable, "-m", "pytest", "-p", "expected_skips", "-p", "no:cacheprovider", *options, "test_one.py"]
    done = subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(TESTS), "PATH": ""}, capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["one process", "xdist"])
@pytest.mark.parametrize(
    "source",
    [
        "@pytest.mark.skip(reason='later')\ndef test_a(): ...\n",
        "def test_a(): pytest.importorskip('nowhere')\n",
        "pytest.importorskip('nowhere')\ndef test_a(): ...\n",
    ],
    ids=["mark", "test", "module"],
)
def test_an_unexpected_skip_fails_the_run(source: str, options: tuple[str, ...], tmp_path: Path) -> None:
    status, output = ended(tmp_path, source, *options)
    assert status == 1
    assert "unexpected skips (tests/expected_skips.py" in output
    assert re.search("test_one.py.*: (later|could not import .nowhere.)", output)


def test_an_expected_skip_and_an_expected_failure_do_not(tmp_path: Path) -> None:
    source = "def test_a(): pytest.skip('no CUDA device')\n@pytest.mark.xfail\ndef test_b(): assert False\n"
    status, output = ended(tmp_path, source)
    assert (status, "unexpected" in output) == (0, False)
