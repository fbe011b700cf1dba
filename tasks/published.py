"""Pages and pictures that the Prefect UI links to: kept in the store, served beside the API by `deployments/served.py`.

Links are paths on the server that the UI came from, so they work from any machine, through any tunnel or proxy.
"""

from __future__ import annotations

import re

from datacomp_core.settings import settings
from datacomp_core.store import Folder

PAGES = "_pages"
"""Where they lie in the store; what a step built is never here, and everything here can be made again."""


def folder() -> Folder:
    return Folder(settings().store_url) / PAGES


def leave(name: str, data: bytes) -> str:
    """Keep a page or a picture under a relative name such as `tiny.html`. Returns the link to it."""
    folder().write(name, data)
    return link(name)


def link(name: str) -> str:
    return f"{settings().pages.rstrip('/')}/{name}"


def explore_link(address: str) -> str:
    """The page of `datacomp explore` over something in the store, on the server that has the report pages."""
    return f"{settings().pages.rstrip('/').rpartition('/')[0]}/explore/{address}/"


def file_name(*words: str, suffix: str) -> str:
    """A name that is the same in a folder, a bucket and a url."""
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(words)).strip("-").lower() + suffix
