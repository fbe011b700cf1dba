"""A folder belongs to the request that began it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from datacomp_core.errors import SpecError
from datacomp_core.store import Folder
from datacomp_core.store.folder_request import REQUEST, bind_folder


def test_the_same_request_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    bind_folder(folder, {"seed": 0, "shards": ("a", "b")})
    before = folder.read(REQUEST)
    bind_folder(folder, {"seed": 0, "shards": ("a", "b")})
    assert folder.read(REQUEST) == before
    with pytest.raises(SpecError, match=r"started with another batch, seed \(see its request\.json\)"):
        bind_folder(folder, {"seed": 1, "shards": ("a", "b"), "batch": 4})
    assert folder.read(REQUEST) == before


def test_a_part_that_an_earlier_version_did_not_record_is_named(tmp_path: Path) -> None:
    """As of a model's libraries, when a newer version asks for one more of them."""
    folder = Folder(tmp_path)
    bind_folder(folder, {"models": {"b32": {"torch": "1", "pillow": "2"}}})
    told = r"another models \(b32 \(torch, simplejpeg, which was not recorded then, pillow, which is not recorded now\)\) "
    with pytest.raises(SpecError, match=told):
        bind_folder(folder, {"models": {"b32": {"torch": "2", "simplejpeg": "3"}}})
    with pytest.raises(SpecError, match=r"another models \(see"):
        bind_folder(folder, {"models": {"l14": {"torch": "1"}}})


CLAIMS = "import sys, time; from datacomp_core.store import Folder; from datacomp_core.store.folder_request import bind_folder\n"
CLAIMS += (
    "bind_folder(Folder(sys.argv[1]), {'seed': 0}, {'data': lambda known: {}}); print('claimed', flush=True); time.sleep(600)"
)


def claimed_by_another(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", CLAIMS, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    return process


@pytest.mark.parametrize("made", [False, True])
def test_a_process_that_was_killed_before_its_first_file_has_begun_nothing(made: bool, tmp_path: Path) -> None:
    """While it lives, the folder is its own; so is one with a file of it in it, whatever became of it."""
    folder, process = Folder(tmp_path / "out"), claimed_by_another(tmp_path / "out")
    try:
        with pytest.raises(SpecError, match="started with another seed"):
            bind_folder(folder, {"seed": 1}, {"data": lambda known: {}})
    finally:
        process.kill()
        process.wait()
    if made:
        folder.write("part.parquet", b"")
        with pytest.raises(SpecError, match="started with another seed"):
            bind_folder(folder, {"seed": 1}, {"data": lambda known: {}})
        return
    bind_folder(folder, {"seed": 1}, {"data": lambda known: {}})
    assert folder.read_json(REQUEST)["seed"] == 1
