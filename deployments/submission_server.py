"""The board's desk over HTTP: bundles come in with a token, verdicts and the board are for everybody to read.

Loopback by default; put a proxy with TLS in front of it to serve others. A bundle is streamed to disk, never held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse

from datacomp_core.leaderboard.board import board, scales
from datacomp_core.leaderboard.entry import Entry
from datacomp_core.leaderboard.site.board_page import page
from datacomp_core.leaderboard.submission import tokens
from datacomp_core.leaderboard.submission.desk import Desk, TooLargeError
from datacomp_core.scales import SCALES

SCHEME = "Bearer "
SPARE = 1 << 30  # bytes that a received bundle must leave free on the disk


def make_app(desk: Desk, token_file: Path) -> FastAPI:
    """The application. Tokens are read anew at each request, so that one can be taken back while it runs."""
    app = FastAPI(title="DataComp leaderboard", openapi_url=None, docs_url=None, redoc_url=None)

    def sender(authorization: Annotated[str, Header()] = "") -> str:
        known = tokens.read(token_file)
        name = tokens.owner(known, authorization.removeprefix(SCHEME)) if authorization.startswith(SCHEME) else None
        if name is None:
            raise HTTPException(401, "A token is needed: Authorization: Bearer dc_...", {"WWW-Authenticate": "Bearer"})
        return name

    @app.post("/submissions")
    async def submit(  # pyright: ignore[reportUnusedFunction]
        request: Request,
        name: str = Depends(sender),
        content_length: Annotated[int | None, Header()] = None,
    ) -> JSONResponse:
        announced = content_length or 0
        if announced > desk.max_bytes:
            raise HTTPException(413, f"A bundle may have {desk.max_bytes:,} bytes here.")
        if desk.free_bytes() < announced + SPARE:
            raise HTTPException(507, "This server's disk is full: try again later.")
        try:
            received, sha256 = await desk.receive(request.stream())
        except TooLargeError as problem:
            raise HTTPException(413, str(problem)) from problem
        made = await run_in_threadpool(desk.judge, received, sha256, name)
        return JSONResponse(made.model_dump(mode="json"), 201 if made.status == "published" else 422)

    @app.get("/submissions")
    def submissions() -> list[dict[str, Any]]:  # pyright: ignore[reportUnusedFunction]
        return [made.model_dump(mode="json", exclude={"findings"}) for made in desk.submissions()]

    @app.get("/submissions/{id_}")
    def submission(id_: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        made = desk.submission(id_)
        if made is None:
            raise HTTPException(404, f"No submission {id_[:40]!r}.")
        return made.model_dump(mode="json")

    @app.get("/board/{scale}")
    def board_as_json(scale: str) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        if scale not in SCALES:
            raise HTTPException(404, f"No scale {scale[:40]!r}.")
        return board(desk.board, scale).model_dump(mode="json")

    @app.get("/", response_class=HTMLResponse)
    def front() -> str:  # pyright: ignore[reportUnusedFunction]
        return page(desk.board, next(iter(scales(desk.board)), "small"))

    @app.get("/{scale}.html", response_class=HTMLResponse)
    def of_scale(scale: str) -> str:  # pyright: ignore[reportUnusedFunction]
        if scale not in SCALES:
            raise HTTPException(404, f"No scale {scale[:40]!r}.")
        return page(desk.board, scale)

    return app


def evaluate_again(evalsets: str, *, device: str, workers: int) -> Callable[[Path, Entry], Mapping[str, float | None]]:
    """A second evaluation of a submitted checkpoint on this server's own test sets."""

    def again(checkpoint: Path, entry: Entry) -> Mapping[str, float | None]:
        from datacomp_core.evaluation.evaluate import EvalSpec, evaluate_folder
        from datacomp_core.store.folder import scratch

        with scratch() as out:
            report = evaluate_folder(
                model=entry.model,
                checkpoint=checkpoint,
                data=evalsets,
                out=str(out),
                spec=EvalSpec(suite=entry.suite),
                device=device,
                workers=workers,
            )
        return {task.key: task.value for task in report.tasks}

    return again


def serve(app: FastAPI, host: str, port: int) -> None:
    """Until it is interrupted."""
    import uvicorn

    uvicorn.run(app, host=host, port=port, log_level="info", server_header=False)
