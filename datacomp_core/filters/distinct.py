"""Keeps one of each group of copies: equal hashes, captions or urls, or perceptual hashes that differ in few bits.

Exact: of the rows with one value the first is kept. Near: a row is dropped if an earlier row in the order differs by at most
this many bits, whether or not that row is kept. The order is by a score (best first), then by uid, so it is the same everywhere.
Paper: Gadre et al. 2023, Table 9 (deduplication alone); perceptual hash: Zauner 2010 (pHash, as in the package ImageHash).
"""

from __future__ import annotations

import hashlib
from functools import partial

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, model_validator

from datacomp_core import uid
from datacomp_core.errors import DataError, SpecError
from datacomp_core.filters.base import GlobalFilter, GlobalView, ScoreName, register, score_column, score_title
from datacomp_core.shared_buckets import ROW, SharedBuckets

ROWS_A_BUCKET = 1_000_000
BITS = 64
RECORD = np.dtype([("key", "u8"), ("check", "u8"), ("part", "i4"), ("row", "i8"), ("score", "f8"), ("high", "u8"), ("low", "u8")])
COMPARED_AT_ONCE = 1 << 22


@register("distinct")
class Distinct(GlobalFilter):
    """Keeps one of each group of copies among the incoming rows."""

    by: ScoreName = Field(
        default="sha256",
        min_length=1,
        description="The column to compare: sha256, text, url, uid, or a hash as `perceptual_hash`.",
    )
    at_most_bits: int = Field(default=0, ge=0, le=16, description="Bits in which copies may differ; 0: equal values only.")
    prefer: ScoreName = Field(default="", description="A score: the copy with the best one is kept. Empty: the smallest uid.")

    @model_validator(mode="after")
    def _hashes_only(self) -> Distinct:
        if self.at_most_bits and self.by in {"sha256", "text", "url", "uid"}:
            raise SpecError(
                f"distinct: {self.by} can only be compared for equality: use at_most_bits only with hashes such "
                "as perceptual_hash."
            )
        return self

    def columns(self) -> frozenset[str]:
        return frozenset({"uid", score_column(self.by), *([score_column(self.prefer)] if self.prefer else [])})

    def title(self) -> str:
        return f"first of each {score_title(self.by)}" + (f" within {self.at_most_bits} bits" if self.at_most_bits else "")

    def reason(self) -> str:
        return f"a copy by {score_title(self.by)}" + (f" within {self.at_most_bits} bits" if self.at_most_bits else "")

    def decide_all(self, view: GlobalView) -> None:
        num = max(1, -(-view.num_reached // ROWS_A_BUCKET))
        bands = self.at_most_bits + 1
        buckets = [SharedBuckets((view.shared / f"band{band}").folder, num, RECORD) for band in range(bands)]
        for _ in view.map(partial(_spill, self, view, buckets), list(enumerate(view.names))):
            pass
        buckets = [band.regrouped(view.map) for band in buckets]
        lost = SharedBuckets((view.shared / "lost").folder, len(view.names), ROW)
        jobs = [(band, number) for band in range(bands) for number in range(num)]
        for _ in view.map(partial(_note_copies, self, buckets, lost), jobs):
            pass
        for _ in view.scan(partial(_decide, view, lost.regrouped(view.map)), list(enumerate(view.names))):
            pass


def _spill(asked: Distinct, view: GlobalView, buckets: list[SharedBuckets], job: tuple[int, str]) -> None:
    """Sort a part's rows into the buckets of every band, and note the rows without a value."""
    place, part = job
    column = score_column(asked.by)
    frame = view.frame(part, asked.columns())
    missing = frame[column].is_null() | (frame[column].fill_nan(None).is_null() if frame[column].dtype.is_float() else False)
    there = frame.filter(~missing)
    if len(there):
        key, check = _keys(there[column], exact=not asked.at_most_bits)
        packed = uid.pack(there["uid"])
        score = there[score_column(asked.prefer)].cast(pl.Float64).fill_nan(None).fill_null(-np.inf) if asked.prefer else None
        columns = {
            "key": key,
            "check": check,
            "part": np.full(len(there), place, np.int32),
            "row": there["row"].to_numpy().astype(np.int64),
            "score": np.zeros(len(there)) if score is None else score.to_numpy(),
            "high": packed["f0"],
            "low": packed["f1"],
        }
        for band, target in enumerate(buckets):
            target.add(
                f"{place:08d}", (_scattered(_band(key, band, len(buckets))) % np.uint64(target.num)).astype(np.int64), columns
            )
    view.shared.save(f"unknown/{part}.npy", frame.filter(missing)["row"].to_numpy().astype(np.int64))


def _decide(view: GlobalView, lost: SharedBuckets, job: tuple[int, str]) -> None:
    """Pass all rows of a part that came, have a value and are not copies."""
    place, part = job
    copies = lost.read(place)["row"]
    unknown = view.shared.load(f"unknown/{part}.npy")
    view.decide(part, np.setdiff1d(np.flatnonzero(view.reached(part)), np.concatenate([copies, unknown])), unknown=unknown)


def _keys(values: pl.Series, *, exact: bool) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """128 bits a value: of text by blake2b, so that no two texts are confused; numbers are unchanged."""
    if values.dtype.is_integer():
        return values.cast(pl.UInt64, wrap_numerical=True).to_numpy(), np.zeros(len(values), np.uint64)
    if not exact:
        raise DataError(
            f"Column {values.name!r} does not contain 64-bit hashes, so bits cannot be compared: use equal "
            "values, or a hash column."
        )
    texts = values.cast(pl.String).to_list()
    data = b"".join(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts)
    halves = np.frombuffer(data, np.uint64).reshape(-1, 2)
    return halves[:, 0].copy(), halves[:, 1].copy()


def _band(keys: npt.NDArray[np.uint64], band: int, bands: int) -> npt.NDArray[np.uint64]:
    """One of `bands` stretches of the 64 bits: hashes that differ in fewer bits than there are bands agree in one of them."""
    low, high = band * BITS // bands, (band + 1) * BITS // bands
    if high - low == BITS:
        return keys
    return (keys >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)


def _scattered(keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    return (keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)


def _note_copies(asked: Distinct, buckets: list[SharedBuckets], lost: SharedBuckets, job: tuple[int, int]) -> None:
    band, number = job
    copies = _copies(asked, buckets[band].read(number), band, len(buckets))
    lost.add(f"{band:02d}-{number:08d}", copies["part"].astype(np.int64), {"row": copies["row"]})


def _copies(asked: Distinct, rows: npt.NDArray[np.void], band: int, bands: int) -> npt.NDArray[np.void]:
    """Of the rows of a bucket, those that have one like them before them."""
    rows = rows[np.lexsort((rows["row"], rows["part"], rows["low"], rows["high"], -rows["score"]))]
    key = _band(rows["key"], band, bands)
    order = np.lexsort((np.arange(len(rows)), rows["check"], key))
    same = (key[order][1:] == key[order][:-1]) & (rows["check"][order][1:] == rows["check"][order][:-1])
    if not asked.at_most_bits:
        return rows[order[1:][same]]
    edges = np.flatnonzero(~same) + 1
    lost = [_near(rows["key"][group], group, asked.at_most_bits) for group in np.split(order, edges) if len(group) > 1]
    return rows[np.concatenate([np.empty(0, np.int64), *lost])]


def _near(keys: npt.NDArray[np.uint64], places: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.int64]:
    """Of rows in order, those (by place) that differ in at most `bits` from one before."""
    lost = np.zeros(len(keys), np.bool_)
    step = max(1, COMPARED_AT_ONCE // len(keys))
    for start in range(0, len(keys), step):
        stop = min(start + step, len(keys))
        differ = np.bitwise_count(keys[start:stop, None] ^ keys[None, :stop])
        before = np.arange(stop)[None, :] < np.arange(start, stop)[:, None]
        lost[start:stop] = ((differ <= bits) & before).any(1)
    return places[lost]
