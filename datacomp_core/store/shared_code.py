"""Keeps single files of code in the store, by hash, so that a spec made with one can be read on any machine that shares the
store."""

from __future__ import annotations

from datacomp_core import external_code
from datacomp_core.settings import settings
from datacomp_core.store.folder import Folder
from datacomp_core.store.store import Store

CODE = "code"


def share_code(store: Store) -> None:
    """Put the files that this process has loaded into the store, `code/<digits>.py`; those that are there are left."""
    for digits, (_, data) in external_code.loaded_files().items():
        store.root.create(f"{CODE}/{digits}.py", data)


def _from_store(digits: str) -> bytes | None:
    folder = Folder(settings().store_url) / CODE
    return folder.read(f"{digits}.py") if folder.exists(f"{digits}.py") else None


external_code.add_finder(_from_store)
