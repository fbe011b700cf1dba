"""Collects everything known about one sampled pair: columns, each method's verdict and reason, download, captions,
near-duplicates."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import polars as pl

from datacomp_core.caption_sets import captions_of
from datacomp_core.errors import DatacompError, SpecError
from datacomp_core.explore.clusters import NONE
from deployments.explore.facet_counts import AUTOMATIC_ROWS, FacetCounts

LONGEST = 20_000
MAX_CAPTIONS = 200
DUPLICATE = 0.95


def pair(judging: FacetCounts, row: int) -> dict[str, Any]:
    """See the module; plain values for JSON."""
    explorer = judging.explorer
    sample = explorer.sample
    found = sample.rows.row(row, named=True)
    part = sample.parts[found.pop("part")]
    place = int(found.pop("row"))
    uid = str(found["uid"])
    cluster = int(explorer.clusters[row])
    where = explorer.pictures.place(uid)
    return {
        "row": row,
        "uid": uid,
        "text": _cut(found.pop("text", None)),
        "url": _cut(found.pop("url", None)),
        "part": part,
        "place": place,
        "columns": {name: plain_value(value) for name, value in found.items() if name != "uid"},
        "cluster": None if cluster == NONE else {"number": cluster, "name": explorer.cluster_names[cluster]},
        "methods": [_method(judging, number, row) for number in range(len(explorer.origin.methods))],
        "picture": None if where is None else {name: plain_value(where[name]) for name in ("shard", "key", "offset", "length")},
        "ledger": _ledger(judging, uid),
        "captions": _captions(judging, part, place),
        "duplicates": _duplicates(judging, row),
    }


def _method(judging: FacetCounts, number: int, row: int) -> dict[str, Any]:
    explorer = judging.explorer
    method, times = explorer.origin.methods[number], int(explorer.times[number][row])
    reason, note = "", ""
    if not times:
        try:
            if explorer.sample.num_pool > AUTOMATIC_ROWS:
                raise SpecError(f"Reasons are computed for pools of up to {AUTOMATIC_ROWS:,} rows.")
            codes, words = judging.reasons(number)
            reason = words[int(codes[row])]
        except DatacompError as problem:
            note = str(problem)
    return {"name": method.name, "times": times, "reason": reason, "note": note}


def _ledger(judging: FacetCounts, uid: str) -> dict[str, Any] | None:
    table = judging.explorer.ledger
    if table is None:
        return None
    found = table.filter(pl.col("uid") == uid)
    return {name: plain_value(value) for name, value in found.row(0, named=True).items()} if found.height else None


def _captions(judging: FacetCounts, part: str, place: int) -> list[dict[str, Any]]:
    """The other captions that caption sets of this pool have for the row."""
    made: list[dict[str, Any]] = []
    for folder in judging.explorer.origin.captions:
        rows = captions_of(folder, part).filter(pl.col("row") == place)
        made += [{"source": one["source"], "text": _cut(one["text"])} for one in rows.iter_rows(named=True)]
    return made[:MAX_CAPTIONS]


def _duplicates(judging: FacetCounts, row: int) -> list[dict[str, Any]]:
    """Near-duplicates of the row in the sample, the nearest first."""
    pairs = judging.explorer.near_pairs
    first = (pairs.first == row) & (pairs.cosine >= DUPLICATE)
    second = (pairs.second == row) & (pairs.cosine >= DUPLICATE)
    near = [(float(c), int(r)) for c, r in zip(pairs.cosine[first], pairs.second[first], strict=True)]
    near += [(float(c), int(r)) for c, r in zip(pairs.cosine[second], pairs.first[second], strict=True)]
    return [{"row": other, "score": round(cosine, 4)} for cosine, other in sorted(near, reverse=True)[:24]]


def cards(judging: FacetCounts, rows: list[int], scores: list[float] | None = None) -> list[dict[str, Any]]:
    """Return what a grid of images shows for some rows."""
    explorer = judging.explorer
    columns = [name for name in ("uid", "text") if name in explorer.sample.rows.columns]
    table = explorer.sample.rows.select(columns)[rows]
    made: list[dict[str, Any]] = []
    for number, (row, one) in enumerate(zip(rows, table.iter_rows(named=True), strict=True)):
        text = one.get("text") or ""
        made.append(
            {
                "row": row,
                "text": text if len(text) <= 300 else text[:300] + "…",
                "picture": explorer.pictures.place(one["uid"]) is not None,
                "score": None if scores is None else round(float(scores[number]), 4),
                "kept": [int(times[row]) for times in explorer.times],
            }
        )
    return made


def plain_value(value: Any) -> Any:
    """Convert a value to JSON: no NaN, no date, no integer that JavaScript would round."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 53 else str(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    return _cut(str(value))


def _cut(text: Any) -> str | None:
    if text is None:
        return None
    return str(text) if len(str(text)) <= LONGEST else str(text)[:LONGEST] + "…"
