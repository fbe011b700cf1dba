"""Applies takedowns to data that was set aside as lost (`_lost/`): it may contain samples that were taken down, and it is no
longer read. A tar that contains one of the samples, or that cannot be read, is deleted: lost data does not have to stay
consistent. Marks are written first, so the same command finishes a killed takedown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import polars as pl

from datacomp_core.errors import DatacompError, DataError, MissingFileError
from datacomp_core.pool.takedown_requests import KNOWN, NOW, TakedownRequests
from datacomp_core.shards import INDEX, index_shard, stored_index
from datacomp_core.store import Folder, Store
from datacomp_core.store.deletion import places_of, remove_lost_file
from datacomp_core.store.store import LostArtifact


class SetAside(NamedTuple):
    """One tar to delete, with the requested uids in it (none if it cannot be read)."""

    lost: LostArtifact
    folder: Folder
    name: str
    uids: pl.Series


def affected_tars(store: Store, requests: TakedownRequests, unread: dict[str, str]) -> list[SetAside]:
    """Return the set-aside tars that contain requested samples, or that cannot be read."""
    found: list[SetAside] = []
    for lost in store.lost():
        if lost.record.kind != "shards":
            continue
        try:
            for one in _tars(store, lost, requests):
                requests.note(one.uids, KNOWN)
                found.append(one)
        except DatacompError as problem:
            unread[lost.note] = str(problem)
    return found


def _tars(store: Store, lost: LostArtifact, requests: TakedownRequests) -> Iterator[SetAside]:
    for folder in places_of(store, lost):
        names = [path.removesuffix(".tar") for path in folder.files(".tar")]
        if not names:
            continue
        if lost.record.adopted_from:
            raise DataError(
                f"Data that was adopted from {lost.record.adopted_from} and later lost exists again: adopt it again and run "
                "the same command, or delete the folder and the note."
            )
        for name in names:
            uids = _uids(folder, name)
            hit = None if uids is None else uids.filter(requests.among(uids))
            if hit is None:
                yield SetAside(lost, folder, name, pl.Series(dtype=pl.String))
            elif len(hit):
                yield SetAside(lost, folder, name, hit)


def _uids(folder: Folder, name: str) -> pl.Series | None:
    """Return the uids of the tar and its index; None if the tar is damaged. StoreError if it cannot be read at the moment."""
    try:
        walked = index_shard(folder, name)
        walked.whole()
    except MissingFileError:
        return pl.Series(dtype=pl.String)
    except DataError:
        return None
    uids = [walked.rows["uid"].cast(pl.String)]
    try:
        uids.append(stored_index(folder, name)[0]["uid"].cast(pl.String))
    except DataError:
        if walked.rows["uid"].null_count():  # a tar without uids, and no index with them
            return None
    return pl.concat(uids).drop_nulls().str.to_lowercase().unique()


def delete(found: list[SetAside], requests: TakedownRequests, places: list[str]) -> dict[str, int]:
    """Delete these tars and their indexes; return the deleted samples, by the note about the set-aside data."""
    removed: dict[str, int] = {}
    for one in found:
        if one.lost.note not in places:
            places.append(one.lost.note)
        remove_lost_file(one.folder, f"{one.name}.tar")
        remove_lost_file(one.folder, f"{INDEX}/{one.name}.parquet")
        requests.note(one.uids, NOW, places.index(one.lost.note))
        removed[one.lost.note] = removed.get(one.lost.note, 0) + len(one.uids)
    return removed
