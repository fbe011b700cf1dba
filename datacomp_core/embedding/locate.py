"""Where the image of each metadata row lies: a join by uid of metadata parts with the index of the shards.

Shards may hold the samples in any order, and a resharded pool does. Memory is bounded by a group of parts: the index is
streamed once a group, never loaded whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from datacomp_core.errors import DataError
from datacomp_core.parts import scan, storage_options
from datacomp_core.shards import INDEX
from datacomp_core.store.folder import Folder

GROUP_ROWS = 8_000_000


def count_rows(metadata: Folder, parts: list[str]) -> dict[str, int]:
    """Rows of each part, from the parquet footers. DataError names a part that cannot be read."""
    counts: dict[str, int] = {}
    for part in parts:
        try:
            counts[part] = int(scan(metadata, part).select(pl.len()).collect().item())
        except (pl.exceptions.PolarsError, OSError) as problem:
            raise DataError(f"{metadata.at(part)}.parquet is not readable metadata: {problem}") from problem
    return counts


def locate(metadata: Folder, rows: dict[str, int], shards: Folder, into: Path) -> None:
    """Write `<part>.parquet` into `into` for each part: uid, text, shard, offset, length, one row a metadata row, in order.

    A row whose image never arrived has nulls. If the shards hold a uid more than once, the first in order is taken: they
    are copies of one sample.
    """
    index = _index(shards)
    for group in _groups(rows):
        wanted = [scan(metadata, part).select("uid", "text", part=pl.lit(part)) for part in group]
        asked = pl.concat(wanted).collect()
        found = index.join(asked.lazy().select("uid").unique(), on="uid", how="semi").collect(engine="streaming")
        first = found.sort("shard", "offset").unique("uid", keep="first", maintain_order=True)
        placed = asked.join(first, on="uid", how="left", maintain_order="left")
        for (part,), table in placed.partition_by("part", as_dict=True, maintain_order=True).items():
            table.drop("part").write_parquet(into / f"{part}.parquet")


def _index(shards: Folder) -> pl.LazyFrame:
    files = (shards / INDEX).files(".parquet")
    if not files:
        raise DataError(f"{shards} has no index/: index the shards first with `datacomp pool adopt`.")
    urls = [shards.at(f"{INDEX}/{name}") for name in files]
    return pl.scan_parquet(urls, storage_options=storage_options(shards)).select("uid", "shard", "offset", "length")


def _groups(rows: dict[str, int]) -> Iterator[list[str]]:
    group: list[str] = []
    held = 0
    for part, count in rows.items():
        if group and held + count > GROUP_ROWS:
            yield group
            group, held = [], 0
        group.append(part)
        held += count
    if group:
        yield group
