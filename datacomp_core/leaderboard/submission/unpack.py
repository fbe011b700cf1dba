"""Unpacks an untrusted bundle: plain files with known names, in the number and sizes that its manifest states.

Only what belongs in a bundle comes out, into a folder of its own; a hostile archive is refused at its first false statement.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datacomp_core.errors import DataError
from datacomp_core.leaderboard.submission.bundle import BLOCK, FORMAT, LIST, SIGNATURE
from datacomp_core.leaderboard.submission.strict_tar import TarReader
from datacomp_core.untrusted_documents import parse_json

MIB = 1 << 20
MAX_FILES = 100_000
MAX_LIST = 32 * MIB
MAX_SIGNATURE = 16 << 10
# Every name that a bundle may contain, and the most bytes that a file of it may have; None: as many as the bundle has.
NAMES: tuple[tuple[re.Pattern[str], int | None], ...] = (
    (re.compile(r"records/[a-z]{1,30}/[\w.+-]{1,80}/[\w.+-]{1,100}/_artifact\.json"), 4 * MIB),
    (re.compile(r"records/[a-z]{1,30}/[\w.+-]{1,80}/[\w.+-]{1,100}/_manifest\.parquet"), 64 * MIB),
    (re.compile(r"entry\.json"), 4 * MIB),
    (re.compile(r"hits\.npz|predictions/[\w.+-]{1,200}\.npz"), 64 * MIB),
    (re.compile(r"results\.jsonl|report\.json|training\.json"), 32 * MIB),
    (re.compile(r"method\.md"), MIB),
    (re.compile(r"checkpoint\.pt|samples/[\w.+-]{1,200}"), None),
)


class BundleFile(BaseModel):
    """The manifest's line for one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class BundleManifest(BaseModel):
    """The manifest of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = Field(ge=1, le=FORMAT)
    entry: str = Field(pattern=r"^entries/[\w.+-]+/[\w.+-]+$", max_length=200)
    files: dict[str, BundleFile] = Field(max_length=MAX_FILES)


def unpack(bundle: Path, out: Path) -> BundleManifest:
    """Take a bundle's files into the empty folder `out`. DataError names the first thing that is wrong with it."""
    try:
        with bundle.open("rb") as file:
            reader = TarReader(file)
            headers = iter(reader)
            listing = _listing(reader, next(headers, None), bundle.stat().st_size, out)
            left = dict(listing.files)
            for number, header in enumerate(headers):
                if header.name == SIGNATURE and number == 0 and header.size <= MAX_SIGNATURE:
                    (out / SIGNATURE).write_bytes(reader.read(MAX_SIGNATURE))
                else:
                    _take(reader, header.name, header.size, left, out)
    except OSError as problem:
        raise DataError(f"Cannot unpack the bundle: {problem.strerror or problem}.") from problem
    if left:
        raise DataError(f"The bundle lacks {len(left)} of the files that its manifest names, such as {next(iter(left))}.")
    return listing


def most_bytes(name: str) -> int | None:
    """How large a file of a bundle may be; None: as large as the bundle. DataError if a bundle must not contain it."""
    for pattern, most in NAMES:
        if pattern.fullmatch(name) and not {".", ".."} & set(name.split("/")):
            return most
    raise DataError(f"The bundle contains {name[:200]!r}, which is not allowed in a bundle.")


def _listing(reader: TarReader, first: Any, num_bytes: int, out: Path) -> BundleManifest:
    if first is None or first.name != LIST or first.size > MAX_LIST:
        raise DataError(f"This is not a bundle: its first member must be {LIST}.")
    data = b"".join(iter(lambda: reader.read(BLOCK), b""))
    try:
        listing = BundleManifest.model_validate(parse_json(data, LIST))
    except ValidationError as problem:
        fault = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])[:200]
        raise DataError(f"{LIST} of the bundle is wrong at {where!r}: {fault['msg']}.") from problem
    if sum(file.size for file in listing.files.values()) > num_bytes:
        raise DataError(f"{LIST} of the bundle names more bytes than the bundle contains.")
    (out / LIST).write_bytes(data)
    return listing


def _take(reader: TarReader, name: str, size: int, left: dict[str, BundleFile], out: Path) -> None:
    most = most_bytes(name)
    if (wanted := left.pop(name, None)) is None:
        raise DataError(f"The bundle contains {name!r}, which its manifest does not name (or which comes twice).")
    if size != wanted.size:
        raise DataError(f"{name} of the bundle has {size} bytes; its manifest says {wanted.size}.")
    if most is not None and size > most:
        raise DataError(f"{name} of the bundle has {size:,} bytes; the limit is {most:,}.")
    target, found = out / name, hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        while data := reader.read(BLOCK):
            found.update(data)
            file.write(data)
    if found.hexdigest() != wanted.sha256:
        raise DataError(f"{name} of the bundle is not the file that its manifest names: its sha256 differs.")


def results(data: bytes) -> dict[str, Any]:
    """Main metric by task key, from `results.jsonl` in the original's form. DataError if it is not one."""
    try:
        lines = [parse_json(line, "a line of results.jsonl") for line in data.decode("utf-8").splitlines() if line.strip()]
        found = {str(line["key"]): line["metrics"].get("main_metric") for line in lines}
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise DataError(f"results.jsonl is not in the form of the original's eval_results.jsonl: {problem!r}") from problem
    if len(found) != len(lines):
        raise DataError("results.jsonl has a task twice.")
    return found
