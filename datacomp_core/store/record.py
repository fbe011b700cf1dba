"""The record of one finished step, `_artifact.json`: written last, and the only truth of what is built.

It holds what was asked (spec), from what (inputs), what came out (artifact, and a manifest of files with size and sha256),
how it was run (options, host, versions, timings). It never holds a secret: options are reduced to plain values.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import io
import os
import platform
import socket
import sys
from datetime import UTC, datetime
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.store.folder import FileStat

RECORD = "_artifact.json"
MANIFEST = "_manifest.parquet"
LIBRARIES = ("torch", "open_clip_torch", "webdataset", "img2dataset", "polars", "faiss-cpu", "clip-benchmark", "numpy", "pillow")


class Outputs(BaseModel):
    """What a step wrote. The files themselves stand in `_manifest.parquet` beside the record, whatever their number."""

    model_config = ConfigDict(frozen=True)
    num_files: int
    num_bytes: int
    manifest_sha256: str


class Record(BaseModel):
    """See the module. `inputs` maps a parameter's name to the addresses and fingerprints it was given."""

    model_config = ConfigDict(frozen=True)
    kind: str
    version: int
    address: str
    fingerprint: str
    spec: dict[str, Any]
    inputs: dict[str, list[dict[str, str]]]
    artifact: dict[str, Any]
    outputs: Outputs
    options: dict[str, Any] = Field(default_factory=dict)
    started: str
    seconds: float
    attempts: int = 1
    host: dict[str, Any]
    versions: dict[str, str]
    adopted_from: str | None = None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def manifest_bytes(files: list[FileStat]) -> bytes:
    """The manifest as parquet: path, size, sha256 (empty for adopted files, which are not read), sorted by path."""
    rows = sorted(files)
    table = pl.DataFrame(
        {"path": [f.path for f in rows], "size": [f.size for f in rows], "sha256": [f.sha256 for f in rows]},
        schema={"path": pl.String, "size": pl.Int64, "sha256": pl.String},
    )
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def host() -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return {"name": socket.gethostname(), "user": user, "cpus": os.cpu_count(), "platform": platform.platform()}


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("datacomp", *LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def plain_options(options: dict[str, Any]) -> dict[str, Any]:
    """How a step was run, as far as it is plain: numbers and words. Handles, callbacks and settings are left out."""
    return {name: value for name, value in options.items() if isinstance(value, (int, float, str)) or value is None}
