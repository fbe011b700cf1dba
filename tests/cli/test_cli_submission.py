"""The inbox over real HTTP, and the commands that pack, check and send: with tampered, partial, oversized and unknown senders."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import board_world as world
import pytest
import uvicorn

from datacomp_core.leaderboard.submission import access_tokens
from datacomp_core.leaderboard.submission.bundle import write_bundle
from datacomp_core.leaderboard.submission.inbox import SubmissionInbox
from datacomp_core.settings import settings
from datacomp_core.store import Store
from deployments.cli.main import main
from deployments.submission_server import make_app

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
MAX_BYTES = 2_000_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store.open(str(tmp_path_factory.mktemp("store")))
    world.true_run(made, "clip_score", world.results(0.14, 0))
    world.true_run(made, "no_filter", world.results(0.05, 0))
    return made


@pytest.fixture(scope="module")
def bundle(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bundles") / "good.tar"
    write_bundle(store, next(a for a in store.addresses("entries") if "clip_score" in a), out, checkpoint=True)
    return out


@contextmanager
def serving(folder: Path, **options: Any) -> Generator[tuple[str, str, SubmissionInbox]]:
    """A real server on a free port: its address, a good token, and its inbox."""
    folder.mkdir(parents=True, exist_ok=True)
    token = access_tokens.add(folder / "tokens.json", "alice")
    inbox = SubmissionInbox(folder / "desk", max_bytes=MAX_BYTES, **options)
    server = uvicorn.Server(uvicorn.Config(make_app(inbox, folder / "tokens.json"), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    for _ in range(400):
        if server.started:
            break
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", token, inbox
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture(scope="module")
def inbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, SubmissionInbox]]:
    with serving(tmp_path_factory.mktemp("served")) as made:
        yield made


def ask(url: str, data: Any = None, token: str = "") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, data=data, headers=headers, method="POST" if data is not None else "GET")
    try:
        with OPENER.open(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as problem:
        return problem.code, problem.read()


def kept(inbox: SubmissionInbox) -> set[str]:
    return {path.name for path in (inbox.folder / "submissions").iterdir()}


def test_a_good_bundle_is_published_and_kept(inbox: tuple[str, str, SubmissionInbox], bundle: Path) -> None:
    url, token, behind = inbox
    assert ask(url)[0] == 200, "an empty board has a page"
    status, body = ask(f"{url}/submissions", bundle.read_bytes(), token)
    told = json.loads(body)
    assert status == 201, told
    assert (told["status"], told["sender"], told["method"]) == ("published", "alice", "clip_score")
    board = json.loads(ask(f"{url}/board/tiny")[1])
    assert [row["method"] for row in board["rows"]] == ["clip_score"]
    assert board["rows"][0]["rank"] == 1
    assert b"clip_score" in ask(url)[1]
    assert (behind.folder / "submissions" / told["id"] / "bundle.tar").read_bytes() == bundle.read_bytes()
    assert json.loads(ask(f"{url}/submissions/{told['id']}")[1])["findings"]
    again = json.loads(ask(f"{url}/submissions", bundle.read_bytes(), token)[1])
    assert again["received"] == told["received"], "sending one twice is sending it once"
    assert len(json.loads(ask(f"{url}/submissions")[1])) == 1


@pytest.mark.parametrize("token", ["", "dc_wrong", "alice"])
def test_who_has_no_token_is_turned_away(inbox: tuple[str, str, SubmissionInbox], bundle: Path, token: str) -> None:
    url, _, behind = inbox
    before = kept(behind)
    status, body = ask(f"{url}/submissions", bundle.read_bytes(), token)
    assert status == 401
    assert "token" in json.loads(body)["detail"]
    assert kept(behind) == before
    assert list((behind.folder / "incoming").iterdir()) == []


def test_a_tampered_or_partial_bundle_is_refused_and_kept(inbox: tuple[str, str, SubmissionInbox], bundle: Path) -> None:
    url, token, behind = inbox
    data = bundle.read_bytes()
    place = data.index(b"\x93NUMPY") + 130
    for bad in (data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], data[: len(data) // 2]):
        status, body = ask(f"{url}/submissions", bad, token)
        told = json.loads(body)
        assert status == 422
        assert told["status"] == "rejected"
        assert any(finding["ok"] is False for finding in told["findings"])
        assert (behind.folder / "submissions" / told["id"] / "bundle.tar").read_bytes() == bad
    assert list((behind.folder / "incoming").iterdir()) == []


def test_an_oversized_bundle_is_refused_however_it_comes(inbox: tuple[str, str, SubmissionInbox]) -> None:
    """Announced, or as chunks without a length: it stops as soon as it is too much."""
    url, token, behind = inbox
    before = kept(behind)

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(100_000)

    for body in (bytes(MAX_BYTES + 1), endless()):
        try:
            status = ask(f"{url}/submissions", body, token)[0]
        except (urllib.error.URLError, ConnectionError):
            status = 413  # the server hung up while we were still sending
        assert status == 413
    assert kept(behind) == before
    assert list((behind.folder / "incoming").iterdir()) == []


@pytest.mark.slow
def test_a_board_that_evaluates_again_publishes_only_what_it_finds_too(store: Store, bundle: Path, tmp_path: Path) -> None:
    def honest(checkpoint: Path, entry: Any) -> dict[str, float | None]:
        return {task.key: task.value for task in entry.tasks}

    with serving(tmp_path / "honest", reevaluate=honest) as (url, token, _):
        assert ask(f"{url}/submissions", bundle.read_bytes(), token)[0] == 201
    with serving(tmp_path / "other", reevaluate=lambda *_: {"tiny/flags": 0.9}) as (url, token, _):
        status, body = ask(f"{url}/submissions", bundle.read_bytes(), token)
        assert status == 422
        assert json.loads(body)["findings"][-1]["rule"] == "evaluated again"
        assert json.loads(ask(f"{url}/board/tiny")[1])["rows"] == []


def test_what_is_not_there_is_a_404(inbox: tuple[str, str, SubmissionInbox]) -> None:
    url = inbox[0]
    for path in ("submissions/0000000000000000", "submissions/..%2F..%2Ftokens", "board/nowhere", "nowhere.html"):
        assert ask(f"{url}/{path}")[0] == 404


def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    monkeypatch.setattr(sys, "argv", ["datacomp", *arguments, "--json"])
    settings.cache_clear()
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    return int(str(ended.value.code)), json.loads(capfd.readouterr().out)


def test_the_commands_pack_check_and_send(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATACOMP_STORE", store.root.url)
    address = next(a for a in store.addresses("entries") if "no_filter" in a)
    out = tmp_path / "mine.tar"
    status, told = run(monkeypatch, capfd, "bundle", address, "--out", str(out), "--author", "me")
    assert status == 0
    assert told["bytes"] == out.stat().st_size
    assert run(monkeypatch, capfd, "verify", str(out))[0] == 0
    out_cut = tmp_path / "cut.tar"
    out_cut.write_bytes(out.read_bytes()[:-20_000])
    status, told = run(monkeypatch, capfd, "verify", str(out_cut))
    assert (status, told["ok"]) == (1, False)
    with serving(tmp_path / "served") as (url, token, _):
        monkeypatch.setenv("DATACOMP_TOKEN", token)
        assert run(monkeypatch, capfd, "submit", str(out), url)[1]["status"] == "published"
        monkeypatch.setenv("DATACOMP_TOKEN", "dc_other")
        large = tmp_path / "large.tar"  # more than the socket's buffers hold: the board refuses while it is still being sent
        large.write_bytes(bytes(64 << 20))
        for unwelcome in (out, large):
            status, told = run(monkeypatch, capfd, "submit", str(unwelcome), url)
            assert (status, told["http"]) == (1, 401)


def new_key(folder: Path, name: str) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True, timeout=60)
    return folder / name


@pytest.mark.slow
def test_signed_bundles_and_withdrawal(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where the board knows a key of the sender, it takes what this key signed alone; only the sender withdraws."""
    monkeypatch.setenv("DATACOMP_STORE", store.root.url)
    address = next(a for a in store.addresses("entries") if "no_filter" in a)
    own, other = new_key(tmp_path, "own"), new_key(tmp_path, "other")
    sent = {name: tmp_path / f"{name}.tar" for name in ("unsigned", "own", "other")}
    for name, out in sent.items():
        by = () if name == "unsigned" else ("--sign", str({"own": own, "other": other}[name]))
        assert run(monkeypatch, capfd, "bundle", address, "--out", str(out), *by)[0] == 0
    assert run(monkeypatch, capfd, "verify", str(sent["own"]))[0] == 0
    with serving(tmp_path / "served") as (url, _, inbox):
        file = tmp_path / "served" / "tokens.json"
        alice = access_tokens.add(file, "alice", key=Path(f"{own}.pub").read_text())
        bob = access_tokens.add(file, "bob")
        monkeypatch.setenv("DATACOMP_TOKEN", alice)
        for name in ("unsigned", "other"):
            status, told = run(monkeypatch, capfd, "submit", str(sent[name]), url)
            assert (status, told["http"]) == (1, 422)
            assert [found["rule"] for found in told["findings"] if found["ok"] is False] == ["signature"]
        status, told = run(monkeypatch, capfd, "submit", str(sent["own"]), url)
        assert (status, told["status"]) == (0, "published")
        assert [entry.submitted.signed for _, entry in inbox.entries() if entry.submitted] == [True]
        made = told["id"]
        monkeypatch.setenv("DATACOMP_TOKEN", bob)
        assert run(monkeypatch, capfd, "withdraw", made, url)[1]["http"] == 403
        assert len(json.loads(ask(f"{url}/board/tiny")[1])["rows"]) == 1
        monkeypatch.setenv("DATACOMP_TOKEN", "dc_nobody")
        assert run(monkeypatch, capfd, "withdraw", made, url)[1]["http"] == 401
        monkeypatch.setenv("DATACOMP_TOKEN", alice)
        status, told = run(monkeypatch, capfd, "withdraw", made, url)
        assert (status, told["status"]) == (0, "withdrawn")
        assert json.loads(ask(f"{url}/board/tiny")[1])["rows"] == []
        assert run(monkeypatch, capfd, "withdraw", "0" * 16, url)[0] == 1
        assert (inbox.folder / "submissions" / made / "bundle.tar").read_bytes() == sent["own"].read_bytes()
        told = [json.loads(line)["what"] for line in (inbox.folder / "decisions.jsonl").read_text().splitlines()]
        assert told == ["rejected", "rejected", "published", "withdrawn"]
