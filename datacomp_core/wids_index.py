"""`wids.json` beside shards: the names and sizes by which `wids` (of the webdataset package) reads samples in any order.

The form is version 1 of wids' own ("wids-shard-index-v1"): urls are relative to the file, so that a folder or a bucket can move.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from datacomp_core.store.folder import FileStat, Folder

WIDS = "wids.json"


def write_wids(out: Folder, shards: Iterable[tuple[str, int]]) -> FileStat:
    """Write the file for shards by name and number of samples; empty shards are left out."""
    listed = [{"url": f"{name}.tar", "nsamples": count} for name, count in shards if count]
    return out.write(WIDS, json.dumps({"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": listed}).encode())


def recount(folder: Folder, name: str, count: int) -> FileStat | None:
    """Say that a shard has another number of samples now; None if the folder has no such file."""
    if not folder.exists(WIDS):
        return None
    found: dict[str, Any] = folder.read_json(WIDS)
    shards = {str(row["url"]).removesuffix(".tar"): int(row["nsamples"]) for row in found["shardlist"]}
    return write_wids(folder, ({**shards, name: count} if name in shards else shards).items())
