"""Fetches the metadata of CommonPool and DataComp-1B from the hub, at one commit, every file with the hub's hash, complete or
not at all. `HF_ENDPOINT` sets a mirror, `HF_TOKEN` the account. Nested folders (xlarge) are flattened, as in the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from datacomp_core import hub
from datacomp_core.artifacts import Pool, Spec
from datacomp_core.errors import DataError
from datacomp_core.parts import METADATA
from datacomp_core.pool.footers import count_rows
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.scales import SCALES
from datacomp_core.store import Folder, step

HUBS = {name: row.hub for name, row in SCALES.items() if row.hub is not None} | {"datacomp_1b": "mlfoundations/datacomp_1b"}
"""Hub data sets by scale, and DataComp-1B."""
if TYPE_CHECKING:
    CommonScale = str
else:
    CommonScale = Literal[tuple(HUBS)]  # a form offers the scales of the table


class HubPoolSpec(Spec):
    """A pool of the competition, or DataComp-1B: its metadata as on the hub."""

    scale: CommonScale = Field(default="small", description="The pool.")
    revision: str = Field(
        default="main",
        min_length=1,
        description="Commit, tag or branch; give a commit to always get the same metadata. The commit of a branch is "
        "recorded and is part of the pool's fingerprint.",
    )
    features: Literal["leave", "fetch"] = Field(
        default="leave", description="Whether to fetch the npz features too: 25 times the size of the parquets."
    )

    def label(self) -> str:
        return self.scale if self.features == "leave" else f"{self.scale}-features"

    @property
    def repository(self) -> str:
        return HUBS[self.scale]


@step("pools", version=1)
def fetch_metadata(
    spec: HubPoolSpec,
    *,
    out: Folder,
    workers: int = 8,
    progress: Progress = NO_PROGRESS,
) -> Pool:
    """`metadata/<part>.parquet` (and `.npz` if requested), and `metadata/hub.json` with the commit and every file's sha256.

    `workers` files are fetched at once. Files of an interrupted run are checked and kept. DataError if the hub lists no
    parquet, two with one name, or features without a parquet; StoreError if it cannot be reached.
    """
    found = hub.snapshot("dataset", spec.repository, spec.revision)
    files = [file for file in found.files if _wanted(file.path, spec)]
    _check_names([file.path for file in files], spec)
    progress.start(sum(file.size for file in files), "bytes")
    wanted = {file.path for file in files}
    metadata = out / METADATA
    hub.fetch(found, metadata, only=wanted.__contains__, threads=workers, fetched=progress.advance, place=_flat)
    parts = [_flat(path) for path in sorted(wanted) if path.endswith(".parquet")]
    return Pool(
        num_samples=count_rows(metadata, [part.removesuffix(".parquet") for part in parts], needed=("uid", "url", "text")),
        num_parts=len(parts),
        content=found.commit,
        counts={"files": len(files), "bytes": sum(file.size for file in files)},
    )


def _wanted(path: str, spec: HubPoolSpec) -> bool:
    return path.endswith(".parquet") or (spec.features == "fetch" and path.endswith(".npz"))


def _flat(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _check_names(paths: list[str], spec: HubPoolSpec) -> None:
    names = [_flat(path) for path in paths]
    where = f"The hub's data set {spec.repository}"
    parts = {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}
    if not parts:
        raise DataError(f"{where} has no parquet, so it is not a pool's metadata: give the data set of a pool.")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where} has two files named {twice} in different folders, which cannot be flattened: rename one.")
    features = {name.removesuffix(".npz") for name in names if name.endswith(".npz")}
    if features and (alone := sorted(features ^ parts)):
        raise DataError(
            f"{where} has no parquet and npz of the same name for {alone[0]!r}, so its features cannot be used: "
            "fetch the metadata without features."
        )
