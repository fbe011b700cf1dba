"""Is a bundle what it says? Every claim is followed to the records, and every record to its fingerprint.

Nothing of the bundle's own verdicts is believed: rules are checked again on its records, the average is taken again from its
results, the subset is counted again. What cannot be told from a bundle (was it really trained so?) only a second evaluation can.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from datacomp_core.artifacts import BoardEntry, Checkpoint, EvalReport, ShardSet, Subset
from datacomp_core.errors import DatacompError, DataError
from datacomp_core.leaderboard.entry import ENTRY, Entry
from datacomp_core.leaderboard.evidence import Evidence, against_pool
from datacomp_core.leaderboard.hits import HITS
from datacomp_core.leaderboard.identity import artifact_of, call_of
from datacomp_core.leaderboard.provenance import Link, walk
from datacomp_core.leaderboard.rules import Check, check
from datacomp_core.leaderboard.submission import bundle as names
from datacomp_core.leaderboard.submission.unpack import Listing, results, unpack
from datacomp_core.store import Folder, Store
from datacomp_core.store.record import Record
from datacomp_core.subset_files import SUBSET
from datacomp_core.uid import num_unique, open_subset

TOLERANCE = 1e-6
DATA = re.compile(r"attempt-[0-9a-f]{8}")
SECOND_TOLERANCE = 0.005
Reevaluate = Callable[[Path, Entry], Mapping[str, float | None]]
"""From a checkpoint file and its entry to the main metric of every task."""


@dataclass
class Verified:
    """What was found. `folder` has the bundle's files; `records` is a store of its records without their data."""

    folder: Path
    findings: list[Check] = field(default_factory=list[Check])
    entry: Entry | None = None
    address: str = ""
    records: Store | None = None

    @property
    def ok(self) -> bool:
        """Nothing is broken; what could not be checked does not count against it."""
        return self.entry is not None and all(found.ok is not False for found in self.findings)

    def say(self, rule: str, ok: bool | None, reason: str) -> bool:
        self.findings.append(Check(rule=rule, ok=ok, reason=reason))
        return ok is not False


def verify(
    bundle: Path, folder: Path, *, pool: Folder | None = None, reevaluate: Reevaluate | None = None, known_only: bool = False
) -> Verified:
    """Check a bundle, unpacked into the empty folder `folder`. Never raises for what is wrong with the bundle.

    `pool` (a folder with `metadata/`) has the uids that may be used. `known_only`: a step that this code does not know is a
    breach; else it is said to be unchecked.
    """
    found = Verified(folder)
    try:
        listing = unpack(bundle, folder)
        found.say("archive", True, f"{len(listing.files)} files, each with the size and sha256 of the manifest.")
        _records(found, listing)
        if found.entry is not None and found.records is not None and found.ok:
            _claims(found, found.entry, found.records, pool, known_only=known_only)
        if found.ok and found.entry is not None and reevaluate is not None:
            _second_evaluation(found, found.entry, reevaluate)
    except (DatacompError, ValidationError, KeyError, TypeError, ValueError) as problem:
        text = str(problem) if isinstance(problem, DatacompError) else f"A record is not of a known form: {problem!r}"
        found.say("bundle", False, text.splitlines()[0][:500])
    return found


def _records(found: Verified, listing: Listing) -> None:
    """Make a store of the records; read the entry from it."""
    home = found.folder / names.RECORDS
    store = Store(Folder(home))
    record = store.record(listing.entry)
    if record is None:
        raise DataError(f"The record of {listing.entry} is not in the bundle.")
    for address in store.addresses():
        other = store.record(address)
        assert other is not None
        parent, _, last = str(other.artifact["data"]).rpartition("/")
        adopted = bool(other.adopted_from) and address != listing.entry
        if other.address != address or (not adopted and (parent != address or not DATA.fullmatch(last))):
            raise DataError(f"The record at {address} is of {other.address} with its data in {other.artifact['data']}.")
        store.manifest(other)
    found.records, found.address = store, listing.entry
    _place(found, record, {ENTRY: ENTRY, HITS: HITS})
    found.entry = Entry.model_validate_json((found.folder / ENTRY).read_bytes())


def _place(found: Verified, record: Record, files: Mapping[str, str]) -> None:
    """Put files of the bundle where the record says its data lie, so that the store of records can be read."""
    for name, path in files.items():
        if (found.folder / name).exists():
            target = found.folder / names.RECORDS / str(record.artifact["data"]) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(found.folder / name, target)


def _claims(found: Verified, entry: Entry, store: Store, pool: Folder | None, *, known_only: bool) -> None:
    chain = [link for link in walk(store, found.address) if link.address != found.address]
    _same_chain(found, entry, chain)
    for record, name, path in _files(found, entry, store):
        _is_file_of(found, store, record, name, path)
    _fingerprints(found, store, known_only=known_only)
    _scores(found, entry)
    seen = _subset(found, entry, pool)
    kinds: tuple[type[Any], ...] = (EvalReport, Checkpoint, Subset, ShardSet)
    made: list[Any] = []
    for name, kind in zip(("report", "checkpoint", "subset", "shards"), kinds, strict=True):
        record = store.record(entry.inputs[name])
        if record is None or record.kind != kind.kind:
            raise DataError(f"The entry's {name} is {entry.inputs[name]}, whose record is not in the bundle.")
        made.append(store.artifact(kind, record))
    found.findings += check(entry.track, chain, seen, made[0], made[1], made[2], made[3])
    _same_facts(found, entry, made)


def _same_chain(found: Verified, entry: Entry, chain: list[Link]) -> None:
    claimed = {link.address: link.fingerprint for link in entry.chain}
    proved = {link.address: link.fingerprint for link in chain}
    broken = [f"{link.address} is {link.state}" for link in chain if link.state != "built"]
    broken += [f"{address} is not what the records have" for address in claimed if claimed[address] != proved.get(address)]
    broken += [f"{address} is left out" for address in proved.keys() - claimed.keys()]
    told = f"Entry and records have the same {len(chain)} steps, each used under its own fingerprint."
    found.say("records", not broken, "; ".join(broken[:5]) + "." if broken else told)


def _files(found: Verified, entry: Entry, store: Store) -> Iterator[tuple[Record, str, str]]:
    """Which record's file each file of the bundle claims to be."""
    wanted = [
        (found.address, ENTRY, ENTRY),
        (found.address, HITS, HITS),
        (entry.inputs["report"], names.RESULTS, "eval_results.jsonl"),
        (entry.inputs["report"], names.REPORT, "report.json"),
        (entry.inputs["subset"], f"{names.SAMPLES}/{SUBSET}", SUBSET),
        (entry.inputs["checkpoint"], names.CHECKPOINT, "checkpoint.pt"),
    ]
    for address, name, path in wanted:
        record = store.record(address)
        if record is None:
            raise DataError(f"The record {address} is not in the bundle.")
        if (found.folder / name).exists():
            yield record, name, path
        elif name not in (names.CHECKPOINT, HITS):
            raise DataError(f"{name} is not in the bundle.")


def _is_file_of(found: Verified, store: Store, record: Record, name: str, path: str) -> None:
    from datacomp_core.store.folder import hash_file

    rows = store.manifest(record).filter(path=path).to_dicts()
    wanted = str(rows[0]["sha256"]) if rows else "none"
    if wanted and wanted != hash_file(found.folder / name):
        found.say("files", False, f"{name} is not the {path} that the record {record.address} names.")
    else:
        found.say(
            "files", True if wanted else None, f"{name} is {path} of {record.address}." if wanted else f"{name} was adopted."
        )


def _fingerprints(found: Verified, store: Store, *, known_only: bool) -> None:
    """Every fingerprint again from kind, version, specs and inputs: a spec that was changed afterwards shows."""
    unknown: list[str] = []
    for record in store.records():
        address, _, digits = record.address.rpartition("--")
        if digits and not record.adopted_from and call_of(record, _artifacts(store)) is None:
            unknown.append(f"{address}--{digits}")
    told = f"{sum(1 for _ in store.addresses()) - len(unknown)} fingerprints were computed again and agree"
    if unknown:
        told += f"; no step of this code gives those of {', '.join(unknown[:4])}: a spec was changed, or the code is another"
    found.say("fingerprints", (False if known_only else None) if unknown else True, told + ".")


def _artifacts(store: Store) -> Callable[[str], Any]:
    def artifact(address: str) -> Any:
        record = store.record(address)
        return None if record is None else artifact_of(record)

    return artifact


def _scores(found: Verified, entry: Entry) -> None:
    """The entry's scores against the results in the original's form, and its average against its scores."""
    given = results((found.folder / names.RESULTS).read_bytes())
    wrong = [task.name for task in entry.tasks if not _close(task.value, given.get(task.key))]
    found.say("scores", not wrong, f"results.jsonl has other scores of {', '.join(wrong)}." if wrong else "As in results.jsonl.")
    scored = [task.value for task in entry.tasks if task.scored and task.metric]
    known = [value for value in scored if value is not None]
    average = sum(known) / len(known) if known and len(known) == len(scored) else None
    ok = _close(average, entry.average)
    found.say("average", ok, f"The mean of {len(known)} scores is {average}; the entry says {entry.average}.")


def _close(one: float | None, other: Any) -> bool:
    if one is None or other is None:
        return one is None and other is None
    return math.isfinite(float(other)) and abs(one - float(other)) <= TOLERANCE


def _subset(found: Verified, entry: Entry, pool: Folder | None) -> Evidence:
    """Count the subset again; look its uids up where the pool is at hand."""
    uids = open_subset(found.folder / names.SAMPLES / SUBSET)
    counted = (len(uids), num_unique(uids))
    ok = counted == (entry.size.total, entry.size.unique)
    said = f"{counted[0]:,} uids, {counted[1]:,} distinct; the entry says {entry.size.total:,} and {entry.size.unique:,}."
    found.say("subset", ok, said)
    if pool is None:
        return Evidence()
    both = against_pool(Folder(found.folder / names.SAMPLES), pool)
    foreign = both.unique[0] - both.shared
    return Evidence(uids=both.unique[0], foreign=foreign, example=next(iter(both.only_first), ""))


def _same_facts(found: Verified, entry: Entry, made: list[Any]) -> None:
    """What the entry says in its own words, against the artifacts of the records."""
    report, checkpoint, subset, shards = made
    record = found.records.record(found.address) if found.records else None
    board = BoardEntry.model_validate(record.artifact) if record else None
    pairs = {
        "scale": (entry.scale, checkpoint.scale),
        "suite": ((entry.suite, entry.suite_version), (report.suite, report.suite_version)),
        "recipe": (entry.recipe, subset.recipe),
        "model": (entry.model, checkpoint.model),
        "samples seen": (entry.samples_seen, checkpoint.samples_seen),
        "seed": (entry.seeds.get("training"), checkpoint.seed),
        "pairs": ((entry.size.total, entry.size.trained_on), (subset.num_samples, shards.num_samples)),
        "average": (entry.average, report.average),
        "average of its record": (entry.average, board.average if board else None),
    }
    wrong = [f"{name} {said} in place of {proved}" for name, (said, proved) in pairs.items() if said != proved]
    found.say("entry", not wrong, f"The entry says {'; '.join(wrong)}." if wrong else "The entry says what its records say.")


def _second_evaluation(found: Verified, entry: Entry, reevaluate: Reevaluate) -> None:
    rule, checkpoint = "evaluated again", found.folder / names.CHECKPOINT
    if not checkpoint.exists():
        found.say(rule, False, "The bundle has no checkpoint, and this board evaluates again: pack it with --checkpoint.")
        return
    again = reevaluate(checkpoint, entry)
    apart = {
        task.name: (task.value, value)
        for task in entry.tasks
        if task.value is not None and ((value := again.get(task.key)) is None or abs(value - task.value) > SECOND_TOLERANCE)
    }
    told = "; ".join(f"{name}: {said} said, {value} found" for name, (said, value) in list(apart.items())[:5])
    found.say(rule, not apart, told + "." if apart else f"{len(again)} tasks give the same scores (to {SECOND_TOLERANCE}).")
