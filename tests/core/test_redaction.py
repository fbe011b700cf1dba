"""Secrets of urls: out of errors, logs, tracebacks, records and bundles. Stores are for their owner alone."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from datacomp_core.errors import StoreError
from datacomp_core.redaction import install, redact
from datacomp_core.store import Store
from datacomp_core.store.record import plain_options

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (f"http://me:{SECRET}@proxy:3128", "http://***@proxy:3128"),
        (f"cannot reach https://{SECRET}@hub.example/x: refused", "cannot reach https://***@hub.example/x: refused"),
        (f"http://me:p@ss{SECRET}@proxy/", "http://***@proxy/"),
        (f"http://me:a/b{SECRET}@proxy/x", "http://***@proxy/x"),
        (f"s3://key:{SECRET}@bucket/prefix and s3://bucket/other", "s3://***@bucket/prefix and s3://bucket/other"),
        (f"https://a.example/x?token={SECRET}&b=2#part", "https://a.example/x?token=***&b=***#part"),
        (f"https://a.example/x?{SECRET}", "https://a.example/x?***"),
        (f"Max retries exceeded with url: /x?sig={SECRET} (Caused by", "Max retries exceeded with url: /x?sig=*** (Caused by"),
        (f"me:{SECRET}@proxy:8080", "***@proxy:8080"),
        (f"Authorization: Bearer dc_{SECRET}{SECRET}", "Authorization: Bearer ***"),
        (f"http://me:o'br{SECRET}@proxy/x", "http://***@proxy/x"),
        (f"http://a.example/x?a='{SECRET}'", "http://a.example/x?a=***'"),
        (f"{{'http_proxy': 'me:{SECRET}@proxy:1'}}", "{'http_proxy': '***@proxy:1'}"),
        (f'{{"a":"http://h/x","b":"me:{SECRET}@proxy"}}', '{"a":"http://h/x","b":"***@proxy"}'),
        (f"hub.example/x?token={SECRET}: no scheme", "hub.example/x?token=*** no scheme"),
        (f"//me:{SECRET}@hub.example/x", "//***@hub.example/x"),
        (f"https://a.example/#access_token={SECRET}", "https://a.example/#access_token=***"),
        ("basic filtering, and hf_hub_download of http://h/x", "basic filtering, and hf_hub_download of http://h/x"),
        ("image pytest:latest@sha256:00ff", "image pytest:latest@sha256:00ff"),
        ("https://plain.example/a@b?", "https://plain.example/a@b?"),
        ("write to someone@example.org", "write to someone@example.org"),
        ("127.0.0.1:4200/api and cuda:0", "127.0.0.1:4200/api and cuda:0"),
    ],
)
def test_a_url_keeps_what_a_reader_needs(text: str, clean: str) -> None:
    assert redact(text) == clean
    assert redact(clean) == clean


@pytest.mark.parametrize("piece", ["http://a:", "a://", "http://x?", "url: /", "a:b", "http://a:'b'", "?a=b", "'", "@http://a"])
def test_a_long_text_of_a_stranger_takes_no_longer_than_its_length(piece: str) -> None:
    """In logs of a board stands what anybody asks for. At a cost that grows with the square, this would take hours."""
    text = piece * (1_000_000 // len(piece))
    assert SECRET not in redact(f"{text} http://me:{SECRET}@proxy")


def test_errors_and_options_of_records_have_none() -> None:
    assert SECRET not in str(StoreError(f"Cannot use s3://me:{SECRET}@bucket/x: no"))
    assert plain_options({"http_proxy": f"http://me:{SECRET}@proxy", "workers": 3, "on": True}) == {
        "http_proxy": "http://***@proxy",
        "workers": 3,
        "on": True,
    }


def test_log_records_and_their_tracebacks_have_none(capfd: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogRecordFactory()
    install()
    log, handler = logging.getLogger("datacomp_core.redaction.test"), logging.StreamHandler(sys.stderr)
    log.addHandler(handler)
    try:
        log.warning("asking %s", f"http://me:{SECRET}@proxy")
        try:
            raise ValueError(f"https://a.example/?key={SECRET}")
        except ValueError:
            log.exception("it failed")
    finally:
        log.removeHandler(handler)
        logging.setLogRecordFactory(before)
    told = capfd.readouterr().err
    assert SECRET not in told
    assert "asking http://***@proxy" in told
    assert "Traceback" in told


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"http://127.0.0.1:9/?k={SECRET}", "cannot be reached"),
        (f"http://me:{SECRET}@127.0.0.1:9/", "contains a user or a password"),
    ],
)
def test_the_command_line_prints_none(tmp_path: Path, url: str, told: str) -> None:
    command = [sys.executable, "-m", "deployments.cli", "submit", str(Path(__file__)), url]
    environment = {
        "PATH": "/usr/bin:/bin",
        "DATACOMP_TOKEN": f"dc_{SECRET}",
        "DATACOMP_HOME": str(tmp_path),
        "HOME": str(tmp_path),
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode != 0
    assert told in " ".join(done.stderr.split()), done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_a_new_store_is_for_its_owner_alone(tmp_path: Path) -> None:
    Store.open(str(tmp_path / "new" / "store"))
    assert (tmp_path / "new" / "store").stat().st_mode & 0o777 == 0o700
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    shared.chmod(0o755)
    Store.open(str(shared))
    assert shared.stat().st_mode & 0o777 == 0o755, "one that was there keeps the rights that it was given"


def test_the_local_database_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datacomp_core.settings import settings
    from deployments.local_server import prepare_environment

    monkeypatch.setenv("DATACOMP_HOME", str(tmp_path / "home"))
    for name in ("PREFECT_API_URL", "PREFECT_HOME"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    settings.cache_clear()
    try:
        prepare_environment()
    finally:
        settings.cache_clear()
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "home" / "prefect").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "home" / "prefect" / "prefect.db").stat().st_mode & 0o777 == 0o600
