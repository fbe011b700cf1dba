"""Reads a list of samples to remove: uids and urls, one per line; each line gets an answer. Common spellings are accepted:
uids in any case, with `0x` or as a UUID; urls with any case of scheme and host, with the default port or a fragment. The list
may be long: it is on scratch disk, and memory does not grow with it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import polars as pl

from datacomp_core import uid
from datacomp_core.errors import SpecError
from datacomp_core.pool.unique_uids import UIDS_IN_MEMORY, UidRanges, num_buckets

LINES_AT_ONCE = 1 << 18
ODD = "neither a uid (32 hex digits) nor a url"
SCHEMA = pl.Schema({"line": pl.Int64, "request": pl.String, "uid": pl.String, "url": pl.String})
DEFAULT_PORTS = {"http": "80", "https": "443"}

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEX = re.compile(r"[0-9a-f]{1,32}")


class RequestOutcome(NamedTuple):
    """The outcome of a uid, in one byte: the highest is reported."""

    name: str
    code: int


UNKNOWN, KNOWN, BEFORE, NOW = (
    RequestOutcome(name, code)
    for code, name in enumerate(
        ("not found", "known, and not downloaded: there is nothing to remove", "removed before", "removed")
    )
)


def uid_in_line(text: str) -> str | None:
    """Return the uid in a line, as 32 digits in lower case; None if it is not a uid."""
    text = text.lower()
    if _UUID.fullmatch(text):
        text = text.replace("-", "")
    if text.startswith("0x") and _HEX.fullmatch(text[2:]):
        return text[2:].zfill(32)
    return text if len(text) == uid.HEX_DIGITS and _HEX.fullmatch(text) else None


def normal_url(url: str) -> str:
    """A url with scheme and host in lower case, without default port and fragment; unchanged if it cannot be parsed."""
    try:
        parts = urlsplit(url)
        scheme, (user, at, host) = parts.scheme.lower(), parts.netloc.rpartition("@")
    except ValueError:
        return url
    host = host.lower().removesuffix(":").removesuffix(f":{DEFAULT_PORTS.get(scheme, '')}")
    rest = url.partition("#")[0].partition("://")[2][len(parts.netloc) :]
    return f"{scheme}://{user}{at}{host}{rest or '/'}"


def normal_urls(urls: pl.Series) -> pl.Series:
    """`normal_url` for many urls. Most are already in normal form, which is detected without parsing."""
    text = urls.fill_null("")
    plain = text.str.contains(r"^https?://[a-z0-9.-]+/[^#]*$")
    return pl.select(
        pl.when(plain).then(text).otherwise(text.map_elements(normal_url, pl.String, skip_nulls=False))
        if not plain.all()
        else text
    ).to_series()


class TakedownRequests:
    """The lines of a list, in parquets below a local folder; then their meaning and the outcome of each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_lines = self.num_odd = 0
        self.uids: uid.Uids = np.empty(0, uid.DTYPE)
        self.fates: Any = None
        self.places: Any = None

    def read(self, source: Path) -> TakedownRequests:
        """Read a list. SpecError if it is not text, or has no line."""
        for number, rows in enumerate(_pieces(source)):
            rows.write_parquet(self.folder / f"lines-{number:06d}.parquet")
            self.num_lines += rows.height
            self.num_odd += rows.filter(pl.col("uid").is_null() & pl.col("url").is_null()).height
        if not self.num_lines:
            raise SpecError(f"{source} is empty: write one uid or url per line.")
        return self

    def of_uids(self, uids: list[str]) -> TakedownRequests:
        """The same for a list in memory."""
        rows = pl.DataFrame({"line": range(1, len(uids) + 1), "request": uids, "uid": uids}).with_columns(url=pl.lit(None))
        rows.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items()).write_parquet(self.folder / "lines-000000.parquet")
        self.num_lines = len(uids)
        return self

    def pieces(self) -> Iterator[pl.DataFrame]:
        """The lines, some at a time."""
        for path in sorted(self.folder.glob("lines-*.parquet")):
            yield pl.read_parquet(path, glob=False)

    def has_urls(self) -> bool:
        return any(rows["url"].null_count() < rows.height for rows in self.pieces())

    def match(self, table: pl.DataFrame, number: int) -> None:
        """Record the uids of the requested urls, from a table (uid, url) with urls in normal form."""
        for piece, rows in enumerate(self.pieces()):
            asked = rows.drop_nulls("url").select("line", "url")
            found = table.join(asked, on="url", how="inner").select("line", pl.col("uid").str.to_lowercase())
            found = found.filter(pl.col("uid").str.contains("^[0-9a-f]{32}$")).unique()
            if found.height:
                found.write_parquet(self.folder / f"matched-{piece:06d}-{number:08d}.parquet")

    def settle(self) -> None:
        """Return all requested uids, sorted, each once, mapped from disk; their outcome is not known yet."""
        with UidRanges(num_buckets(max(self.num_lines, UIDS_IN_MEMORY))) as spread:
            for path in sorted(self.folder.glob("*.parquet")):
                spread.add(uid.pack(pl.read_parquet(path, columns=["uid"], glob=False)["uid"].drop_nulls()))
            total = 0
            with (self.folder / "uids.bin").open("wb") as file:
                for some in spread.slices():
                    distinct = np.unique(some)
                    total += len(distinct)
                    file.write(distinct.tobytes())
        if total:
            self.uids = np.memmap(self.folder / "uids.bin", uid.DTYPE, "r", shape=(total,))
        self.fates = np.memmap(self.folder / "fates.bin", np.uint8, "w+", shape=(max(total, 1),))
        self.places = np.memmap(self.folder / "places.bin", np.uint32, "w+", shape=(max(total, 1), 2))

    def among(self, uids: pl.Series) -> pl.Series:
        """Return which of some uids (lower case) are requested."""
        return pl.Series(self.positions(uids) >= 0)

    def positions(self, uids: pl.Series) -> uid.Positions:
        """Return the positions of some uids in `self.uids`; -1 for those that are not requested."""
        good = uids.str.contains("^[0-9a-f]{32}$").fill_null(value=False)
        found = np.full(len(uids), -1, np.int64)
        if len(self.uids) and good.any():
            first, count = uid.locate(self.uids, uid.pack(uids.filter(good)))
            found[good.to_numpy()] = np.where(count > 0, first, -1)
        return found

    def has_unknown(self) -> bool:
        """Return whether the outcome of some uid is still unknown."""
        return bool(len(self.uids)) and bool((self.fates == UNKNOWN.code).any())

    def known(self) -> uid.Uids:
        """The uids that the store knows."""
        return np.asarray(self.uids)[self.fates > UNKNOWN.code] if len(self.uids) else np.empty(0, uid.DTYPE)

    def note(self, uids: pl.Series, fate: RequestOutcome, place: int = 0) -> None:
        """Record this outcome for some uids, in the shard set of this number: the best outcome is kept, and the first place of
        a removal."""
        at = np.unique(self.positions(uids))
        at = at[at >= 0]
        if fate is NOW:
            fresh = at[self.fates[at] != NOW.code]
            self.places[fresh] = (place, 0)
            again = np.setdiff1d(at, fresh)
            again = again[self.places[again, 0] != place]
            self.places[again, 1] += 1
        self.fates[at] = np.maximum(self.fates[at], fate.code)

    def answers(self, places: list[str]) -> Iterator[pl.DataFrame]:
        """`line, request, answer, found` of every line, some at a time; `places` are the shard sets by number."""
        for number, rows in enumerate(self.pieces()):
            matched = [pl.read_parquet(path, glob=False) for path in sorted(self.folder.glob(f"matched-{number:06d}-*.parquet"))]
            asked = pl.concat([rows.drop_nulls("uid").select("line", "uid"), *matched]).unique()
            at = self.positions(asked["uid"])
            fates = self.fates[at] if len(at) else np.empty(0, np.uint8)
            told = [self._told(position, places) for position in at.tolist()]
            known = asked.with_columns(fate=pl.Series(fates, dtype=pl.UInt8), told=pl.Series(told, dtype=pl.String))
            known = (
                known.sort("fate", descending=True)
                .group_by("line", maintain_order=True)
                .agg(
                    fate=pl.col("fate").max(), told=pl.col("told").unique(maintain_order=True).str.join("; "), uids=pl.col("uid")
                )
            )
            whole = rows.join(known, on="line", how="left", maintain_order="left")
            is_odd = pl.col("uid").is_null() & pl.col("url").is_null()
            yield whole.select(
                "line",
                "request",
                answer=pl.when(is_odd).then(pl.lit(f"not found: {ODD}")).otherwise(pl.col("told").fill_null(UNKNOWN.name)),
                found=pl.col("fate").fill_null(0) > UNKNOWN.code,
                uids=pl.col("uids"),
            )

    def _told(self, position: int, places: list[str]) -> str:
        code = int(self.fates[position])
        if code != NOW.code:
            return (UNKNOWN, KNOWN, BEFORE)[code].name
        first, more = self.places[position].tolist()
        return f"removed from {places[first]}" + (f" and {more} more" if more else "")


def _pieces(source: Path) -> Iterator[pl.DataFrame]:
    """Yield the lines of a list with what they name, in batches; blank lines and comments (`# ...`) are skipped."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names()}
    with source.open("rb") as file:
        head = file.read(4)
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    with source.open(encoding=encoding, errors="backslashreplace") as text:
        for number, line in enumerate(text, 1):
            asked = line.strip().strip("\0").strip("\"'").rstrip(",;").strip("\"'")
            if not asked or asked.startswith("# "):
                continue
            found = uid_in_line(asked)
            url = normal_url(asked) if found is None and "://" in asked else None
            for name, value in zip(SCHEMA.names(), (number, asked, found, url), strict=True):
                columns[name].append(value)
            if len(columns["line"]) >= LINES_AT_ONCE:
                yield pl.DataFrame(columns, schema=SCHEMA)
                columns = {name: [] for name in SCHEMA.names()}
    if columns["line"]:
        yield pl.DataFrame(columns, schema=SCHEMA)
