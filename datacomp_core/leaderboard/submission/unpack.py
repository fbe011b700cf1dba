"""A bundle out of its tar, trusting nothing: plain files with known names, as many and as large as its manifest says.

Only what belongs in a bundle comes out, into a folder of its own; a hostile archive is refused at its first lie.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datacomp_core.errors import DataError
from datacomp_core.leaderboard.submission.bundle import BLOCK, FORMAT, LIST

NAMES = re.compile(
    r"entry\.json|hits\.npz|results\.jsonl|report\.json|checkpoint\.pt|method\.md|samples/[\w.+-]{1,200}"
    r"|records/[a-z]{1,30}/[\w.+-]{1,80}/[\w.+-]{1,100}/(_artifact\.json|_manifest\.parquet)"
)
MAX_FILES = 100_000
MAX_LIST = 64 << 20
MAX_SMALL = 512 << 20
LARGE = re.compile(r"checkpoint\.pt|samples/.*")


class File(BaseModel):
    """What the manifest says of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Listing(BaseModel):
    """The manifest of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = Field(ge=1, le=FORMAT)
    entry: str = Field(pattern=r"^entries/[\w.+-]+/[\w.+-]+$")
    files: dict[str, File] = Field(max_length=MAX_FILES)


def unpack(bundle: Path, out: Path) -> Listing:
    """Take a bundle's files into the empty folder `out`. DataError names the first thing that is wrong with it."""
    try:
        with tarfile.open(bundle, "r:") as archive:  # no compression: nothing in it can grow
            listing = _listing(archive)
            left = dict(listing.files)
            while (member := archive.next()) is not None:
                _take(archive, member, left, out)
    except (tarfile.TarError, OSError, EOFError) as problem:
        raise DataError(f"The bundle is not a whole tar archive: {problem}") from problem
    if left:
        raise DataError(f"The bundle lacks {len(left)} of the files that its manifest names, such as {next(iter(left))}.")
    return listing


def _listing(archive: tarfile.TarFile) -> Listing:
    first = archive.next()
    if first is None or first.name != LIST or not first.isreg() or first.size > MAX_LIST:
        raise DataError(f"This is no bundle: its first member must be {LIST}.")
    try:
        return Listing.model_validate_json(_reader(archive, first).read())
    except ValidationError as problem:
        fault = problem.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise DataError(f"{LIST} of the bundle is wrong at {where!r}: {fault['msg']}.") from problem


def _take(archive: tarfile.TarFile, member: tarfile.TarInfo, left: dict[str, File], out: Path) -> None:
    name = member.name
    if member.type != tarfile.REGTYPE or not NAMES.fullmatch(name) or ".." in name.split("/"):
        raise DataError(f"The bundle holds {name!r}, which has no place in a bundle.")
    if (wanted := left.pop(name, None)) is None:
        raise DataError(f"The bundle holds {name!r}, which its manifest does not name (or it comes twice).")
    if member.size != wanted.size or (member.size > MAX_SMALL and not LARGE.fullmatch(name)):
        raise DataError(f"{name} of the bundle has {member.size} bytes; its manifest says {wanted.size}.")
    target, found = out / name, hashlib.sha256()
    target.parent.mkdir(parents=True, exist_ok=True)
    source = _reader(archive, member)
    with target.open("xb") as file:
        while data := source.read(BLOCK):
            found.update(data)
            file.write(data)
    if found.hexdigest() != wanted.sha256:
        raise DataError(f"{name} of the bundle is not the file that its manifest names: its sha256 differs.")


def _reader(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(member)
    assert file is not None, "a regular member has content"
    return file


def results(data: bytes) -> dict[str, Any]:
    """Main metric by task key, from `results.jsonl` in the original's form. DataError if it is not one."""
    try:
        lines = [json.loads(line) for line in data.decode("utf-8").splitlines() if line.strip()]
        return {str(line["key"]): line["metrics"].get("main_metric") for line in lines}
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise DataError(f"results.jsonl is not in the form of the original's eval_results.jsonl: {problem!r}") from problem
