"""Serves the page and its answers over HTTP. Answers contain captions of strangers, as JSON and never as markup. The page may
load from and ask only this server, and its markup contains no script. Requests under a host name other than this machine's are
refused, so that no web page can send requests through the user's browser.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from datacomp_core.errors import DatacompError, DataError, SpecError
from datacomp_core.leaderboard.site import board_page
from datacomp_core.redaction import redact
from deployments.explore.explorer_api import ExplorerApi, FacetRequest, SaveRequest, SearchRequest, TakedownRequest

A = TypeVar("A", bound=BaseModel)
Find = Callable[[Request], ExplorerApi | str]
"""The view of a request, or its preparation progress."""

PAGE = Path(__file__).with_name("page")
LOOK = board_page.TEMPLATES / "page.css"
"""Style sheet shared by all our pages."""
SCRIPTS = ("colours.js", "dom.js", "explore.js", "facets.js", "map.js", "pair.js", "panels.js")
FILES = {"explore.css": "text/css", "look.css": "text/css", **dict.fromkeys(SCRIPTS, "text/javascript")}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
ASKED_BY = "x-datacomp"
"""Header of every request: a form or an image of another site cannot send it."""
MAX_JSON, MAX_PICTURE = 1 << 20, 32 << 20
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def make_app(view: ExplorerApi) -> Starlette:
    """Return the application for one view, for this machine only."""
    return Starlette(routes=[*routes(lambda _: view)])


def routes(find: Find, *, only_loopback: bool = True) -> list[Route]:
    """Return the routes of a page below any path; `find` returns the view of a request."""
    return [Route(path, _guarded(answer, find, only_loopback), methods=[method]) for path, method, answer in _TABLE]


def _guarded(
    answer: Callable[[ExplorerApi, Request], Awaitable[Response]], find: Find, only_loopback: bool
) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        if only_loopback and urlsplit(f"//{request.headers.get('host', '')}").hostname not in LOOPBACK:
            return PlainTextResponse(
                "This page is only for the machine it runs on: open it as http://127.0.0.1:PORT/.", 421, HEADERS
            )
        if request.method == "POST" and request.headers.get(ASKED_BY) != "explore":
            return PlainTextResponse("The request did not come from the page: use the page to send it.", 403, HEADERS)
        try:
            found = await run_in_threadpool(find, request) if answer is not _file and answer is not _front else None
            if isinstance(found, str):
                response: Response = JSONResponse({"preparing": found}, 202)
            else:
                response = await answer(found, request)  # pyright: ignore[reportArgumentType]
        except HTTPException as problem:
            response = JSONResponse({"error": problem.detail}, problem.status_code)
        except ValidationError as problem:
            response = JSONResponse({"error": f"The request is invalid: {problem.errors()[0]['msg']}."}, 400)
        except DatacompError as problem:
            response = JSONResponse({"error": redact(str(problem))}, 400 if isinstance(problem, SpecError) else 404)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return handle


# Answers ---------------------------------------------------------------------------------------------------------------


async def _front(_: ExplorerApi, request: Request) -> Response:
    if not request.url.path.endswith("/"):
        return Response(status_code=307, headers={"Location": request.url.path.rpartition("/")[2] + "/"})
    return Response(_read("explore.html"), media_type="text/html; charset=utf-8", headers={"Cache-Control": "no-cache"})


async def _file(_: ExplorerApi, request: Request) -> Response:
    name = request.path_params["name"]
    if name not in FILES:
        raise HTTPException(404, "This file does not exist.")
    return Response(_read(name), media_type=f"{FILES[name]}; charset=utf-8", headers={"Cache-Control": "no-cache"})


@cache
def _read(name: str) -> bytes:
    return (LOOK if name == "look.css" else PAGE / name).read_bytes()


async def _about(view: ExplorerApi, _: Request) -> Response:
    return await _told(view.about)


async def _points(view: ExplorerApi, _: Request) -> Response:
    return Response(await run_in_threadpool(view.points), media_type="application/octet-stream")


async def _column(view: ExplorerApi, request: Request) -> Response:
    found = await run_in_threadpool(view.column, request.path_params["name"])
    if found is None:
        raise HTTPException(404, "This column does not exist.")
    return Response(found, media_type="application/octet-stream")


async def _search(view: ExplorerApi, request: Request) -> Response:
    asked = await _body(request, SearchRequest)
    return await _told(view.search, asked)


async def _search_picture(view: ExplorerApi, request: Request) -> Response:
    data = await _bytes(request, MAX_PICTURE)
    return await _told(view.search_picture, data, 60)


async def _judge(view: ExplorerApi, request: Request) -> Response:
    return await _told(view.judge, await _body(request, FacetRequest))


async def _count(view: ExplorerApi, request: Request) -> Response:
    return await _told(view.count, (await _body(request, FacetRequest)).wanted)


async def _counted(view: ExplorerApi, request: Request) -> Response:
    return await _told(view.counted, request.path_params["key"])


async def _recipe(view: ExplorerApi, request: Request) -> Response:
    wanted = (await _body(request, FacetRequest)).wanted
    tree, text = await run_in_threadpool(view.recipe, wanted)
    return JSONResponse({"filter": tree, "text": text})


async def _save(view: ExplorerApi, request: Request) -> Response:
    return await _told(view.save, await _body(request, SaveRequest))


async def _takedown(view: ExplorerApi, request: Request) -> Response:
    return await _told(view.takedown, await _body(request, TakedownRequest))


async def _reasons(view: ExplorerApi, request: Request) -> Response:
    return await _told(view.reasons, request.path_params["method"])


async def _pair(view: ExplorerApi, request: Request) -> Response:
    return await _told(view.pair, request.path_params["row"])


async def _cards(view: ExplorerApi, request: Request) -> Response:
    given = request.query_params.get("rows", "")
    if not all(row.isdecimal() for row in given.split(",") if row):
        raise HTTPException(400, "Rows are not a list of numbers: separate numbers with commas.")
    return await _told(view.cards, [int(row) for row in given.split(",") if row])


async def _groups(view: ExplorerApi, request: Request) -> Response:
    try:
        at_least = float(request.query_params.get("at_least", "0.99"))
    except ValueError:
        raise HTTPException(400, "at_least must be a number from 0.9 to 1.") from None
    return await _told(view.groups, at_least)


async def _picture(view: ExplorerApi, request: Request) -> Response:
    try:
        data = await run_in_threadpool(view.picture, request.path_params["row"], request.path_params["size"])
    except DataError as problem:  # an invalid image is not a fault of the page
        return Response(status_code=204, headers={"X-Why": str(problem).encode("ascii", "replace").decode("ascii")})
    return Response(data, media_type="image/webp", headers={"Cache-Control": "private, max-age=3600"})


_TABLE: list[tuple[str, str, Callable[[Any, Request], Awaitable[Response]]]] = [
    ("/", "GET", _front),
    ("/{name:str}", "GET", _file),
    ("/api/about", "GET", _about),
    ("/api/points", "GET", _points),
    ("/api/column/{name:str}", "GET", _column),
    ("/api/cards", "GET", _cards),
    ("/api/pair/{row:int}", "GET", _pair),
    ("/api/picture/{size:int}/{row:int}", "GET", _picture),
    ("/api/groups", "GET", _groups),
    ("/api/reasons/{method:int}", "GET", _reasons),
    ("/api/count/{key:str}", "GET", _counted),
    ("/api/search", "POST", _search),
    ("/api/search/picture", "POST", _search_picture),
    ("/api/judge", "POST", _judge),
    ("/api/count", "POST", _count),
    ("/api/recipe", "POST", _recipe),
    ("/api/save", "POST", _save),
    ("/api/takedown", "POST", _takedown),
]


async def _told(ask: Callable[..., Any], *given: Any) -> Response:
    return JSONResponse(await run_in_threadpool(ask, *given))


async def _body(request: Request, kind: type[A]) -> A:
    return kind.model_validate_json(await _bytes(request, MAX_JSON))


async def _bytes(request: Request, most: int) -> bytes:
    """Return the body of a request. 413 if it is too large."""
    data = bytearray()
    async with asyncio.timeout(60):
        async for piece in request.stream():
            data += piece
            if len(data) > most:
                raise HTTPException(413, f"The request is too large: send at most {most:,} bytes.")
    return bytes(data)
