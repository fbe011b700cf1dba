"""What `make check` takes for checked: a file is checked again when anything that its types come from changes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _tool() -> Any:
    spec = importlib.util.spec_from_file_location("check_types", ROOT / ".ci/check_types.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


@pytest.mark.parametrize("changed", ["datacomp_core/filters/language.py", "datacomp_core/fasttext/reader.py", "constraints.txt"])
def test_a_change_is_seen_where_it_is_imported(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = _tool()
    user, other = ROOT / "datacomp_core/filters/language.py", ROOT / "datacomp_core/errors.py"
    before = [tool.key(path, "3.11") for path in (user, other)]
    content = tool.content
    monkeypatch.setattr(tool, "content", lambda path: "other" if path == ROOT / changed else content(path))
    after = [tool.key(path, "3.11") for path in (user, other)]
    assert after[0] != before[0]
    assert (after[1] != before[1]) == (changed == "constraints.txt")


def test_each_version_of_python_is_checked_for_itself() -> None:
    tool = _tool()
    path = ROOT / "datacomp_core/errors.py"
    assert tool.key(path, "3.11") != tool.key(path, "3.14")
    assert tool.LOWEST == "3.11"


@pytest.mark.parametrize(("words", "checked"), [([], ["3.11"]), (["3.14"], ["3.14"]), (["3.11", "3.14"], ["3.11", "3.14"])])
def test_the_lowest_version_is_checked_unless_others_are_named(
    words: list[str], checked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool, found = _tool(), list[str]()
    monkeypatch.setattr(tool, "CACHE", tmp_path)
    monkeypatch.setattr(tool, "check", lambda python: found.append(python) or len(found) - 1)
    monkeypatch.setattr("sys.argv", ["check_types.py", *words])
    assert tool.main() == min(1, len(checked) - 1)
    assert found == checked
