"""Publishes pages and images that the Prefect UI links to: they are kept in the store and served next to the API by
`deployments/prefect_server.py`. Links are paths on the UI's server, so they work from any machine, through any tunnel or proxy.
"""

from __future__ import annotations

import re
from pathlib import Path

from datacomp_core.settings import settings
from datacomp_core.store import Folder

PAGES = "_pages"
"""Folder in the store. It never contains what a step built, and everything here can be made again."""


def folder() -> Folder:
    return Folder(settings().store_url) / PAGES


def publish(name: str, data: bytes) -> str:
    """Keep a page or an image under a relative name such as `tiny.html`. Returns the link to it."""
    folder().write(name, data)
    return link(name)


def publish_site(site: Path, scale: str) -> str:
    """Keep the board's page of a scale and the pages beside it that were written into the folder `site`, which link to each
    other. Returns the link to the board's.
    """
    pages = [site / f"{scale}.html", site / "scaling.html", *sorted((site / scale).glob("*.html"))]
    for page in pages:
        if page.exists():
            publish(page.relative_to(site).as_posix(), page.read_bytes())
    return link(f"{scale}.html")


def link(name: str) -> str:
    return f"{settings().pages.rstrip('/')}/{name}"


def explore_link(address: str) -> str:
    """Return the link to the page of `datacomp explore` for an artifact, on the server of the report pages."""
    return f"{settings().pages.rstrip('/').rpartition('/')[0]}/explore/{address}/"


def file_name(*words: str, suffix: str) -> str:
    """Return a name that is valid in a folder, a bucket and a url."""
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(words)).strip("-").lower() + suffix
