"""A store of an earlier form is refused in one sentence, and never read as though it were empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from datacomp_core.errors import StoreError
from datacomp_core.store import Folder, Store
from datacomp_core.store.format import require_format


def test_an_empty_store_is_marked_when_it_is_written(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    require_format(store, write=False)
    assert not (tmp_path / "store" / "_store.json").exists()
    require_format(store, write=True)
    assert Folder(tmp_path / "store").read_json("_store.json") == {"format": 2}


def test_a_store_with_records_and_no_mark_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "old" / "subsets" / "tiny" / "clip_score_tiny-pool0--0123456789ab"
    old.mkdir(parents=True)
    (old / "_artifact.json").write_text("{}")
    with pytest.raises(StoreError, match="filled by an earlier version"):
        require_format(Store.open(str(tmp_path / "old")), write=False)


def test_a_store_of_a_later_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_store.json").write_text('{"format": 3}')
    with pytest.raises(StoreError, match="another format"):
        require_format(Store.open(str(tmp_path)), write=True)
