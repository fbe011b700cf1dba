"""Test sets of one's own in the store: whole, known by their content and not by their place, and never another's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from made_sets import repository, write

from datacomp_core.errors import DataError, SpecError
from datacomp_core.evaluation.own_sets import OwnSetsSpec, bring_own_sets, pin_sets
from datacomp_core.store import Store


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_comes_and_a_copy_elsewhere_is_the_same(tmp_path: Path) -> None:
    write(tmp_path / "sets" / "birds", repository(20, 4))
    shutil.copytree(tmp_path / "sets", tmp_path / "moved")
    store = Store.open(str(tmp_path / "store"))
    here, there = (OwnSetsSpec(sets=pin_sets(str(tmp_path / name), {"birds": "classification"})) for name in ("sets", "moved"))
    made = bring_own_sets(here, store=store)
    assert (made.num_tasks, made.suite) == (1, "custom")
    assert content(store.folder(made).path / "birds") == content(tmp_path / "sets" / "birds")
    assert bring_own_sets(there, store=store).address == made.address

    (tmp_path / "moved" / "birds" / "classnames.txt").write_text("other\n" * 4)
    changed = OwnSetsSpec(sets=pin_sets(str(tmp_path / "moved"), {"birds": "classification"}))
    assert bring_own_sets(changed, store=store).address != made.address


def test_a_set_that_is_not_there_or_has_changed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="No test set exists at .*birds"):
        pin_sets(str(tmp_path), {"birds": "classification"})
    write(tmp_path / "birds", repository(20, 4))
    asked = OwnSetsSpec(sets=pin_sets(str(tmp_path), {"birds": "classification"}))
    (tmp_path / "birds" / "more.txt").write_text("new")
    with pytest.raises(DataError, match="it has changed"):
        bring_own_sets(asked, store=Store.open(str(tmp_path / "store")))
