"""Serves the Prefect server with our pages: one entry point for the UI, the API and the reports. `python -m
deployments.prefect_server`. Pages are read from the store, so it does not matter which machine wrote them. If
`PREFECT_SERVER_API_AUTH_STRING` is set, they require the same user and password as the API. The UI may load from and ask only
this server: no telemetry leaves the browser. The server checks for lost runs (`lost_runs.py`). It starts only if its database
stores events.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import os
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer
import uvicorn
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from datacomp_core.errors import DatacompError
from datacomp_core.settings import settings
from datacomp_core.store import Folder
from deployments import database, lost_runs
from deployments.explore.server_pages import door
from deployments.local_server import MARK, MARK_HEADER
from tasks.published import PAGES

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

DOOR = "/report"
RECORDER_TRIES = 300
"""About a second each: as long as events wait (`local_server.BATCHES`)."""
RETRY_SECONDS = 5
NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)*[A-Za-z0-9_][A-Za-z0-9._-]*")
TYPES = {".html": "text/html; charset=utf-8", ".png": "image/png", ".svg": "image/svg+xml"}
OF_A_PAGE = (
    "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'self'"
)
OF_THE_UI = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
"""Prefect's second UI asks a vendor host for its configuration; the browser blocks it."""


class ContentPolicy:
    """Adds the security policy to every answer that does not set its own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("Content-Security-Policy", OF_THE_UI)
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault(lost_runs.HEADER, "yes")
                if mark := os.environ.get(MARK):
                    headers.setdefault(MARK_HEADER, mark)
            await send(message)

        await self.app(scope, receive, with_policy if scope["type"] == "http" else send)


def make_app(pages: Folder) -> FastAPI:
    """Prefect's application, `GET /report/NAME` from the folder of pages, and `/explore/ADDRESS/` for artifacts of the store."""
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    secret = get_current_settings().server.api.auth_string
    expected = secret.get_secret_value() if secret is not None else ""

    async def page(request: Request) -> Response:
        if expected and not _knows(request.headers.get("authorization", ""), expected):
            return PlainTextResponse("A user and a password are required.", 401, {"WWW-Authenticate": 'Basic realm="datacomp"'})
        return await run_in_threadpool(_page, pages, request.path_params["name"])

    app = create_app(ignore_cache=True)  # it is changed below
    app.router.routes.insert(0, Route(f"{DOOR}/{{name:path}}", page))  # before Prefect's route, which answers every path
    app.router.routes.insert(0, door(lambda header: not expected or _knows(header, expected)))
    app.add_middleware(ContentPolicy)
    app.api_app.add_exception_handler(OSError, _without_database)  # pyright: ignore - Prefect keeps its API there
    app.router.lifespan_context = partial(_recording, app.router.lifespan_context)
    return app


@asynccontextmanager
async def _recording(prefects: Callable[[FastAPI], AbstractAsyncContextManager[Any]], app: FastAPI) -> AsyncGenerator[Any]:
    """Return Prefect's services with a task run recorder that waits for an unavailable database. Prefect's own drops the
    states of task runs after five tries, and only an argument of its `start` allows more.
    """
    from prefect.server.services.task_run_recorder import TaskRunRecorder

    async with prefects(app) as state:
        if TaskRunRecorder.enabled():
            yield state
            return
        recorder = TaskRunRecorder()
        recording = asyncio.create_task(recorder.start(max_persist_retries=RECORDER_TRIES))
        try:
            yield state
        finally:
            if not recording.done():
                await recorder.stop()
            await asyncio.wait([recording])


async def _without_database(_: Request, problem: Exception) -> Response:
    """Answer 503 while the database cannot be reached. Prefect answers 500, which its clients do not retry: a run that writes an
    artifact then ends. With the header, they retry until the database is back; a query that takes too long is retried five times.
    """
    headers = {} if isinstance(problem, TimeoutError) else {"Prefect-Maintenance": "true", "Retry-After": str(RETRY_SECONDS)}
    return JSONResponse({"exception_message": "The server cannot reach its database."}, 503, headers)


def _knows(header: str, expected: str) -> bool:
    scheme, _, given = header.partition(" ")
    wanted = base64.b64encode(expected.encode()).decode()
    return scheme.lower() == "basic" and hmac.compare_digest(given.strip(), wanted)


def _page(pages: Folder, name: str) -> Response:
    kind = TYPES.get(PurePosixPath(name).suffix)
    if kind is None or not NAME.fullmatch(name):
        return PlainTextResponse("This page does not exist.", 404)
    if not pages.exists(name):
        return PlainTextResponse("This page does not exist yet: a run of its scale writes it when it ends.", 404)
    data = pages.read(name)
    return Response(data, media_type=kind, headers={"Content-Security-Policy": OF_A_PAGE, "Cache-Control": "no-cache"})


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on.")] = 4200,
) -> None:
    """Serve the Prefect API and UI, and our pages, until a signal."""
    from prefect.settings import (
        PREFECT_API_DATABASE_CONNECTION_URL,
        PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED,
        get_current_settings,
        temporary_settings,
    )

    server = get_current_settings().server
    try:
        database.require(PREFECT_API_DATABASE_CONNECTION_URL.value())
    except DatacompError as problem:
        typer.echo(f"error: {problem}", err=True)
        raise typer.Exit(problem.exit_status) from None
    app = make_app(Folder(settings().store_url) / PAGES)
    stop = lost_runs.start(partial(_client, host, port))
    try:
        with temporary_settings({PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_ENABLED: False}):  # ours: see _recording
            uvicorn.run(
                app, host=host, port=port, timeout_keep_alive=server.api.keepalive_timeout, log_level=server.logging_level.lower()
            )
    finally:
        stop.set()


def _client(host: str, port: int) -> SyncPrefectClient:
    """Return a client of this server."""
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.settings import get_current_settings

    secret = get_current_settings().server.api.auth_string
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return SyncPrefectClient(f"http://{here}:{port}/api", auth_string=secret.get_secret_value() if secret else None)


if __name__ == "__main__":
    typer.run(serve)
