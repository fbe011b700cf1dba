"""Defines the record of one finished step, `_artifact.json`: written last, and the only truth of what is built. It contains
the request (spec), the inputs, the result (artifact, and a manifest of files with size and sha256), and how it was run
(options, host, versions, timings). It never contains a secret: options are reduced to plain values.

A run never removes a record. The replacement of a lost or changed artifact gets a record of the next generation,
`_artifact-2.json` and so on; the previous one is marked, possibly repeatedly, and kept. So a lost reply or a late run cannot
remove what another run published.
"""

from __future__ import annotations

import getpass
import hashlib
import importlib.metadata
import io
import os
import platform
import socket
import sys
import uuid
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.redaction import redact_all
from datacomp_core.store.folder import FileStat

RECORD = "_artifact.json"
MANIFEST = "_manifest.parquet"
State = Literal["built", "changing", "lost", "replaced"]
LIBRARIES = (
    "torch",
    "open_clip_torch",
    "transformers",
    "webdataset",
    "img2dataset",
    "polars",
    "faiss-cpu",
    "faiss-gpu",
    "numpy",
    "pillow",
    "simplejpeg",
    "clip-benchmark",
    "scikit-learn",
)


class Outputs(BaseModel):
    """The files that a step wrote. Their list is in `manifest`, beside the record, whatever their number.

    Each attempt to publish has a separate manifest, so that two runs never overwrite each other's.
    """

    model_config = ConfigDict(frozen=True)
    num_files: int
    num_bytes: int
    manifest_sha256: str
    manifest: str = Field(default=MANIFEST, pattern=r"^_manifest(-[0-9a-f]{1,32})?\.parquet$")


class Record(BaseModel):
    """See the module. `inputs` maps a parameter's name to the addresses and fingerprints it was given.

    `state`: "built" is in force; "changing" is being amended; "lost" and "replaced" are followed by the next
    generation; `why` says what happened.
    """

    model_config = ConfigDict(frozen=True)
    kind: str
    version: int
    address: str
    fingerprint: str
    spec: dict[str, Any]
    meaning: dict[str, Any] = Field(default_factory=dict, description="The specs reduced to what is hashed.")
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
    generation: int = 1
    state: State = "built"
    why: str = ""

    def marked(self, state: State, why: str = "") -> Record:
        return self.model_copy(update={"state": state, "why": why})

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode("utf-8")

    @property
    def data(self) -> str:
        """The place of its files, as in `Artifact.data`."""
        return str(self.artifact["data"])


def record_name(generation: int) -> str:
    """The file of the record of a generation, counted from 1."""
    return RECORD if generation == 1 else f"_artifact-{generation}.json"


def is_record(name: str) -> bool:
    """Whether a file of that name is a record of some generation."""
    last = name.rsplit("/", 1)[-1]
    return last == RECORD or (last.startswith("_artifact-") and last.endswith(".json"))


def manifests_of(attempt: str) -> str:
    """Return the common start of the names of an attempt's manifests."""
    return f"_manifest-{attempt.rpartition('-')[2]}"


def outputs_of(files: list[FileStat], attempt: str = "") -> tuple[Outputs, bytes]:
    """Return a record's description of its files, and the manifest that it names, whose name starts with the attempt's digits."""
    data = manifest_bytes(files)
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"{manifests_of(attempt)}{uuid.uuid4().hex[:8]}.parquet"
    return Outputs(num_files=len(files), num_bytes=sum(f.size for f in files), manifest_sha256=sha256, manifest=name), data


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
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("datacomp", *LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def plain_options(options: dict[str, Any]) -> dict[str, Any]:
    """How a step was run, as far as it is plain: numbers and words, urls without their secrets. Handles are left out."""
    plain = {name: value for name, value in options.items() if isinstance(value, (int, float, str)) or value is None}
    return redact_all(plain)


def describe(record: Record) -> dict[str, Any]:
    """A record as a person wants it: plain values in reading order."""
    return {
        "address": record.address,
        "fingerprint": record.fingerprint,
        "built": record.started,
        "seconds": record.seconds,
        "files": record.outputs.num_files,
        "bytes": record.outputs.num_bytes,
        "spec": record.spec,
        "inputs": record.inputs,
        "counts": record.artifact.get("counts", {}),
        "options": record.options,
        "host": record.host,
        "versions": record.versions,
    }
