"""Checks the data against the rules: the chosen uids are in the pool, and the captions are the pool's.

The work is bounded at every scale: all uids are compared, or none above a size limit; captions are compared on a sample, taken
where the metadata and the shards are in order. The report names what was not checked.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core import parts, shards, uid
from datacomp_core.leaderboard.entries.placement import PoolClaim
from datacomp_core.store import Folder
from datacomp_core.store.folder import scratch
from datacomp_core.subset_files import SUBSET, Overlap, SubsetFile, overlap

MAX_POOL_ROWS = 20_000_000
MAX_PARTS = 8
MAX_SHARDS = 64
MAX_CAPTIONS = 2_000


class DataCheck(BaseModel):
    """Counts; None where nothing was looked at."""

    model_config = ConfigDict(frozen=True)
    uids: int | None = Field(default=None, description="Distinct uids of the subset that were looked up in the pool.")
    foreign: int = Field(default=0, description="How many of these are not in the pool.")
    captions: int | None = Field(default=None, description="Training samples whose caption was compared with the pool's.")
    edited: int = Field(default=0, description="How many of these have another caption.")
    example: str = Field(default="", description="A uid that breaks a rule.")
    claim: PoolClaim | None = Field(
        default=None, description="Whether the pool is what it states to be; None if this was not checked."
    )


def check_data(subset: Folder, pool: Folder | None, num_rows: int, trained: Folder) -> DataCheck:
    """Compare a subset and its training shards with the pool they came from (a folder with `metadata/`), if there is one."""
    if pool is None:
        return DataCheck()
    num_captions, edited = compare_captions(trained, pool)
    found = DataCheck(captions=num_captions, edited=len(edited), example=next(iter(edited), ""))
    if num_rows > MAX_POOL_ROWS:
        return found
    both = against_pool(subset, pool)
    return found.model_copy(
        update={
            "uids": both.unique[0],
            "foreign": both.unique[0] - both.shared,
            "example": next(iter([*both.only_first, found.example])),
        }
    )


def against_pool(subset: Folder, pool: Folder) -> Overlap:
    """The overlap of a subset with all uids of a pool's metadata: what only the subset has is not the pool's."""
    metadata = pool / parts.METADATA
    with scratch() as folder:
        packed = [uid.pack(parts.scan(metadata, part).select("uid").collect()["uid"]) for part in parts.part_names(metadata)]
        with (folder / SUBSET).open("wb") as file:
            np.save(file, uid.sort(np.concatenate(packed)), allow_pickle=False)
        return overlap(SubsetFile(subset), SubsetFile(Folder(folder)))


def compare_captions(trained: Folder, pool: Folder) -> tuple[int | None, list[str]]:
    """Captions of some training samples against the metadata's: how many were compared, and the uids that differ."""
    metadata, names = pool / parts.METADATA, list((trained / shards.INDEX).files(".parquet"))
    index = [shards.read_index(trained, name.removesuffix(".parquet")) for name in spread(names, MAX_SHARDS)]
    if not index:
        return None, []
    rows = pl.concat(index).filter(pl.col("uid").is_not_null())
    texts: dict[str, str] = {}
    for part in spread(parts.part_names(metadata), MAX_PARTS):
        frame = parts.scan(metadata, part).select("uid", "text").collect().join(rows.select("uid").unique(), on="uid", how="semi")
        texts.update(frame.head(MAX_CAPTIONS // MAX_PARTS).iter_rows())
    chosen, compared, edited = rows.filter(pl.col("uid").is_in(list(texts))), 0, list[str]()
    for some in chosen.sort("shard", "offset").partition_by("shard"):
        for found, members in shards.read_samples(trained, some):
            compared += 1
            if members.get("txt", b"").decode("utf-8", "replace").strip() != (texts[found] or "").strip():
                edited.append(found)
    return compared, list(dict.fromkeys(edited))


def spread(names: list[str], most: int) -> list[str]:
    """Return at most this number of the names, spread evenly over their order."""
    return [names[int(place * len(names) / most)] for place in range(most)] if len(names) > most else names
