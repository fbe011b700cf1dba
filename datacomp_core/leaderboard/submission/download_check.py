"""Compares a bundle's claims about what arrived with the downloaded shards.

A bundle does not contain images, so it cannot prove which pairs arrived. But the download's record has the digest of all uids
that arrived, which binds its sender: whoever gets the `index/` files of that download can compute the digest again, and count how
many of the chosen pairs could be trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datacomp_core import shards, uid
from datacomp_core.artifacts import ShardSet
from datacomp_core.errors import DataError
from datacomp_core.leaderboard.entries.entry import Entry
from datacomp_core.store import Folder


class DownloadedUids(NamedTuple):
    """Of downloaded shards: their samples, the digest of the uids, and the rows of a subset that are among them."""

    num_samples: int
    content: str
    chosen: int


def count(downloaded: Folder, subset: Path) -> DownloadedUids:
    """Read the index of downloaded shards, one shard at a time. DataError if there is none."""
    uids, num_samples, digest, chosen = uid.open_subset(subset), 0, 0, 0
    names = shards.index_names(downloaded)
    if not names:
        raise DataError(f"{downloaded.url} has no {shards.INDEX}/ of shards: give the folder of the download.")
    for name in names:
        there = shards.read_index(downloaded, name)["uid"].drop_nulls()
        num_samples += len(there)
        digest = (digest + uid.digest(there)) % uid.DIGEST_MODULUS
        chosen += int(uid.locate(uids, uid.pack(there))[1].sum())
    return DownloadedUids(num_samples, f"{digest:064x}", chosen)


def differences(entry: Entry, trained: ShardSet, found: DownloadedUids) -> Iterator[str]:
    """Where an entry says something else of its download than the shards show."""
    said = entry.realised_pool
    if said is None:
        yield "no download"
        return
    if said.content != found.content:
        yield f"the digest {said.content[:12]} of the uids that arrived, and these shards have {found.content[:12]}"
    if said.num_samples != found.num_samples:
        yield f"{said.num_samples:,} pairs that arrived, and these shards have {found.num_samples:,}"
    downloads = [link for link in entry.chain if link.kind == ShardSet.kind and link.address != trained.address]
    if len(downloads) == 1 and found.chosen != entry.size.trained_on:
        yield f"{entry.size.trained_on:,} pairs trained on, and {found.chosen:,} of the chosen are in these shards"
