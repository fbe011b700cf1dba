"""A library that cannot be imported is named in one sentence, wherever it is wanted."""

from __future__ import annotations

import importlib
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from datacomp_core.errors import MissingLibraryError
from datacomp_core.import_errors import library_error
from datacomp_core.parallel import prepared_map, process_map


def _error(name: str) -> ImportError:
    try:
        importlib.import_module(name)
    except ImportError as problem:
        return problem
    raise AssertionError(name)


def _wants(number: int) -> int:
    import not_installed_here  # pyright: ignore[reportMissingImports]

    return not_installed_here.value + number


def _prepared() -> int:
    return _wants(0)


def _add(prepared: int, number: int) -> int:
    return prepared + number


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_names_the_module_and_what_to_install(workers: int) -> None:
    sentence = r"^Cannot import the module 'not_installed_here', which \w+ needs: install the package not_installed_here \(pip"
    with pytest.raises(MissingLibraryError, match=sentence):
        list(process_map(_wants, range(3), workers=workers))
    with pytest.raises(MissingLibraryError, match=sentence):
        list(prepared_map(_add, range(3), prepare=_prepared, workers=workers))


def test_a_package_of_another_name_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_library.py").write_text("import imghdr_gone\n")
    (tmp_path / "old_python.py").write_text("raise ModuleNotFoundError(\"No module named 'imghdr'\", name='imghdr')\n")
    (tmp_path / "system.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')\n"
    )
    (tmp_path / "unfit.py").write_text("from json import no_such_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    told = {name: str(library_error(_error(name))) for name in ("a_library", "old_python", "system", "unfit")}
    assert "'imghdr_gone', which a_library needs: install the package imghdr_gone (" in told["a_library"]
    assert "'imghdr', which old_python needs: install the package standard-imghdr (" in told["old_python"]
    assert "Cannot load the module 'system': the system has no libGL.so.1." in told["system"]
    assert "'json', which unfit needs (cannot import name 'no_such_name'" in told["unfit"]
    assert all("\n" not in text and "make setup" in text for name, text in told.items() if name != "system")


def test_a_fault_of_our_own_is_no_missing_library() -> None:
    problem = _error("datacomp_core.no_such_module")
    assert library_error(problem) is problem


def test_the_error_travels_between_processes() -> None:
    error = library_error(_error("not_installed_here"))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_command_line_says_one_sentence(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['polars'] = None; sys.argv = ['datacomp', 'subset', 'info', 'x.npy']\n"
        "from deployments.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert "Cannot import the module 'polars'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
