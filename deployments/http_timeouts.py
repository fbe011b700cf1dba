"""Limits every wait and the number of connections in uvicorn's HTTP/1.1, which otherwise waits for a client without a limit."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 15.0
READ_SECONDS = 60.0
MOST_CONNECTIONS = 200


class BoundedProtocol(H11Protocol):
    """Closes a connection that keeps the server waiting.

    A complete request, including headers, must arrive within `header_seconds` of the connection or of the previous response.
    The application decides how fast a body must arrive. Once the response is complete, the unread rest of a body also has
    `header_seconds`. A client that does not read its response for `read_seconds` is disconnected.
    """

    header_seconds = HEADER_SECONDS
    read_seconds = READ_SECONDS
    most_connections = MOST_CONNECTIONS

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most_connections:
            transport.abort()
            return
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_answering():
            self._stop()

    def on_response_complete(self) -> None:
        self._stop()
        self._wait()
        super().on_response_complete()
        if self._is_answering():  # a pipelined request
            self._stop()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._read()
        self._unread = asyncio.get_running_loop().call_later(self.read_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read()

    def _is_answering(self) -> bool:
        """Return whether a complete request has arrived and its response is incomplete."""
        return self.conn.their_state is not h11.IDLE and self.cycle is not None and not self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    def _wait(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(self.header_seconds, self.transport.abort)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _read(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
