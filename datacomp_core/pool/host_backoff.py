"""Respects `Retry-After`: after a 429 or 503, every further request to that host waits."""

from __future__ import annotations

import threading
import time
import urllib.error
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

ASKING = (429, 503)
USUAL_SECONDS = 1.0  # if a 429 does not say how long
LONGEST_SECONDS = 30.0
MOST_HOSTS = 100_000


class HostBackoff:
    """The time of the next allowed request to each host, for all threads of a process."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._until: dict[str, float] = {}

    def heed(self, url: str, error: urllib.error.HTTPError) -> None:
        """Record the delay that an answer requests."""
        seconds = seconds_of(error.headers.get("Retry-After") if error.headers else None)
        if error.code not in ASKING or (seconds is None and error.code != 429):
            return
        with self._guard:
            if len(self._until) >= MOST_HOSTS:
                self._until.clear()
            wait = min(USUAL_SECONDS if seconds is None else seconds, LONGEST_SECONDS)
            self._until[_host(url)] = time.monotonic() + wait

    def wait(self, url: str, deadline: float) -> None:
        """Wait as long as the host of a url requested, but not beyond a deadline."""
        if self._until:
            until = min(self._until.get(_host(url), 0.0), deadline)
            time.sleep(max(0.0, until - time.monotonic()))


def seconds_of(value: str | None) -> float | None:
    """Parse a Retry-After header, a number or a date, into seconds from now. None if it is neither."""
    if not value:
        return None
    if value.strip().isdigit():
        return float(value.strip()[:9])
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""
