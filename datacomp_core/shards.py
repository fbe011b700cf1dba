"""Webdataset shards and their index: the common ground of those who write shards and those who read them.

A shard is `<8 digits>.tar` with members `<key>.<extension>`; all members of a sample lie side by side. Its index,
`index/<8 digits>.parquet`, has one row a sample, in order: the byte range that holds the sample's members whole, headers
and padding included, so that a reader fetches one range and a writer copies it.
"""

from __future__ import annotations

import polars as pl

INDEX = "index"
INDEX_SCHEMA = pl.Schema(
    {
        "uid": pl.String,
        "key": pl.String,
        "shard": pl.String,
        "offset": pl.Int64,
        "length": pl.Int64,
    }
)


def shard_name(number: int) -> str:
    """The reference's naming: eight digits."""
    return f"{number:08d}"
