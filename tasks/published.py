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


SENT = "_sent"
"""Folder in it: size and time of each local page of a scale when it was kept."""


def folder() -> Folder:
    return Folder(settings().store_url) / PAGES


def publish(name: str, data: bytes) -> str:
    """Keep a page or an image under a relative name such as `tiny.html`. Returns the link to it."""
    folder().write(name, data)
    return link(name)


def publish_site(site: Path, scale: str) -> str:
    """Keep the board's page of a scale and the pages beside it that were written into the folder `site`, which link to each
    other; those that are unchanged since they were kept are not sent again. Returns the link to the board's.
    """
    sent, marks = folder() / SENT, f"{scale}.json"
    before: dict[str, list[int]] = sent.read_json(marks) if sent.exists(marks) else {}
    pages = (site / f"{scale}.html", site / "scaling.html", *sorted((site / scale).glob("*.html")))
    there, now = set(folder().files(".html")), dict[str, list[int]]()
    for page in filter(Path.exists, pages):
        name, stat = page.relative_to(site).as_posix(), page.stat()
        now[name] = [stat.st_size, stat.st_mtime_ns]
        if name not in there or before.get(name) != now[name]:
            publish(name, page.read_bytes())
    sent.write_json(marks, now)
    return link(f"{scale}.html")


def link(name: str) -> str:
    return f"{settings().pages.rstrip('/')}/{name}"


def explore_link(address: str) -> str:
    """Return the link to the page of `datacomp explore` for an artifact, on the server of the report pages."""
    return f"{settings().pages.rstrip('/').rpartition('/')[0]}/explore/{address}/"


def file_name(*words: str, suffix: str) -> str:
    """Return a name that is valid in a folder, a bucket and a url."""
    return re.sub(r"[^A-Za-z0-9]+", "-", "-".join(words)).strip("-").lower() + suffix
