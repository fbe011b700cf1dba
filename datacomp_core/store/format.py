"""Checks the address format of a store: `_store.json` at its root. A store of another format is rejected, never treated as
empty."""

from __future__ import annotations

from typing import Any

from datacomp_core.errors import StoreError
from datacomp_core.store.folder import Folder
from datacomp_core.store.record import RECORD
from datacomp_core.store.store import AMENDING, Store
from datacomp_core.store.store import FORMAT_FILE as FILE

FORMAT = 2
"""1: names and defaults were hashed into addresses. 2: the identity is what a spec means."""
_known: set[str] = set()


def require_format(store: Store, *, write: bool) -> None:
    """StoreError if a store was filled by an earlier form of this system; an empty one is marked, if it is to be written."""
    where = store.root.url
    if where in _known:
        return
    if store.root.exists(FILE):
        found: Any = store.root.read_json(FILE)
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise StoreError(f"{store.root} is a store of another format ({FILE} says {found}): use the version that made it.")
    elif _has_records(store.root) and not store.root.exists(FILE):
        raise StoreError(
            f"{store.root} was filled by an earlier version, whose addresses contain the names of filters: none of its "
            "artifacts would be found, and all would be built again. Use another store (DATACOMP_STORE), or that version."
        )
    elif not write:
        return
    else:
        store.root.write_json(FILE, {"format": FORMAT})
    _known.add(where)


def _has_records(root: Folder) -> bool:
    """Whether there is an artifact of any kind: `<kind>/<scale>/<name>/_artifact.json`."""
    for address in Store(root).places():
        home = root / address
        if home.exists(RECORD) or home.exists(AMENDING):
            return True
    return False
