"""Serves the pages of `datacomp explore` on the server of the Prefect UI: `/explore/ADDRESS/`, for the links of a filter's
artifacts. The first request for an address opens its data in a thread; a few stay open. Recipes and requests are written below
DATACOMP_HOME.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, Router
from starlette.types import Receive, Scope, Send

from datacomp_core.errors import DatacompError, SpecError
from datacomp_core.progress import LogProgress
from datacomp_core.settings import settings
from datacomp_core.store import Store
from deployments.explore.app import routes
from deployments.explore.explorer_api import ExplorerApi

DOOR = "/explore"
KINDS = ("pools", "subsets", "entries")
MOST_OPEN = 4
SAMPLE = 100_000


class _Opening:
    """One address: opening, open, or failed with a reason."""

    def __init__(self, address: str) -> None:
        self.progress = LogProgress("opening", every=3600)
        self.view: ExplorerApi | None = None
        self.problem: DatacompError | None = None
        threading.Thread(target=self._open, args=(address,), daemon=True).start()

    def _open(self, address: str) -> None:
        from deployments.explore.explore_sources import of_store
        from deployments.explore.explorer import open_explorer

        home = settings().home.resolve()
        try:
            local = home / "explore" / "models" / address.rpartition("--")[2]
            origin = of_store(Store.open(settings().store_url), [address], address.split("/")[1], local)
            explorer = open_explorer(origin, SAMPLE, home / "explore", progress=self.progress)
            self.view = ExplorerApi(explorer, home / "recipes")
        except DatacompError as problem:
            self.problem = problem
        except Exception as problem:  # report it to the waiting page
            self.problem = DatacompError(f"{address} cannot be opened ({type(problem).__name__}: {problem}).")


class OpenExplorers:
    """The open addresses, least recently used first."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._open: dict[str, _Opening] = {}

    def find(self, request: Request) -> ExplorerApi | str:
        """Return the view of the address in a request's path, or its progress. DatacompError if it cannot be opened."""
        kind, scale, name = (request.path_params[part] for part in ("kind", "scale", "address_name"))
        if kind not in KINDS:
            raise SpecError(f"{kind[:40]!r} cannot be explored: use a pool, a subset or an entry.")
        address = f"{kind}/{scale}/{name}"
        with self._guard:
            opening = self._open.pop(address, None) or _Opening(address)
            self._open[address] = opening
            while len(self._open) > MOST_OPEN:
                self._open.pop(next(iter(self._open)))
        if opening.problem is not None:
            with self._guard:
                self._open.pop(address, None)  # the next request tries again
            raise opening.problem
        return opening.view or f"Opening {address}: {opening.progress.unit or 'reading the records'}…"


class _Guarded:
    """Require the same user and password as the rest of the server."""

    def __init__(self, app: Any, allowed: Callable[[str], bool]) -> None:
        self.app, self.allowed = app, allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.allowed(Request(scope).headers.get("authorization", "")):
            await self.app(scope, receive, send)
            return
        refusal = PlainTextResponse("A user and a password are required.", 401, {"WWW-Authenticate": 'Basic realm="datacomp"'})
        await refusal(scope, receive, send)


def door(allowed: Callable[[str], bool]) -> Mount:
    """Return the application below DOOR. `allowed` decides whether an Authorization header is valid."""
    openings = OpenExplorers()
    inner: list[Route] = routes(openings.find, only_loopback=False)
    return Mount(DOOR + "/{kind}/{scale}/{address_name}", app=_Guarded(Router(routes=inner), allowed))
