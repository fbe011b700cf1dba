"""Changes of other packages' modules are made for one version, and undone."""

from __future__ import annotations

import importlib
import sys

import pytest

from datacomp_core import library_patches
from datacomp_core.errors import MissingLibraryError


def test_another_version_of_a_changed_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    library_patches.require_version("img2dataset")
    monkeypatch.setitem(library_patches.MADE_FOR, "img2dataset", "1.4")
    with pytest.raises(MissingLibraryError, match=r"img2dataset 1\.47\.0 is installed, but this works only with 1\.4: pip"):
        library_patches.require_version("img2dataset")


def test_what_was_left_out_can_be_imported_afterwards() -> None:
    sys.modules.pop("this", None)
    with library_patches.left_out(["this", "json"]):
        assert importlib.import_module("json").loads("1") == 1, "what is there already stays"
        with pytest.raises(ImportError):
            importlib.import_module("this")
    assert "this" not in sys.modules
    assert "json" in sys.modules
