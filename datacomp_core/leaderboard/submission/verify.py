"""Is a bundle what it says? Every claim is followed to the records, and every record to its fingerprint.

Nothing of the bundle's own numbers and verdicts is believed: scores are computed again from its predictions, uids are counted
again, the entry is made again from its records, rules are checked again. What a bundle cannot show (was it really
trained so?) only a second evaluation can.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from datacomp_core import file_access
from datacomp_core.artifacts import BoardEntry, Checkpoint, EvalReport, ShardSet, Subset
from datacomp_core.errors import DatacompError, DataError
from datacomp_core.leaderboard.entries.data_check import DataCheck, against_pool
from datacomp_core.leaderboard.entries.entry import ENTRY, Entry
from datacomp_core.leaderboard.entries.make_entry import INPUTS, EntrySpec
from datacomp_core.leaderboard.entries.per_image_scores import HITS, PREDICTIONS
from datacomp_core.leaderboard.entries.provenance import walk
from datacomp_core.leaderboard.entries.recorded_call import RecordedCall, artifact_of, call_of
from datacomp_core.leaderboard.entries.rules import RuleCheck, check, recipe_of
from datacomp_core.leaderboard.submission import bundle as names
from datacomp_core.leaderboard.submission import download_check, manifest, recompute
from datacomp_core.leaderboard.submission.recompute import Made, RecomputedEntry
from datacomp_core.leaderboard.submission.unpack import BundleManifest, unpack
from datacomp_core.scales import SCALES
from datacomp_core.store import Folder, Store
from datacomp_core.store.record import MANIFEST, Record
from datacomp_core.subset_files import SUBSET

if TYPE_CHECKING:
    import polars as pl

DATA = re.compile(r"attempt-[0-9a-f]{8}")
MAX_CHAIN = 500
SECOND_TOLERANCE = 0.005
SECOND_AVERAGE = 0.002
"""Devices differ by a sample here and there, in both directions: an average moves less than a task."""
ADOPTABLE = ("pools", "shards", "embeddings", "scores", "evalsets")
Reevaluate = Callable[[Path, Entry], Mapping[str, float | None]]
"""From a checkpoint file and its entry to the main metric of every task."""


@dataclass
class VerificationResult:
    """The result of verifying a bundle. `folder` has the bundle's files; `proved` is the recomputed entry of a valid bundle."""

    folder: Path
    findings: list[RuleCheck] = field(default_factory=list[RuleCheck])
    entry: Entry | None = None
    address: str = ""
    proved: RecomputedEntry | None = None
    hidden: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def ok(self) -> bool:
        """Nothing is broken; what could not be checked does not count against it."""
        return self.proved is not None and all(found.ok is not False for found in self.findings)

    def say(self, rule: str, ok: bool | None, reason: str) -> bool:
        """Add a finding. A reason goes to strangers: it names no path of this machine."""
        for path, name in {str(self.folder): "the bundle", **self.hidden}.items():
            reason = reason.replace(f"{path}/", "").replace(path, name)
        self.findings.append(RuleCheck(rule=rule, ok=ok, reason=reason))
        return ok is not False

    def say_all(self, rule: str, wrong: Iterator[str] | list[str], said: str, told: str) -> bool:
        """Add one finding for several differences; with the text `told` if there are none."""
        some = list(wrong)
        more = f" (and {len(some) - 4} more)" if len(some) > 4 else ""
        return self.say(rule, not some, f"{said} {'; '.join(some[:4])}{more}." if some else told)


def verify(
    bundle: Path,
    folder: Path,
    *,
    pool: Folder | None = None,
    downloaded: Folder | None = None,
    reevaluate: Reevaluate | None = None,
    known_only: bool = False,
) -> VerificationResult:
    """Check a bundle, unpacked into the empty folder `folder`. Never raises for what is wrong with the bundle.

    `pool` (a folder with `metadata/`) has the uids that may be used; `downloaded` (a folder with `index/`) has the shards that
    the subset was cut from, as the sender says. `known_only`: a step that this code does not know is a breach; else it is said to
    be unchecked. Call it in a process of its own (`isolated_check.verify_apart`) for bundles of strangers.
    """
    given = {"the pool": pool, "the shards": downloaded}
    found = VerificationResult(folder, hidden={place.url: name for name, place in given.items() if place is not None})
    try:
        with file_access.refuse_unpinned():
            _check(found, bundle, pool, downloaded, known_only=known_only)
    except DatacompError as problem:
        found.say("bundle", False, str(problem).splitlines()[0][:500])
    except ValidationError as problem:
        fault = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in fault["loc"])[:200]
        found.say("bundle", False, f"{problem.title} of the bundle has an unknown form at {where!r}: {fault['msg']}.")
    except Exception as problem:  # whatever a hostile file makes a library raise is a verdict on the file
        found.say("bundle", False, f"A file of the bundle has an unknown form ({type(problem).__name__}).")
    if found.ok and reevaluate is not None:
        second_evaluation(found, reevaluate)
    return found


def _check(found: VerificationResult, bundle: Path, pool: Folder | None, downloaded: Folder | None, *, known_only: bool) -> None:
    listing = unpack(bundle, found.folder)
    found.say("archive", True, f"{len(listing.files)} files, each with the size and sha256 of the manifest.")
    store, record = _records(found, listing)
    _claims(found, store, record, pool, known_only=known_only)
    if downloaded is not None and found.proved is not None:
        _compare_arrived(found, store, downloaded)


def _records(found: VerificationResult, listing: BundleManifest) -> tuple[Store, Record]:
    """Make a store of the records; read the entry from it."""
    store = Store(Folder(found.folder / names.RECORDS))
    addresses = list(store.addresses())
    if len(addresses) > MAX_CHAIN:
        raise DataError(f"The bundle has {len(addresses)} records; the limit is {MAX_CHAIN}.")
    for address in addresses:
        other = store.record(address)
        assert other is not None
        parent, _, last = str(other.artifact["data"]).rpartition("/")
        if other.address != address or other.kind != address.partition("/")[0]:
            raise DataError(f"The record at {address} describes {other.kind} {other.address}.")
        if other.adopted_from is None and (parent != address or not DATA.fullmatch(last)):
            raise DataError(f"The record at {address} has its data in {other.artifact['data']}.")
        if other.adopted_from is not None and other.kind not in ADOPTABLE:
            raise DataError(f"{address} was adopted: results must be made by a step.")
        manifest.check(found.folder / names.RECORDS / address / MANIFEST, other)
        store.manifest(other)
    record = store.record(listing.entry)
    if record is None:
        raise DataError(f"The record of {listing.entry} is not in the bundle.")
    found.address = listing.entry
    found.entry = Entry.model_validate_json((found.folder / ENTRY).read_bytes())
    return store, record


def _claims(found: VerificationResult, store: Store, record: Record, pool: Folder | None, *, known_only: bool) -> None:
    entry = found.entry
    assert entry is not None
    _same_chain(found, entry, store)
    manifests: dict[str, pl.DataFrame] = {}
    for other, name, path in _files(found, entry, store):
        if other.address not in manifests:
            manifests[other.address] = store.manifest(other)
        _is_file_of(found, manifests[other.address], other, name, path)
    calls = {address: call_of(other, _artifacts(store)) for address in store.addresses() if (other := store.record(address))}
    _fingerprints(found, store, calls, known_only=known_only)
    made = _made(entry, store)
    if not found.say_all(
        "inputs", _other_inputs(entry, record, made), "The entry", "The entry belongs to the report that its record names."
    ):
        return
    scores = recompute.rescored(found.folder)
    wrong = [*scores.wrong, *recompute.score_differences(found.folder, entry, scores)]
    told = (
        f"All scores of suite {scores.suite} version {scores.suite_version} were computed again from the predictions and agree."
    )
    found.say_all("scores", wrong, "Different from what the predictions give:", told)
    proved = recompute.prove(store, found.folder, _spec_of(record, calls.get(record.address)), made, scores)
    uids = recompute.count_subset(found.folder)
    apart = list(recompute.amounts_differ(entry.size, made, record.artifact, proved.entry, uids))
    found.say_all("subset and records", apart, "The bundle has", f"{uids[0]:,} uids, {uids[1]:,} distinct, as the entry says.")
    differ = [
        *recompute.entry_differences(entry, proved.entry),
        *_placed(record, calls.get(record.address), proved.entry, known_only),
    ]
    found.say_all("entry", differ, "The entry says", "The entry agrees with its records.")
    if recompute.hits_differ(found.folder, proved.hits):
        found.say("hits", False, "hits.npz differs from what the predictions give.")
    looked = _look_up(found, pool)
    checks = check(entry.track, proved.entry.chain, looked, *made)
    found.findings += checks
    found.proved = RecomputedEntry(proved.entry.model_copy(update={"checks": checks}), proved.hits)


def _same_chain(found: VerificationResult, entry: Entry, store: Store) -> None:
    chain = [link for link in walk(store, found.address) if link.address != found.address]
    claimed = {link.address: link.fingerprint for link in entry.chain}
    proved = {link.address: link.fingerprint for link in chain}
    broken = [f"{link.address} is {link.state}" for link in chain if link.state != "built"]
    broken += [f"{address} differs from the records" for address in claimed if claimed[address] != proved.get(address)]
    broken += [f"{address} is left out" for address in proved.keys() - claimed.keys()]
    told = f"Entry and records have the same {len(chain)} steps, each used under its own fingerprint."
    found.say("records", not broken, "; ".join(broken[:5]) + "." if broken else told)


def _files(found: VerificationResult, entry: Entry, store: Store) -> Iterator[tuple[Record, str, str]]:
    """Which record's file each file of the bundle claims to be."""
    predicted = sorted(path.name for path in (found.folder / PREDICTIONS).glob("*.npz"))
    report = entry.inputs["report"]
    wanted = [
        (found.address, ENTRY, ENTRY),
        (found.address, HITS, HITS),
        (report, names.RESULTS, "eval_results.jsonl"),
        (report, names.REPORT, "report.json"),
        *((report, f"{PREDICTIONS}/{name}", f"{PREDICTIONS}/{name}") for name in predicted),
        (entry.inputs["subset"], f"{names.SAMPLES}/{SUBSET}", SUBSET),
        (entry.inputs["checkpoint"], names.TRAINING, names.TRAINING),
        (entry.inputs["checkpoint"], names.CHECKPOINT, "checkpoint.pt"),
    ]
    for address, name, path in wanted:
        record = store.record(address)
        if record is None:
            raise DataError(f"The record {address} is not in the bundle.")
        if (found.folder / name).exists():
            yield record, name, path
        elif name not in (names.CHECKPOINT, names.TRAINING, HITS):
            raise DataError(f"{name} is not in the bundle.")


def _is_file_of(found: VerificationResult, listed: pl.DataFrame, record: Record, name: str, path: str) -> None:
    from datacomp_core.store.folder import hash_file

    rows = listed.filter(path=path).to_dicts()
    wanted = str(rows[0]["sha256"]) if len(rows) == 1 else "none"
    if wanted != hash_file(found.folder / name):
        found.say("files", False, f"{name} is not the {path} that the record {record.address} names.")
    elif not name.startswith(PREDICTIONS):
        found.say("files", True, f"{name} is {path} of {record.address}.")


def _fingerprints(found: VerificationResult, store: Store, calls: dict[str, RecordedCall | None], *, known_only: bool) -> None:
    """Every fingerprint again from kind, version, specs and inputs: a spec that was changed afterwards shows."""
    unknown = [address for address, call in calls.items() if call is None]
    told = f"{len(calls) - len(unknown)} fingerprints were computed again and agree"
    if unknown:
        told += f"; no step of this code gives those of {', '.join(unknown[:4])}: a spec was changed, or the code is another"
    found.say("fingerprints", (False if known_only else None) if unknown else True, told + ".")
    records = [record for address in calls if (record := store.record(address)) is not None]
    wrong = [text for record in records for text in recompute.artifact_differences(record, calls[record.address])]
    wrong += [
        f"{r.address} is at version {r.version}" for r in records if (c := calls[r.address]) and c.step.version != r.version
    ]
    found.say_all("specs", wrong, "A record differs from its spec:", "The records agree with their specs.")


def _artifacts(store: Store) -> Callable[[str], Any]:
    def artifact(address: str) -> Any:
        record = store.record(address)
        return None if record is None else artifact_of(record)

    return artifact


def _made(entry: Entry, store: Store) -> Made:
    kinds: tuple[type[Any], ...] = (EvalReport, Checkpoint, Subset, ShardSet)
    made: list[Any] = []
    for name, kind in zip(INPUTS, kinds, strict=True):
        record = store.record(entry.inputs[name])
        if record is None or record.kind != kind.kind:
            raise DataError(f"The entry's {name} is {entry.inputs[name]}, whose record is not in the bundle.")
        made.append(store.artifact(kind, record))
        if made[-1].address != record.address or made[-1].fingerprint != record.fingerprint:
            raise DataError(f"The record {record.address} describes an artifact that is not its own.")
    return made[0], made[1], made[2], made[3]


def _other_inputs(entry: Entry, record: Record, made: Made) -> Iterator[str]:
    """The entry's four inputs must be those that its own record was made from."""
    if record.kind != BoardEntry.kind:
        yield f"has a record of the kind {record.kind}"
    for name, artifact in zip(INPUTS, made, strict=True):
        given = record.inputs.get(name, [])
        if [used.get("address") for used in given] != [artifact.address]:
            yield f"names another {name} than its record"
    if set(entry.inputs) != set(INPUTS):
        yield "has other inputs than those of an entry"


def _spec_of(record: Record, call: RecordedCall | None) -> EntrySpec:
    if call is not None:
        return next(value for value in call.identity if isinstance(value, EntrySpec))
    return EntrySpec.model_validate(next(iter(record.spec.values()), {}))


def _placed(record: Record, call: RecordedCall | None, entry: Entry, known_only: bool) -> Iterator[str]:
    """Its own address, and the board it belongs on: the board of the scale whose recipe it was trained with."""
    if call is not None and call.step.address(*call.identity) != record.address:
        yield f"that its address is {record.address} instead of {call.step.address(*call.identity)}"
    trained = (recipe_of(entry.chain, entry.inputs["checkpoint"]) or {}).get("name")
    if known_only and (entry.scale not in SCALES or trained != entry.scale):
        yield f"the scale {entry.scale!r}, and it was trained by the recipe of {str(trained)[:60]!r}"
    if not entry.method.isprintable() or not entry.method.strip():
        yield "a name of its method that cannot be printed"


def _compare_arrived(found: VerificationResult, store: Store, downloaded: Folder) -> None:
    """Compare the bundle's claims about what arrived with the shards of its sender."""
    assert found.proved is not None
    counted = download_check.count(downloaded, found.folder / names.SAMPLES / SUBSET)
    wrong = download_check.differences(found.proved.entry, _made(found.proved.entry, store)[3], counted)
    told = f"{counted.num_samples:,} pairs arrived, {counted.chosen:,} of the chosen among them, and the digest is the bundle's."
    found.say_all("arrived", wrong, "The bundle says", told)


def _look_up(found: VerificationResult, pool: Folder | None) -> DataCheck:
    """The uids of the subset, in the pool where that is at hand."""
    if pool is None:
        return DataCheck()
    both = against_pool(Folder(found.folder / names.SAMPLES), pool)
    foreign = both.unique[0] - both.shared
    return DataCheck(uids=both.unique[0], foreign=foreign, example=next(iter(both.only_first), ""))


# The second evaluation ------------------------------------------------------------------------------------------------


def second_evaluation(found: VerificationResult, reevaluate: Reevaluate) -> None:
    """Evaluate the bundle's checkpoint again and compare every task of the suite, and the average of what both have."""
    rule, checkpoint = "evaluated again", found.folder / names.CHECKPOINT
    assert found.proved is not None
    if not checkpoint.exists():
        found.say(rule, False, "The bundle has no checkpoint, but this board evaluates again: pack it with --checkpoint.")
        return
    try:
        _check_stored(checkpoint)
        again = reevaluate(checkpoint, found.proved.entry)
    except DatacompError as problem:
        found.say(rule, False, f"Cannot evaluate the checkpoint: {str(problem).splitlines()[0][:500]}")
        return
    tasks = [task for task in found.proved.entry.tasks if task.metric]
    apart = {task.name: (task.value, again.get(task.key)) for task in tasks if _apart(task.value, again.get(task.key))}
    told = "; ".join(f"{name}: {said} said, {value} found" for name, (said, value) in list(apart.items())[:5])
    counted = [(task.value, again[task.key]) for task in tasks if task.scored and task.key in again]
    drift = sum((said or 0.0) - (value or 0.0) for said, value in counted) / max(len(counted), 1)
    if not apart and abs(drift) > SECOND_AVERAGE:
        found.say(
            rule, False, f"The average is {abs(drift):.4f} from the average found here; at most {SECOND_AVERAGE} is allowed."
        )
        return
    found.say(rule, not apart, told + "." if apart else f"{len(tasks)} tasks give the same scores (to {SECOND_TOLERANCE}).")


def _apart(said: float | None, found: float | None) -> bool:
    if said is None or found is None:
        return said is not found
    return abs(found - said) > SECOND_TOLERANCE


def _check_stored(checkpoint: Path) -> None:
    """torch writes its archives without compression: one that grows when it is read was not written by it."""
    if not zipfile.is_zipfile(checkpoint):
        return
    size = checkpoint.stat().st_size
    with zipfile.ZipFile(checkpoint) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise DataError("checkpoint.pt is compressed; checkpoints of torch are not.")
        if sum(member.file_size for member in archive.infolist()) > size:
            raise DataError("checkpoint.pt states more bytes than it has.")
