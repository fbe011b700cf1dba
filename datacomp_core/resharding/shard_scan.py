"""Compares one input shard with the subset: which of its samples were chosen, where they are, and which were lost and why.
Reads the shard's index (or walks its tar once, if there is none) and its ledger: ours, or the parquet that img2dataset writes
next to a shard.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from datacomp_core import uid
from datacomp_core.driver_files import Reachable
from datacomp_core.errors import DataError, SpecError
from datacomp_core.machine_cache import CachedFile
from datacomp_core.resharding.plan import ROW, Positions, Rows, locate
from datacomp_core.shards import INDEX, INDEX_SCHEMA, LEDGER, MEMBERS, TAKEN_DOWN, index_shard, read_index, stored_index, tars_in
from datacomp_core.store.folder import Folder

NEVER_DOWNLOADED, CORRUPT, SHARD_GONE, UNKNOWN = "never_downloaded", "corrupt", "shard_gone", "unknown"
NOT_IN_PART = "not_in_part"
PLACE = np.dtype("u2")
IS_UID = "^[0-9a-fA-F]{32}$"


@dataclass(frozen=True)
class ShardFolders:
    """Folders of shards. Of all their shards, by folder and name, a part if wanted: `num_shards` (None: all that follow) from
    `first_shard` on. A uid is taken from the first folder that has it, unless `places` says from which: the url of an npy of
    `PLACE`, aligned with the subset and sorted within a uid, with the number of the folder for each chosen sample.
    """

    folders: tuple[Folder, ...]
    first_shard: int = 0
    num_shards: int | None = None
    places: str = ""

    def __str__(self) -> str:
        return " and ".join(folder.url for folder in self.folders)

    @property
    def is_part(self) -> bool:
        return self.first_shard > 0 or self.num_shards is not None


@dataclass(frozen=True)
class InputShard:
    """The files of an input folder (a position in the list of folders) for one shard; `size` is the size of its tar, None if
    the tar is gone.
    """

    number: int
    folder: int
    name: str
    size: int | None
    has_index: bool
    ledger: str

    @property
    def label(self) -> str:
        return self.name if self.folder == 0 else f"{self.name} of input {self.folder + 1}"


@dataclass(frozen=True)
class LostSamples:
    """Chosen samples (stretches of the subset) that this shard's records know and its tar does not have."""

    reason: str
    detail: str
    first: Positions
    count: Positions


@dataclass(frozen=True)
class ScannedShard:
    """Chosen samples of a shard, each uid once, with the stretch of the subset it fills; `members` is of `MemberNames.text`."""

    shard: InputShard
    rows: Rows
    first: Positions
    count: Positions
    lost: tuple[LostSamples, ...]
    damage: str
    members: str = ""


def save(path: Path, found: ScannedShard) -> None:
    """Write what was found in a shard to a file, for `load`."""
    arrays: dict[str, Any] = {"rows": found.rows, "first": found.first, "count": found.count}
    for number, lost in enumerate(found.lost):
        arrays |= {f"first{number}": lost.first, f"count{number}": lost.count}
    told = {"lost": [(lost.reason, lost.detail) for lost in found.lost], "damage": found.damage, "members": found.members}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, told=np.frombuffer(json.dumps(told).encode(), np.uint8), **arrays)


def load(path: Path, shard: InputShard) -> ScannedShard:
    with np.load(path, allow_pickle=False) as arrays:
        told = json.loads(arrays["told"].tobytes())
        lost = tuple(
            LostSamples(reason, detail, arrays[f"first{n}"], arrays[f"count{n}"])
            for n, (reason, detail) in enumerate(told["lost"])
        )
        return ScannedShard(shard, arrays["rows"], arrays["first"], arrays["count"], lost, told["damage"], told["members"])


def input_shards(inputs: ShardFolders) -> list[InputShard]:
    """The shards of the folders, by folder and name: those with a tar, and those that an index or a ledger says were there."""
    found: list[InputShard] = []
    for position, folder in enumerate(inputs.folders):
        files = folder.files()
        top = {name for name in files if "/" not in name}
        tars = set(tars_in(folder, top))
        indexed = {name[len(INDEX) + 1 : -len(".parquet")] for name in files if name.startswith(f"{INDEX}/")}
        recorded = {name[len(LEDGER) + 1 : -len(".parquet")] for name in files if name.startswith(f"{LEDGER}/")}
        for name in sorted(tars | indexed | recorded):
            beside = f"{name}.parquet" if f"{name}.parquet" in top else ""
            ledger = f"{LEDGER}/{name}.parquet" if name in recorded else beside
            found.append(InputShard(len(found), position, name, files.get(f"{name}.tar"), name in indexed, ledger))
    if not inputs.is_part:
        return found
    end = None if inputs.num_shards is None else inputs.first_shard + inputs.num_shards
    some = [replace(shard, number=number) for number, shard in enumerate(found[inputs.first_shard : end])]
    if not some:
        raise SpecError(f"There are {len(found)} input shards, but none at {inputs.first_shard}: choose a lower first shard.")
    return some


@dataclass(frozen=True)
class ScanInputs:
    """Where the shards are, and the subset, mapped, so that all processes of a machine share its pages."""

    folders: tuple[Folder, ...]
    subset: uid.Uids
    places: Any
    held: tuple[CachedFile, ...]

    def locate(self, folder: int, uids: uid.Uids) -> tuple[Positions, Positions, Positions]:
        """For each uid the first position that is chosen of a folder, how many are, and which copy of the uid the first is."""
        first, count = locate(self.subset, uids)
        if self.places is None:
            return first, count, np.zeros_like(first)
        own, some = uid.stretch(self.places, first, count, folder)
        return own, some, own - first


def wanted(folders: tuple[Folder, ...], subset: Reachable, places: Reachable | None = None) -> ScanInputs:
    held = tuple(CachedFile(*one) for one in (subset, places) if one is not None)
    mapped = [np.load(one.path, mmap_mode="r", allow_pickle=False) for one in held]
    return ScanInputs(folders, mapped[0], mapped[1] if places is not None else None, held)


def scan_shard(wanted: ScanInputs, shard: InputShard) -> ScannedShard:
    """Which samples of the subset a shard contains, and which it should contain."""
    folder = wanted.folders[shard.folder]
    rows, damage = samples_of(folder, shard)
    packed, rows = _addressable(rows)
    first, count, copy = wanted.locate(shard.folder, packed)
    size = -1 if shard.size is None else shard.size
    whole = (rows["offset"] + rows["length"] <= size).to_numpy()
    chosen = count > 0
    if (cut_off := int((~whole & chosen).sum())) and not damage:
        damage = "it is gone" if shard.size is None else f"it ends before {cut_off} of the chosen samples in its index"
    keep = chosen & whole
    taken = np.zeros(int(keep.sum()), ROW)
    taken["f0"], taken["f1"] = packed["f0"][keep], packed["f1"][keep]
    taken["offset"], taken["length"] = rows["offset"].to_numpy()[keep], rows["length"].to_numpy()[keep]
    taken["shard"], taken["copy"] = shard.number, copy[keep]
    taken["key"] = [zlib.crc32(key.encode()) for key in rows["key"].to_numpy()[keep]]
    reason = SHARD_GONE if shard.size is None else CORRUPT
    lost = [LostSamples(reason, damage, first[chosen & ~whole], count[chosen & ~whole])] if (chosen & ~whole).any() else []
    lost += _lost(wanted, shard, set(first[chosen].tolist()), damage)
    members = str(rows[MEMBERS][0] or "") if MEMBERS in rows.columns and rows.height else ""
    return ScannedShard(shard, taken, first[keep], count[keep], tuple(lost), damage, members)


def samples_of(folder: Folder, shard: InputShard) -> tuple[pl.DataFrame, str]:
    """The index of a shard, or what a walk over its tar finds, and the damage that the walk met."""
    if shard.has_index:
        rows, mark = stored_index(folder, shard.name)
        return (rows if shard.size is None or not mark else read_index(folder, shard.name)), ""
    if shard.size is None:
        return pl.DataFrame(schema=INDEX_SCHEMA), "it is gone"
    indexed = index_shard(folder, shard.name)
    return indexed.rows, indexed.damage


def _addressable(rows: pl.DataFrame) -> tuple[uid.Uids, pl.DataFrame]:
    """Rows with a uid of 128 bits, the first of each."""
    with suppress(DataError):  # most often all of them are such
        packed = uid.pack(rows["uid"])
        if len(np.unique(packed["f1"])) == len(packed):
            return packed, rows
    rows = rows.filter(pl.col("uid").str.contains(IS_UID)).unique("uid", keep="first", maintain_order=True)
    return uid.pack(rows["uid"]), rows


def _lost(wanted: ScanInputs, shard: InputShard, present: set[int], damage: str) -> Iterator[LostSamples]:
    """Yield the ledger's reasons for chosen samples that are missing from the index."""
    if not shard.ledger:
        return
    ledger = _ledger(wanted.folders[shard.folder], shard.ledger).filter(pl.col("uid").str.contains(IS_UID))
    first, count, _ = wanted.locate(shard.folder, uid.pack(ledger["uid"]))
    ours = ledger.select("detail").with_columns(first=pl.Series(first), count=pl.Series(count)).filter(pl.col("count") > 0)
    ours = ours.unique("first", keep="first", maintain_order=True).filter(~pl.col("first").is_in(list(present)))
    for (detail,), some in ours.group_by("detail", maintain_order=True):
        stretch = some["first"].to_numpy(), some["count"].to_numpy()
        if detail == TAKEN_DOWN:
            yield LostSamples(TAKEN_DOWN, "", *stretch)
        elif detail is not None:
            yield LostSamples(NEVER_DOWNLOADED, str(detail), *stretch)
        else:
            yield LostSamples(SHARD_GONE if shard.size is None else CORRUPT, damage or "its shard does not contain it", *stretch)


def _ledger(folder: Folder, name: str) -> pl.DataFrame:
    """uid and detail (null: it arrived) of each candidate, from our ledger or from img2dataset's parquet."""
    try:
        table = pl.read_parquet(io.BytesIO(folder.read(name)))
        if "reason" in table.columns:
            return table.select("uid", detail="reason")
        arrived = pl.col("status") == "success"
        return table.select("uid", detail=pl.when(~arrived.fill_null(value=False)).then(pl.col("status").fill_null("failed")))
    except pl.exceptions.PolarsError as problem:
        raise DataError(f"{folder.at(name)} is not a ledger (uid with reason or status): {problem}") from problem
