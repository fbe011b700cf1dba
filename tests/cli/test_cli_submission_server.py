"""The board's server against clients that stall, hang up or ask oddly, and with a file of tokens that is broken."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from datacomp_core.errors import DataError
from datacomp_core.leaderboard.submission import access_tokens
from datacomp_core.leaderboard.submission.inbox import Submission, SubmissionInbox
from deployments.http_timeouts import BoundedProtocol
from deployments.submission_server import config, make_app

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class _Hasty(BoundedProtocol):
    header_seconds = 1.0
    read_seconds = 1.0
    most_connections = 20


class _Busy(SubmissionInbox):
    """An inbox that is at work on a bundle until it is told to go on."""

    go_on = threading.Event()

    def judge(self, received: Path, sha256: str, sender: str, keys: tuple[str, ...] = ()) -> Submission:
        self.go_on.wait(120)
        raise DataError("The test is over.")


@pytest.fixture
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[int, str, Path]]:
    """Port, a good token and the file of tokens of a server that waits a second."""
    file = tmp_path / "tokens.json"
    token = access_tokens.add(file, "alice")
    inbox = getattr(request, "param", SubmissionInbox)(tmp_path / "desk", max_bytes=1_000_000, spare_bytes=0)
    app = make_app(inbox, file, idle_seconds=1, grace_seconds=3)
    server = uvicorn.Server(config(app, "127.0.0.1", 0, http=_Hasty, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield server.servers[0].sockets[0].getsockname()[1], token, file
    server.should_exit = True
    thread.join(timeout=20)


def connected(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port))
    made.settimeout(60)  # so that a test of a server that waits for ever ends
    return made


def ended(connection: socket.socket) -> bytes:
    """All that comes until the server closes; a reset is an end too."""
    found = b""
    try:
        while data := connection.recv(65536):
            found += data
    except ConnectionError:
        pass
    return found


def ask(port: int, path: str, *, method: str = "GET", token: str = "", data: bytes | None = None) -> tuple[int, bytes]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data, headers=headers, method=method)
    try:
        with OPENER.open(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_who_stalls_is_cut_off(served: tuple[int, str, Path], caplog: pytest.LogCaptureFixture) -> None:
    port, token, file = served
    head = f"POST /submissions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 5000\r\n\r\n".encode()
    silent, half, slow = connected(port), connected(port), connected(port)
    half.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Half: ")
    slow.sendall(head + b"x" * 10)
    assert ended(silent) == b""
    assert ended(half) == b""
    assert ended(slow).startswith(b"HTTP/1.1 408")
    gone = connected(port)
    gone.sendall(head + b"x" * 10)
    gone.close()
    assert ask(port, "/")[0] == 200, "others are served meanwhile and after"
    assert list((file.parent / "desk" / "incoming").iterdir()) == []
    assert not [record for record in caplog.records if record.exc_info or "Traceback" in record.getMessage()]


def test_the_rest_of_a_body_that_nobody_reads_holds_no_connection(served: tuple[int, str, Path]) -> None:
    """The answer is given before the body has come; what trickles in after it does not keep the connection open."""
    port = served[0]
    for head in ("POST / HTTP/1.1", "POST /submissions HTTP/1.1", "GET / HTTP/1.1"):
        trickling = connected(port)
        trickling.sendall(f"{head}\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
        with pytest.raises(ConnectionError):
            for _ in range(600):
                trickling.sendall(b"x")
                time.sleep(0.1)
        trickling.close()


def test_who_does_not_read_an_answer_is_cut_off(served: tuple[int, str, Path]) -> None:
    port = served[0]
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.settimeout(60)
    deaf.connect(("127.0.0.1", port))
    with pytest.raises(ConnectionError):  # asked for thousands of pages, none of which is read
        for _ in range(600):
            deaf.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
            time.sleep(0.1)
    deaf.close()


def test_a_request_after_another_is_waited_for_anew(served: tuple[int, str, Path]) -> None:
    port = served[0]
    asking = connected(port)
    for _ in range(4):  # longer than one wait altogether
        asking.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert asking.recv(65536).startswith(b"HTTP/1.1 200")
        time.sleep(0.4)
    asking.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
    assert ended(asking).count(b"HTTP/1.1 200") == 3


def test_connections_are_few(served: tuple[int, str, Path]) -> None:
    port = served[0]
    held = [connected(port) for _ in range(60)]
    for connection in held:
        assert ended(connection) == b""
    assert ask(port, "/")[0] == 200


def test_a_broken_file_of_tokens_is_no_traceback(served: tuple[int, str, Path], caplog: pytest.LogCaptureFixture) -> None:
    port, token, file = served
    for broken in (b"", b"{", b"[]", b'{"alice": 3}', b"[" * 100_000, b'{"alice": {"token": "x"}}', b"\xff"):
        file.write_bytes(broken)
        status, body = ask(port, "/submissions", method="POST", token=token, data=b"x")
        assert status == 503
        assert str(file) not in body.decode()
    file.unlink()
    assert ask(port, "/submissions", method="POST", token=token, data=b"x")[0] == 503
    assert ask(port, "/")[0] == 200
    assert not [record for record in caplog.records if record.exc_info]
    assert any(record.levelno == logging.ERROR for record in caplog.records)


def test_head_and_odd_methods(served: tuple[int, str, Path]) -> None:
    port, token, _ = served
    for path in ("/", "/tiny.html", "/board/tiny", "/submissions"):
        assert ask(port, path, method="HEAD") == (200, b"")
    assert ask(port, "/submissions/0000000000000000", method="HEAD")[0] == 404
    assert ask(port, "/", method="PUT", data=b"x")[0] == 405
    assert ask(port, "/submissions/0000000000000000", method="DELETE", token=token)[0] == 404
    assert ask(port, "/submissions/0000000000000000", method="DELETE")[0] == 401
    assert json.loads(ask(port, "/submissions")[1]) == []


@pytest.mark.parametrize("served", [_Busy], indirect=True)
def test_the_board_is_read_while_bundles_wait_for_their_check(served: tuple[int, str, Path]) -> None:
    """More of them than the server has threads."""
    port, token, _ = served
    head = f"POST /submissions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 1\r\n\r\nx".encode()
    _Hasty.most_connections = 100
    try:
        waiting = [connected(port) for _ in range(60)]
        for each in waiting:
            each.sendall(head)
        time.sleep(1)
        assert ask(port, "/")[0] == 200
        for each in waiting[1:]:
            each.close()
        _Busy.go_on.set()
        assert ended(waiting[0]).startswith(b"HTTP/1.1 503")
    finally:
        _Hasty.most_connections = 20
        _Busy.go_on.set()
