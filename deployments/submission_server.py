"""Serves submissions over HTTP: a token is needed to send a bundle; everybody can read verdicts and the board. It listens on
loopback by default; put a TLS proxy in front of it to serve others. A bundle is streamed to disk, never held in memory. A
client that sends nothing, or sends too slowly, is disconnected. Pages are built once per state of the board.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.requests import ClientDisconnect

from datacomp_core.errors import DatacompError, DataError
from datacomp_core.leaderboard.board.board import images_in, make_board
from datacomp_core.leaderboard.entries.entry import Entry
from datacomp_core.leaderboard.site.board_page import page
from datacomp_core.leaderboard.submission import access_tokens
from datacomp_core.leaderboard.submission.inbox import BundleTooLargeError, NoSpaceError, NotYoursError, SubmissionInbox
from datacomp_core.scales import SCALES

log = logging.getLogger(__name__)
SCHEME = "Bearer "
READ = ["GET", "HEAD"]
IDLE_SECONDS = 30
"""Longest time between two pieces of a body."""
SLOWEST = 64 << 10
"""Minimum average rate of a body in bytes per second, after GRACE_SECONDS."""
GRACE_SECONDS = 60


def make_app(
    inbox: SubmissionInbox, token_file: Path, *, idle_seconds: float = IDLE_SECONDS, grace_seconds: float = GRACE_SECONDS
) -> FastAPI:
    """Return the application. Tokens are read again at each request, so that one can be revoked while it runs."""
    app = FastAPI(title="DataComp leaderboard", openapi_url=None, docs_url=None, redoc_url=None)
    shown, judging = _Shown(inbox), asyncio.Lock()

    app.add_exception_handler(DatacompError, _unreadable)

    def sender(authorization: Annotated[str, Header()] = "") -> tuple[str, access_tokens.Sender]:
        try:
            known = access_tokens.read(token_file)
        except DataError as problem:
            log.error("cannot accept bundles: %s", problem)
            raise HTTPException(503, "The tokens of this board cannot be read now: contact its operator.") from None
        name = access_tokens.owner(known, authorization.removeprefix(SCHEME)) if authorization.startswith(SCHEME) else None
        if name is None:
            raise HTTPException(401, "A token is missing: send Authorization: Bearer dc_...", {"WWW-Authenticate": "Bearer"})
        return name, known[name]

    @app.post("/submissions")
    async def submit(  # pyright: ignore[reportUnusedFunction]
        request: Request,
        by: tuple[str, access_tokens.Sender] = Depends(sender),
        content_length: Annotated[int | None, Header()] = None,
    ) -> Response:
        announced = content_length or 0
        if announced > inbox.max_bytes:
            raise HTTPException(413, f"The bundle is too large: this board accepts at most {inbox.max_bytes:,} bytes.")
        try:
            inbox.require_space(2 * announced)
            received, sha256 = await inbox.receive(_in_time(request.stream(), idle_seconds, grace_seconds))
            async with judging:  # waiting here blocks no thread, so that the board can be read meanwhile
                made = await run_in_threadpool(inbox.judge, received, sha256, by[0], by[1].keys)
        except BundleTooLargeError as problem:
            raise HTTPException(413, str(problem)) from problem
        except NoSpaceError as problem:
            raise HTTPException(507, str(problem)) from problem
        except TimeoutError:
            raise HTTPException(
                408, "The bundle arrived too slowly: send it again over a faster connection.", {"Connection": "close"}
            ) from None
        except ClientDisconnect:
            log.info("a sender disconnected before its bundle was complete: %r", by[0])
            return Response(status_code=400)
        except DatacompError as problem:  # a fault of the board, not of the bundle
            log.error("a bundle of %r could not be checked: %s", by[0], problem)
            raise HTTPException(503, "This board cannot check the bundle now: try again later.") from problem
        return JSONResponse(made.model_dump(mode="json"), 422 if made.status == "rejected" else 201)

    @app.delete("/submissions/{id_}")
    def withdraw(id_: str, by: tuple[str, access_tokens.Sender] = Depends(sender)) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        try:
            made = inbox.withdraw(id_, by[0])
        except NotYoursError as problem:
            raise HTTPException(403, str(problem)) from problem
        if made is None:
            raise HTTPException(404, f"There is no published submission {id_[:40]!r}.")
        return made.model_dump(mode="json")

    @app.api_route("/submissions", methods=READ)
    def submissions() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(shown.get("", "list"), media_type="application/json")

    @app.api_route("/submissions/{id_}", methods=READ)
    def submission(id_: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        made = inbox.submission(id_)
        if made is None:
            raise HTTPException(404, f"There is no submission {id_[:40]!r}.")
        return JSONResponse(made.model_dump(mode="json"))

    @app.api_route("/board/{scale}", methods=READ)
    def board_as_json(scale: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(shown.get(_known(scale), "json"), media_type="application/json")

    @app.api_route("/", methods=READ)
    def front() -> Response:  # pyright: ignore[reportUnusedFunction]
        return HTMLResponse(shown.get("", "page"))

    @app.api_route("/{scale}.html", methods=READ)
    def of_scale(scale: str) -> Response:  # pyright: ignore[reportUnusedFunction]
        return HTMLResponse(shown.get(_known(scale), "page"))

    return app


def _unreadable(_: Request, problem: Exception) -> Response:
    log.error("the board cannot be read: %s", problem)
    return JSONResponse({"detail": "This board cannot be read now: try again later."}, 503)


def _known(scale: str) -> str:
    if scale not in SCALES:
        raise HTTPException(404, f"There is no scale {scale[:40]!r}.")
    return scale


async def _in_time(chunks: AsyncIterator[bytes], idle_seconds: float, grace_seconds: float) -> AsyncIterator[bytes]:
    """Yield the pieces of a body; TimeoutError if the next piece, or the whole body, takes too long."""
    began, size = time.monotonic(), 0
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                data = await anext(chunks)
        except StopAsyncIteration:
            return
        size += len(data)
        if time.monotonic() - began > grace_seconds + size / SLOWEST:
            raise TimeoutError
        yield data


class _Shown:
    """Pages, tables and the list of submissions, each built once per state of the board; concurrent requests wait."""

    def __init__(self, inbox: SubmissionInbox) -> None:
        self.inbox = inbox
        self._guard = threading.Lock()
        self._made: dict[tuple[str, str], bytes] = {}
        self._state: tuple[int, int] | None = None

    def get(self, scale: str, form: str) -> bytes:
        """The `page` or `json` of a scale (an empty scale is the smallest that has a row), or the `list` of submissions."""
        with self._guard:
            state = self.inbox.change()
            if state != self._state:
                self._made, self._state = {}, state
            if (scale, form) not in self._made:
                self._made[scale, form] = self._make(scale, form)
            return self._made[scale, form]

    def _make(self, scale: str, form: str) -> bytes:
        if form == "list":
            return json.dumps([made.model_dump(mode="json", exclude={"findings"}) for made in self.inbox.submissions()]).encode()
        there = self.inbox.entries()
        scale = scale or next((name for name in SCALES if any(entry.scale == name for _, entry in there)), "small")
        found = {address: entry for address, entry in there if entry.scale == scale}
        if form == "page":
            return page(self.inbox.board, scale, found=found).encode()
        return make_board(scale, found.items(), images_in(self.inbox.board)).model_dump_json().encode()


def evaluate_again(evalsets: str, *, device: str, workers: int) -> Callable[[Path, Entry], Mapping[str, float | None]]:
    """Evaluates a submitted checkpoint again on this server's own test sets, in a separate process."""
    from datacomp_core.evaluation.isolated_evaluation import evaluate_apart

    def again(checkpoint: Path, entry: Entry) -> Mapping[str, float | None]:
        return evaluate_apart(
            model=entry.model, suite=entry.suite, checkpoint=checkpoint, data=evalsets, device=device, workers=workers
        )

    return again


def serve(app: FastAPI, host: str, port: int) -> None:
    """Serve until interrupted."""
    import uvicorn

    uvicorn.Server(config(app, host, port)).run()


def config(app: FastAPI, host: str, port: int, **options: Any) -> Any:
    """Configure the server: few connections, and a client that sends no request in time is disconnected."""
    import uvicorn

    from deployments.http_timeouts import BoundedProtocol

    own: dict[str, Any] = {
        "http": BoundedProtocol,
        "ws": "none",
        "log_level": "info",
        "server_header": False,
        "timeout_keep_alive": 10,
        "limit_concurrency": 200,
    }
    given: dict[str, Any] = {**own, **options}
    return uvicorn.Config(app, host=host, port=port, **given)
