"""Everything a page shows beyond the board, read from the artifacts that its entries name.

A file that a stage did not write, or that is gone, makes its section say so; it never stops the page.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datacomp_core.errors import DataError, StoreError
from datacomp_core.leaderboard.board.rows import Board, BoardRow
from datacomp_core.leaderboard.entries.entry import Entry
from datacomp_core.leaderboard.entries.provenance import data_of
from datacomp_core.leaderboard.site import caption_view, contact_sheets
from datacomp_core.leaderboard.site.figures import Curve, Histogram
from datacomp_core.store import Folder, Store

log = logging.getLogger(__name__)
MAX_POINTS = 400


@dataclass(frozen=True)
class Reason:
    """Rows of the pool that were dropped first for this reason (or kept)."""

    name: str
    count: int
    share: float


@dataclass(frozen=True)
class RecipeSelection:
    """The rows that one recipe kept and dropped, from the first seed's subset."""

    key: str
    method: str
    address: str
    kept: int
    reasons: list[Reason]
    histogram: Histogram | None
    kept_cards: list[contact_sheets.Card]
    dropped_cards: list[contact_sheets.Card]
    sources: list[caption_view.SourceLine] = field(default_factory=list[caption_view.SourceLine])
    missing: list[str] = field(default_factory=list[str])


@dataclass(frozen=True)
class Download:
    """The ledgers' tally of the realised pools, added up."""

    addresses: list[str]
    num_samples: int
    num_candidates: int
    num_mismatches: int
    reasons: list[Reason]


def selections(store: Store, board: Board, found: dict[str, Entry]) -> list[RecipeSelection]:
    """One for every method of our own, in the board's order."""
    return [_selection(store, row, found[row.entries[0]]) for row in board.runs()]


def curves(store: Store, board: Board, found: dict[str, Entry]) -> list[Curve]:
    """The loss of every run whose checkpoint has a history."""
    made: list[Curve] = []
    for row in board.runs():
        for address in row.entries:
            folder = data_of(store, found[address].inputs["checkpoint"])
            if folder is not None and folder.exists("history.jsonl"):
                made.append(_curve(row.key, found[address].seeds.get("training", 0), folder.read("history.jsonl")))
    return made


def download(store: Store, found: dict[str, Entry]) -> Download | None:
    """Return the result of the downloads, each realised pool once; None if no entry has one."""
    pools = {entry.realised_pool.address: entry.realised_pool for entry in found.values() if entry.realised_pool}
    counts = Counter[str]()
    for address in pools:
        record = store.record(address)
        if record is not None:
            counts.update({str(name): int(count) for name, count in record.artifact.get("counts", {}).items()})
    candidates, mismatches = counts.pop("candidates", 0), counts.pop("hash_mismatches", 0)
    if not counts:
        return None
    arrived = sum(pool.num_samples for pool in pools.values())
    return Download(sorted(pools), arrived, candidates or counts.total(), mismatches, reasons_of(counts))


def reasons_of(counts: Mapping[str, int]) -> list[Reason]:
    """Return the reasons: the kept rows first, then the losses, largest first."""
    whole = sum(counts.values()) or 1
    ordered = sorted(counts.items(), key=lambda item: (item[0] not in ("kept", "arrived"), -item[1]))
    return [Reason(name, count, count / whole) for name, count in ordered]


def _selection(store: Store, row: BoardRow, entry: Entry) -> RecipeSelection:
    address, missing = entry.inputs["subset"], list[str]()
    folder = data_of(store, address)
    if folder is None:
        return RecipeSelection(
            row.key, row.method, address, entry.size.total, [], None, [], [], [], ["the subset's record is gone"]
        )
    explained = _json(folder, "explain.json", missing)
    drawn = _json(folder, "histogram.json", missing)
    images = data_of(store, entry.realised_pool.address) if entry.realised_pool else None
    sheets = [_cards(folder, images, name, missing) for name in ("kept.parquet", "dropped.parquet")]
    return RecipeSelection(
        key=row.key,
        method=row.method,
        address=address,
        kept=entry.size.total,
        reasons=[] if explained is None else reasons_of({"kept": int(explained["kept"]), **explained["dropped"]}),
        histogram=_histogram(drawn),
        kept_cards=caption_view.with_captions(sheets[0], store, entry),
        dropped_cards=caption_view.with_captions(sheets[1], store, entry),
        sources=caption_view.sources(store, entry),
        missing=missing,
    )


def _json(folder: Folder, name: str, missing: list[str]) -> Any:
    if folder.exists(name):
        return folder.read_json(name)
    missing.append(f"{name} was not written")
    return None


def _histogram(drawn: Any) -> Histogram | None:
    if not drawn or not drawn.get("counts"):
        return None
    return Histogram(str(drawn["column"]), drawn["edges"], drawn["counts"], drawn["kept"], drawn["cut"])


def _cards(folder: Folder, images: Folder | None, name: str, missing: list[str]) -> list[contact_sheets.Card]:
    try:
        samples = contact_sheets.table(folder, name)
        if samples is None or images is None:
            missing.append(f"{name} was not written" if samples is None else "the downloaded shards are unknown")
            return []
        return contact_sheets.cards(images, contact_sheets.choose(samples), "score" if "score" in samples.columns else None)
    except (DataError, StoreError) as problem:  # images of an adopted pool may be in a bucket that this reader cannot use
        log.warning("no contact sheet: %s", problem)
        missing.append(str(problem))
        return []


def _curve(method: str, seed: int, data: bytes) -> Curve:
    rows = [json.loads(line) for line in data.decode("utf-8").splitlines() if line.strip()]
    points = [(int(row["step"]), float(row["loss"])) for row in rows if row.get("loss") is not None]
    every = max(1, len(points) // MAX_POINTS)
    kept = points[::every] + ([points[-1]] if points and (len(points) - 1) % every else [])
    return Curve(method, seed, [step for step, _ in kept], [loss for _, loss in kept])
