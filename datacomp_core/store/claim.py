"""A plain folder that a command works in belongs to one request: going on never mixes the results of two."""

from __future__ import annotations

import json
from typing import Any

from datacomp_core.errors import SpecError
from datacomp_core.store.folder import Folder

REQUEST = "request.json"


def claim(folder: Folder, request: dict[str, Any]) -> None:
    """Write down what a folder is being made from. SpecError if it was begun for something else, naming what differs."""
    given = json.loads(json.dumps(request))
    if not folder.exists(REQUEST):
        folder.write_json(REQUEST, given)
        return
    before = folder.read_json(REQUEST)
    differing = sorted(name for name in before.keys() | given.keys() if before.get(name) != given.get(name))
    if differing:
        raise SpecError(
            f"{folder} was begun with another {', '.join(differing)} (its {REQUEST} has it): give the same again to go on, or "
            "choose another folder."
        )
