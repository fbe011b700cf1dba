"""A folder belongs to the request that began it."""

from __future__ import annotations

from pathlib import Path

import pytest

from datacomp_core.errors import SpecError
from datacomp_core.store import Folder
from datacomp_core.store.claim import REQUEST, claim


def test_the_same_request_goes_on_and_another_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    claim(folder, {"seed": 0, "shards": ("a", "b")})
    before = folder.read(REQUEST)
    claim(folder, {"seed": 0, "shards": ("a", "b")})
    assert folder.read(REQUEST) == before
    with pytest.raises(SpecError, match=r"started with another batch, seed \(see its request\.json\)"):
        claim(folder, {"seed": 1, "shards": ("a", "b"), "batch": 4})
    assert folder.read(REQUEST) == before
