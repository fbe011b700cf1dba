"""Removes samples: deletes their bytes from every shard set of the store, and lists and marks everything made with them. A
shard is rewritten without them, and its index, ledger and statistics are updated. Everything made from it (subsets, shards,
scores, checkpoints, results) gets `_takedown.json` next to its record: it cannot be unlearned, only marked and made again.
Marks are written first, so that the same command finishes a takedown that was killed anywhere. Every line of a request gets an
answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from datacomp_core import uid
from datacomp_core.artifacts import ShardSet
from datacomp_core.errors import DatacompError, DataError
from datacomp_core.parallel import concurrently
from datacomp_core.parts import METADATA, part_names, scan
from datacomp_core.pool import amend, removal, takedown_lost, takedown_unpublished
from datacomp_core.pool.stats import read_ledger
from datacomp_core.pool.takedown_requests import BEFORE, KNOWN, NOW, TakedownRequests, normal_urls
from datacomp_core.shards import INDEX, LEDGER, TAKEN_DOWN, stored_index, tars_of, write_index
from datacomp_core.store import Folder, Store, scratch
from datacomp_core.store.folder import FileStat
from datacomp_core.store.record import Record, now
from datacomp_core.subset_files import SubsetFile, slices

MARK, MARKED_UIDS = "_takedown.json", "_takedown.npy"


MOST_ANSWERS = 100_000
"""Number of answers kept in memory; a file has them all."""


@dataclass
class TakedownResult:
    """Removed samples by shard set, the addresses of what was made with them, and what could not be checked, with the reason.
    `not_found` counts request lines that match nothing in the store; `places` are all shard sets, by number.
    """

    removed: dict[str, int] = field(default_factory=dict[str, int])
    marked: list[str] = field(default_factory=list[str])
    unread: dict[str, str] = field(default_factory=dict[str, str])
    not_found: int = 0
    num_lines: int = 0
    places: list[str] = field(default_factory=list[str])

    def count(self, address: str, number: int) -> None:
        if number:
            self.removed[address] = self.removed.get(address, 0) + number


@dataclass(frozen=True)
class _Set:
    """A shard set, built or half changed, and the location of its files."""

    record: Record
    shards: ShardSet
    folder: Folder
    is_interrupted: bool


def take_down_list(
    store: Store, source: Path, answers: Path | None = None, most: int = MOST_ANSWERS
) -> tuple[TakedownResult, pl.DataFrame]:
    """`take_down` for a file with one uid or url per line, and answers: line, request, answer, found. At most `most` answers
    are returned, lines that found nothing first; all of them are written to the csv `answers`, piece by piece, so that memory
    does not grow with the list.
    """
    with scratch() as folder, answers.open("wb") if answers else nullcontext() as table:
        requests = TakedownRequests(folder).read(source)
        taken = take_down(store, requests)
        told = pl.DataFrame()
        for number, piece in enumerate(requests.answers(taken.places)):
            rows = piece.drop("uids")
            if table is not None:
                rows.write_csv(table, include_header=number == 0)
            told = pl.concat([told, rows] if told.height else [rows]).sort("found", "line").head(most)
        taken.num_lines = requests.num_lines
        return taken, told.sort("line")


def take_down(store: Store, requests: TakedownRequests) -> TakedownResult:
    """Remove samples from all shard sets of the store and mark what was made with them.

    What cannot be read (a pool whose metadata is gone) is listed in `unread` and does not stop the rest.
    """
    taken = TakedownResult()
    if requests.has_urls():
        _match_urls(store, requests, taken)
    requests.settle()
    sets = list(_sets(store, taken))
    taken.places = [one.record.address for one in sets]
    hit = {one.record.address for one in sets if not one.shards.tars and _is_concerned(one, requests, taken)}
    _see_metadata(store, requests, taken)
    aside = takedown_lost.affected_tars(store, requests, taken.unread)
    touched = hit | _makers(store, requests, taken) | _marked_before(store, requests)
    _mark(store, touched, {one.lost.address for one in aside if len(one.uids)}, requests, taken)
    for note, number in takedown_lost.delete(aside, requests, taken.places).items():
        taken.count(note, number)
    for address, number in takedown_unpublished.take_from(store, requests, taken.places, taken.unread).items():
        taken.count(address, number)
    for folder in dict.fromkeys(one.folder for one in sets if not one.shards.tars):
        here = [one for one in sets if one.folder == folder and not one.shards.tars]
        if any(one.record.address in hit or one.is_interrupted for one in here):
            _change(store, here, requests, taken)
    concerned = {one.folder for one in sets if one.record.address in touched}
    for one in sets:
        if one.shards.tars and (one.is_interrupted or tars_of(store, one.shards) in concerned):
            _change_view(store, one, requests, taken)
    taken.not_found = sum(piece.height - int(piece["found"].sum()) for piece in requests.answers(taken.places))
    return taken


# Requested samples -----------------------------------------------------------------------------------------------------


def _match_urls(store: Store, requests: TakedownRequests, taken: TakedownResult) -> None:
    """Find the uids of the urls in the metadata of the store's pools."""
    number = 0
    for record in store.records("pools"):
        metadata = store.data(record) / METADATA
        try:
            for part in part_names(metadata):
                table = scan(metadata, part).select("uid", "url").collect()
                requests.match(table.with_columns(normal_urls(table["url"]).alias("url")), number)
                number += 1
        except (DatacompError, OSError, pl.exceptions.PolarsError) as problem:
            taken.unread[record.address] = str(problem).split("\n", 1)[0]


def _see_metadata(store: Store, requests: TakedownRequests, taken: TakedownResult) -> None:
    """Record uids that are in a pool's metadata but in no shard set: a valid request without bytes here."""
    for record in store.records("pools"):
        metadata = store.data(record) / METADATA
        try:
            for part in part_names(metadata) if requests.has_unknown() else ():
                requests.note(scan(metadata, part).select(pl.col("uid").str.to_lowercase()).collect()["uid"], KNOWN)
        except (DatacompError, OSError, pl.exceptions.PolarsError) as problem:
            taken.unread[record.address] = str(problem).split("\n", 1)[0]


def _sets(store: Store, taken: TakedownResult) -> Iterator[_Set]:
    taken.unread |= amend.left_by_older(store)
    for record, is_interrupted in store.standing("shards"):
        try:
            shards = store.artifact(ShardSet, record)
            folder = store.folder(shards)
            if not folder.exists():
                raise DataError(f"{folder} does not exist: restore it, or remove its record.")
            yield _Set(record, shards, folder, is_interrupted)
        except DatacompError as problem:
            taken.unread[record.address] = str(problem)


def _is_concerned(one: _Set, requests: TakedownRequests, taken: TakedownResult) -> bool:
    """Return whether a shard set has requested samples or candidates, or an unfinished removal."""
    concerned = bool(removal.pending(one.folder))
    try:
        booked = set((one.folder / LEDGER).files(".parquet"))
        for name, rows, book in concurrently(partial(_records_of, one.folder, booked), _indexed(one.folder)):
            here = rows.filter(requests.among(rows["uid"]))
            if here.height:
                removal.see_place(one.folder, name)
                requests.note(here["uid"], KNOWN)
                concerned = True
            if book is not None:
                concerned |= _in_ledger(book, requests, rows)
    except DatacompError as problem:
        taken.unread[one.record.address] = str(problem)
        return False
    return concerned


def _records_of(folder: Folder, booked: set[str], name: str) -> tuple[str, pl.DataFrame, pl.DataFrame | None]:
    """A shard's index and ledger."""
    return name, stored_index(folder, name)[0], read_ledger(folder, name) if f"{name}.parquet" in booked else None


def _in_ledger(book: pl.DataFrame, requests: TakedownRequests, rows: pl.DataFrame) -> bool:
    """Record what a ledger knows about the requested uids; return whether a retry might still fetch some of them."""
    book = book.with_columns(pl.col("uid").str.to_lowercase())
    asked = book.filter(requests.among(book["uid"]))
    before = asked["reason"] == TAKEN_DOWN
    requests.note(asked.filter(before.fill_null(value=False))["uid"], BEFORE)
    left = asked.filter((asked["reason"] != TAKEN_DOWN) & ~asked["uid"].is_in(rows["uid"].implode()))
    requests.note(left["uid"], KNOWN)
    return bool(left.height)


def _makers(store: Store, requests: TakedownRequests, taken: TakedownResult) -> set[str]:
    """Return the subsets that contain one of the uids."""
    found: set[str] = set()
    for record in store.records("subsets"):
        try:
            for uids, _ in slices([SubsetFile(store.data(record))]):
                here = (
                    uid.unpack(uids[uid.locate(requests.uids, uids)[1] > 0]) if len(requests.uids) else pl.Series(dtype=pl.String)
                )
                if len(here):
                    found.add(record.address)
                    requests.note(here, KNOWN)
        except DatacompError as problem:
            taken.unread[record.address] = str(problem)
    return found


# Derived artifacts ---------------------------------------------------------------------------------------------------


def _marked_before(store: Store, requests: TakedownRequests) -> set[str]:
    """Return what an earlier takedown of some of these uids marked: a killed one may have left work there."""
    found: set[str] = set()
    for record in _all_records(store):
        if store.home(record.address).exists(MARKED_UIDS):
            marked = _marked_uids(store, record.address)
            known = uid.locate(marked, np.asarray(requests.uids))[1] > 0 if len(requests.uids) else np.empty(0, bool)
            if known.any():
                found.add(record.address)
                if record.kind == "shards":
                    requests.note(uid.unpack(np.asarray(requests.uids)[known]), BEFORE)
    return found


def _all_records(store: Store) -> list[Record]:
    return [record for record, _ in store.standing()]


def _marked_uids(store: Store, address: str) -> uid.Uids:
    return uid.read_subset(store.home(address).read(MARKED_UIDS), f"{address}/{MARKED_UIDS}")


def _mark(store: Store, touched: set[str], lost: set[str], requests: TakedownRequests, taken: TakedownResult) -> None:
    """Mark `touched`, and everything made from it or from lost data."""
    taken.marked = sorted(_downstream(store, touched | lost) | touched)
    for address in taken.marked:
        home, uids = store.home(address), requests.known()
        if home.exists(MARKED_UIDS):
            uids = np.unique(np.concatenate([uids, _marked_uids(store, address)]))
        home.write(MARKED_UIDS, uid.subset_bytes(uids))
        home.write_json(MARK, {"at": now(), "num_uids": len(uids), "uids_in": MARKED_UIDS})


def _downstream(store: Store, touched: set[str]) -> set[str]:
    """Return addresses of everything made from `touched`, directly or indirectly."""
    records = _all_records(store)
    found: set[str] = set()
    while True:
        more = {
            record.address
            for record in records
            if record.address not in found | touched
            and any(used["address"] in found | touched for given in record.inputs.values() for used in given)
        }
        if not more:
            return found
        found |= more


# Removing ------------------------------------------------------------------------------------------------------------


def _indexed(folder: Folder) -> list[str]:
    return [name.removesuffix(".parquet") for name in (folder / INDEX).files(".parquet")]


def _change(store: Store, here: list[_Set], requests: TakedownRequests, taken: TakedownResult) -> None:
    """Rewrite the shards of one folder; all shard sets that use it as data get new records."""
    changed: dict[str, FileStat] = {}
    folder = here[0].folder
    with ExitStack() as alone:
        for one in here:
            alone.enter_context(store.alone(one.record.address, "take samples out of it"))
        begun = [amend.begin(store, one.record.address, amend.TAKEDOWN) for one in here]
        for record, _ in begun:
            amend.drop_unfinished(store, record)
        for name in _indexed(folder):
            rows = stored_index(folder, name)[0]
            hit = rows.filter(requests.among(rows["uid"]))["uid"]
            gone = removal.from_shard(folder, name, requests.among, TAKEN_DOWN, changed)
            for one in here:
                requests.note(hit, NOW, taken.places.index(one.record.address))
                taken.count(one.record.address, gone)
        for record, shards in begun:
            amend.finish(store, record, shards, changed, amend.TAKEDOWN)


def _change_view(store: Store, view: _Set, requests: TakedownRequests, taken: TakedownResult) -> None:
    """Rewrite the index of a view from the current index of its tars."""
    changed: dict[str, FileStat] = {}
    tars = tars_of(store, view.shards)
    place = taken.places.index(view.record.address)
    if not view.is_interrupted and not any(_is_out_of_date(view.folder, tars, name, requests) for name in _indexed(view.folder)):
        return  # already done by an earlier takedown
    with store.alone(view.record.address, "take samples out of it"):
        record, shards = amend.begin(store, view.record.address, amend.TAKEDOWN)
        for name in _indexed(view.folder):
            rows, _ = stored_index(view.folder, name)
            asked = requests.among(rows["uid"])
            requests.note(rows.filter(asked)["uid"], NOW, place)
            taken.count(view.record.address, int(asked.sum()))
            kept = _placed_anew(tars, rows.filter(~asked))
            if not kept.equals(rows):
                file = write_index(view.folder, name, kept)
                changed[file.path] = file
        amend.finish(store, record, shards, changed, amend.TAKEDOWN)


def _is_out_of_date(folder: Folder, tars: Folder, name: str, requests: TakedownRequests) -> bool:
    rows, _ = stored_index(folder, name)
    asked = requests.among(rows["uid"])
    return bool(asked.any()) or not _placed_anew(tars, rows).equals(rows)


def _placed_anew(tars: Folder, rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of a view with the current positions of their samples."""
    pieces: list[pl.DataFrame] = [rows.head(0)]
    numbered = rows.with_row_index("place")
    for (tar,), some in numbered.group_by("shard"):
        now_there = stored_index(tars, str(tar))[0].select("uid", at="offset", size="length").unique("uid", keep="first")
        found = some.join(now_there, on="uid", how="left")
        if found["at"].null_count():
            raise DataError(f"{tars.at(str(tar))}.tar does not contain samples that a view of it has: make the view again.")
        pieces.append(found.with_columns(offset=pl.col("at"), length=pl.col("size")).drop("at", "size"))
    placed = pl.concat(pieces, how="diagonal_relaxed").sort("place") if len(pieces) > 1 else numbered
    return placed.select(rows.columns)
