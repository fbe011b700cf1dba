"""Applies takedowns to unpublished data: downloads and other shard sets whose run was killed and may be resumed. From a
finished shard of a download, samples are removed as from a published one, so that a resumed run excludes them. Unfinished
shards, and sets that are not downloads, are deleted and made again. No run can resume an attempt during this.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from datacomp_core.errors import DatacompError
from datacomp_core.pool import removal
from datacomp_core.pool.download_shard import stats_name
from datacomp_core.pool.stats import read_ledger
from datacomp_core.pool.takedown_requests import BEFORE, KNOWN, NOW, TakedownRequests
from datacomp_core.shards import INDEX, LEDGER, TAKEN_DOWN, index_shard, stored_index
from datacomp_core.store import Folder, Store
from datacomp_core.store.attempt import PREFIX, hold_dead_attempt
from datacomp_core.store.lease import latest_turns

AT_WORK = "a run is using it: run the same command again when that run has ended"
GOES_ON = (
    "an interrupted run, which may fetch samples that it has not fetched yet: end it, then run the same command again, or remove "
    "it with `datacomp gc`"
)
STATS = "_stats.json"


def take_from(store: Store, requests: TakedownRequests, places: list[str], unread: dict[str, str]) -> dict[str, int]:
    """Remove the samples from all unpublished shard sets; return the number of removed samples by path of the attempt."""
    removed: dict[str, int] = {}
    for address in store.places() if len(requests.uids) else ():
        if not address.startswith("shards/"):
            continue
        home = store.home(address)
        for name in sorted({*home.folders(), *latest_turns(home)}):
            if not name.startswith(PREFIX) or store.is_published(address, name):
                continue
            where = f"{address}/{name}"
            try:
                with hold_dead_attempt(home, name, lambda name, address=address: store.is_published(address, name)) as folder:
                    if folder is None:
                        unread[where] = AT_WORK
                        continue
                    places.append(where)
                    removed[where] = _take(folder, requests, len(places) - 1)
                    if folder.files() and not _has_all(folder, requests):
                        unread[where] = GOES_ON
            except DatacompError as problem:
                unread[where] = str(problem)
    return removed


def _take(folder: Folder, requests: TakedownRequests, place: int) -> int:
    files = folder.files()
    done = {path.removesuffix(STATS) for path in files if path.endswith(STATS) and "/" not in path}
    tars = [path.removesuffix(".tar") for path in files if path.endswith(".tar") and "/" not in path]
    removed = 0
    for name in sorted({*tars, *done}):
        if name in done and f"{INDEX}/{name}.parquet" in files and f"{LEDGER}/{name}.parquet" in files:
            removed += _from_download(folder, name, requests, place)
        else:
            removed += _whole(folder, name, requests, place)
    return removed


def _from_download(folder: Folder, name: str, requests: TakedownRequests, place: int) -> int:
    rows = stored_index(folder, name)[0]
    hit = rows.filter(requests.among(rows["uid"]))["uid"]
    book = read_ledger(folder, name)
    requests.note(book["uid"].str.to_lowercase().filter((book["reason"] == TAKEN_DOWN).fill_null(value=False)), BEFORE)
    requests.note(book["uid"].str.to_lowercase(), KNOWN)
    gone = removal.from_shard(folder, name, requests.among, TAKEN_DOWN, {})
    requests.note(hit, NOW, place)
    return gone


def _whole(folder: Folder, name: str, requests: TakedownRequests, place: int) -> int:
    """Remove an unfinished shard, whatever it contains."""
    try:
        uids = index_shard(folder, name).rows["uid"].drop_nulls().cast(pl.String).str.to_lowercase().unique()
    except DatacompError:  # truncated, or not a tar: removed in any case
        uids = pl.Series(dtype=pl.String)
    hit = uids.filter(requests.among(uids)) if len(uids) else uids
    for path in (f"{name}.tar", stats_name(name), f"{INDEX}/{name}.parquet", f"{LEDGER}/{name}.parquet"):
        folder.remove(path)
    requests.note(hit, NOW, place)
    return len(hit)


def _has_all(folder: Folder, requests: TakedownRequests) -> bool:
    """Return whether the ledgers say that every requested sample was taken down."""
    there = np.zeros(len(requests.uids), np.bool_)
    for path in (folder / LEDGER).files(".parquet"):
        book = read_ledger(folder, path.removesuffix(".parquet"))
        at = requests.positions(book["uid"].str.to_lowercase().filter((book["reason"] == TAKEN_DOWN).fill_null(value=False)))
        there[at[at >= 0]] = True
    return bool(there.all())
