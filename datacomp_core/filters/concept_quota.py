"""Balances by external annotations: a pair is kept while one of its concepts is below its quota.

After Ghosh et al. 2025, Concept-Aware Batch Sampling (arXiv:2511.20643), whose DataConcept names the objects of DataComp's medium
pool: there a greedy pass fills a batch up to a target per concept; here it fills the whole subset. Pairs are processed once,
best score first (or at random), and every concept of a kept pair is counted. The table is joined by uid in buckets on disk.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import AfterValidator, Field

from datacomp_core import external_files, uid, uid_values
from datacomp_core.columns import numbers
from datacomp_core.errors import DataError, unknown
from datacomp_core.filters.base import GlobalFilter, GlobalView, ScoreName, register, score_column
from datacomp_core.joining import bucket_of
from datacomp_core.sampling_key import sampling_keys
from datacomp_core.score_tables import frames
from datacomp_core.shared_buckets import SharedBuckets

SUFFIXES = (".parquet", ".jsonl", ".csv")
ROWS_A_BUCKET = 2_000_000
LOOKED_AT = 1000
POOL = np.dtype([("high", "u8"), ("low", "u8"), ("key", "u8"), ("part", "i4"), ("row", "i8")])
TABLE = np.dtype([("high", "u8"), ("low", "u8"), ("concept", "u8")])
ENTRY = np.dtype([("key", "u8"), ("part", "i4"), ("row", "i8"), ("concept", "u8")])
DECIDED = np.dtype([("row", "i8"), ("kept", "?")])
Keys = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


def _pinned(name: str) -> str:
    return external_files.pin_place(name, SUFFIXES, "a table of annotations")


@register("concept_quota")
class ConceptQuota(GlobalFilter):
    """Keeps pairs, best first, while one of their annotated concepts is below its quota."""

    annotations: Annotated[str, AfterValidator(_pinned)] = Field(
        description="Tables of uids and their concepts: a file or folder of parquet, jsonl or csv; local, s3://, https://, hf://."
    )
    column: str = Field(default="concepts", min_length=1, description="Column of concepts: lists, or text with separators.")
    separator: str = Field(default=",", min_length=1, description="Separator of concepts, if the column is text.")
    quota: int = Field(default=20_000, ge=1, description="Target number of pairs per concept.")
    prefer: ScoreName | None = Field(default=None, description="Score that orders pairs, best first. None: random order.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the random order, which also decides between equal scores.")

    def columns(self) -> frozenset[str]:
        return frozenset({"uid"} if self.prefer is None else {"uid", score_column(self.prefer)})

    def title(self) -> str:
        return f"a concept below its quota of {self.quota:,}"

    def reason(self) -> str:
        return f"every concept has its quota of {self.quota:,}"

    def missing(self) -> str:
        return "no annotated concept"

    def decide_all(self, view: GlobalView) -> None:
        num = max(1, -(-view.num_reached // ROWS_A_BUCKET))
        shared = view.shared
        pool = SharedBuckets((shared / "pool").folder, num, POOL)
        table = SharedBuckets((shared / "table").folder, num, TABLE)
        entries = SharedBuckets((shared / "entries").folder, num, ENTRY)
        samples = dict(view.map(partial(_pooled, self, view, pool), list(enumerate(view.names))))
        edges = _edges(np.concatenate([samples[key] for key in sorted(samples)]), num)
        for number, (keys, concepts) in enumerate(self._table()):
            columns = {"high": keys["f0"], "low": keys["f1"], "concept": concepts}
            table.add(f"{number:08d}", bucket_of(keys, num), columns)
        buckets = pool.regrouped(view.map), table.regrouped(view.map)
        for _ in view.map(partial(_joined, *buckets, entries, edges), range(num)):
            pass
        self._decide(view, entries.regrouped(view.map))

    def _table(self) -> Iterator[tuple[uid.Uids, Keys]]:
        """`(uids, concepts)` of the annotations, a row for each concept of a uid; concepts are hashed to 64 bits."""
        for file in external_files.local(self.annotations, SUFFIXES):
            for frame in frames(file):
                yield self._of_frame(frame, file)

    def _of_frame(self, frame: pl.DataFrame, file: Path) -> tuple[uid.Uids, Keys]:
        for name in ("uid", self.column):
            if name not in frame.columns:
                raise unknown(f"column of {file}", name, frame.columns)
        column = pl.col(self.column)
        if frame[self.column].dtype == pl.String:
            column = column.str.split(self.separator)
        elif frame[self.column].dtype != pl.List(pl.String):
            raise DataError(
                f"{file}: the column {self.column!r} is {frame[self.column].dtype}: it must contain lists of text, or text."
            )
        rows = frame.select("uid", concept=column).explode("concept").with_columns(pl.col("concept").str.strip_chars())
        rows = rows.filter(pl.col("concept").is_not_null() & (pl.col("concept") != ""))
        names = rows["concept"].unique().to_list()
        coded = pl.DataFrame(
            {"concept": names, "code": [concept_code(name) for name in names]}, schema_overrides={"code": pl.UInt64}
        )
        codes = rows.join(coded, on="concept", how="left", maintain_order="left")["code"].to_numpy()
        return uid_values.parsed(rows["uid"].cast(pl.String), str(file), 1), codes

    def _decide(self, view: GlobalView, entries: SharedBuckets) -> None:
        """Walk through all annotated pairs in order."""
        counts: Counter[int] = Counter()
        decided = SharedBuckets((view.shared / "decided").folder, len(view.names), DECIDED)
        for number in range(entries.num):
            rows = entries.read(number)
            rows = rows[np.lexsort((rows["concept"], rows["row"], rows["part"], rows["key"]))]
            starts = _starts(rows)
            first = rows[starts]
            good = self._walk(np.split(rows["concept"], starts[1:]) if len(rows) else [], counts)
            decided.add(f"{number:08d}", first["part"].astype(np.int64), {"row": first["row"], "kept": good})
        for _ in view.scan(partial(_decide, view, decided.regrouped(view.map)), list(enumerate(view.names))):
            pass

    def _walk(self, pairs: list[Keys], counts: Counter[int]) -> npt.NDArray[np.bool_]:
        """Which pairs are kept, in order, of the concepts of each; `counts` are those of the pairs kept so far."""
        good = np.zeros(len(pairs), np.bool_)
        for place, own in enumerate(one.tolist() for one in pairs):
            if any(counts[concept] < self.quota for concept in own):
                good[place] = True
                counts.update(own)
        return good


def _decide(view: GlobalView, decided: SharedBuckets, job: tuple[int, str]) -> None:
    place, part = job
    rows = decided.read(place)
    without = np.setdiff1d(np.flatnonzero(view.reached(part)), rows["row"])
    view.decide(part, rows["row"][rows["kept"]], unknown=without)


def _starts(rows: npt.NDArray[np.void]) -> Places:
    """Where the entries of each pair begin."""
    other = np.zeros(max(len(rows) - 1, 0), np.bool_)
    for name in ("key", "part", "row"):
        other |= rows[name][1:] != rows[name][:-1]
    return np.concatenate([np.zeros(min(len(rows), 1), np.int64), np.flatnonzero(other) + 1])


def concept_code(name: str) -> int:
    """64 bits of a concept's name."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _pooled(asked: ConceptQuota, view: GlobalView, pool: SharedBuckets, job: tuple[int, str]) -> Keys:
    """Put a part's rows to buckets by uid; a sample of the keys by which they are looked at, lowest first."""
    place, part = job
    frame = view.frame(part, asked.columns())
    uids = uid.pack(frame["uid"])
    keys = sampling_keys(uids, asked.seed)
    if asked.prefer is not None:
        keys = _ordered(numbers(frame[score_column(asked.prefer)]).cast(pl.Float64).to_numpy(), keys)
    columns = {"high": uids["f0"], "low": uids["f1"], "key": keys, "part": np.full(len(keys), place, np.int32)}
    pool.add(f"{place:08d}", bucket_of(uids, pool.num), {**columns, "row": frame["row"].to_numpy().astype(np.int64)})
    return np.sort(keys)[:: max(1, len(keys) // LOOKED_AT)]


def _ordered(scores: npt.NDArray[np.float64], chance: Keys) -> Keys:
    """Keys that rise as scores (in single precision) fall, and at random among equals; a missing score comes last."""
    bits = np.where(np.isnan(scores), -np.inf, scores).astype(np.float32).view(np.uint32)
    rising = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31)).astype(np.uint64)
    return ((np.uint64(0xFFFFFFFF) - rising) << np.uint64(32)) | (chance >> np.uint64(32))


def _edges(keys: Keys, num: int) -> Keys:
    """Where the buckets of keys begin, (num - 1,)."""
    keys = np.sort(keys)
    return keys[(np.arange(1, num) * len(keys)) // num] if len(keys) else np.empty(0, np.uint64)


def _joined(pool: SharedBuckets, table: SharedBuckets, entries: SharedBuckets, edges: Keys, number: int) -> None:
    """Put the concepts of a bucket's rows into buckets by key."""
    rows, known = pool.read(number), table.read(number)
    mine = pl.DataFrame({"high": rows["high"].copy(), "low": rows["low"].copy(), "place": np.arange(len(rows))})
    theirs = pl.DataFrame({name: known[name].copy() for name in ("high", "low", "concept")}).unique()
    hits = mine.join(theirs, on=["high", "low"])
    found = rows[hits["place"].to_numpy()]
    columns = {name: found[name] for name in ("key", "part", "row")}
    bucket = np.searchsorted(edges, found["key"], side="right").astype(np.int64)
    entries.add(f"{number:08d}", bucket, {**columns, "concept": hits["concept"].to_numpy()})
