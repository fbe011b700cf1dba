"""Waits for the database of the Prefect server, and refuses one in which the server would lose events. Prefect writes events
as JSON. PostgreSQL cannot store a letter outside ASCII in a database with the encoding SQL_ASCII. The server then drops whole
batches of events without an error: heartbeats, crashes and finished trainings are lost.
"""

from __future__ import annotations

import asyncio
import logging
import time

from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from datacomp_core.errors import DatacompError

logger = logging.getLogger(__name__)
PATIENCE_SECONDS = 600
EVERY_SECONDS = 2
REFUSALS = {"28P01", "28000", "3D000", "42501"}  # password, user, database, rights
ENCODING = "UTF8"


class DatabaseError(DatacompError):
    """The Prefect server cannot work with its database."""


def require(url: str, patience: float = PATIENCE_SECONDS) -> None:
    """Return when the database answers and can store every event. DatabaseError, in one sentence, if it does not."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        asyncio.run(_require(parsed, patience))


async def _require(url: URL, patience: float) -> None:
    where = f"{url.host}:{url.port or 5432}/{url.database}"
    until, told = time.monotonic() + patience, False
    engine = create_async_engine(url)
    try:
        while True:
            try:
                async with engine.connect() as connection:
                    encoding = (await connection.execute(text("SHOW server_encoding"))).scalar_one()
                break
            except Exception as problem:
                if not isinstance(problem, OSError) and not _state(problem):
                    raise
                if _state(problem) in REFUSALS:
                    raise DatabaseError(
                        f"The database {where} refuses the Prefect server: {_said(problem)}: correct the user, password and "
                        "name in PREFECT_API_DATABASE_CONNECTION_URL."
                    ) from None
                if time.monotonic() > until:
                    raise DatabaseError(
                        f"The database {where} did not answer within {patience:.0f} s ({_said(problem)}): start it first."
                    ) from None
            if not told:
                logger.warning("The database %s does not answer yet: waiting for it.", where)
                told = True
            await asyncio.sleep(EVERY_SECONDS)
    finally:
        await engine.dispose()
    if encoding != ENCODING:
        raise DatabaseError(
            f"The database {where} has the encoding {encoding}, in which the Prefect server loses events: create it again "
            f"(createdb --encoding={ENCODING} --template=template0 {url.database}) and restore your dump."
        )


def _cause(problem: BaseException) -> BaseException:
    return problem.orig if isinstance(problem, DBAPIError) and problem.orig is not None else problem


def _state(problem: BaseException) -> str:
    """Return the SQLSTATE of a database error raised by the driver or by SQLAlchemy, if there is one."""
    return getattr(_cause(problem), "sqlstate", None) or ""


def _said(problem: BaseException) -> str:
    text_ = str(_cause(problem)).splitlines()[0].rstrip(".")
    return text_.split(">: ", 1)[-1]  # SQLAlchemy puts the class of the error before the message
