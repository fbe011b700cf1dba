"""Defines the object store: a folder or a bucket in which every artifact has one address and a record that says it is built."""

from __future__ import annotations

import hashlib
import io
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple, TypeVar

import polars as pl
from pydantic import ValidationError

from datacomp_core.artifacts import Artifact
from datacomp_core.errors import DataError, DiskFullError, MissingFileError, StoreError
from datacomp_core.store import lease, listing
from datacomp_core.store.folder import Folder
from datacomp_core.store.record import Record, is_record, manifests_of, record_name
from datacomp_core.store.record import now as records_now

log = logging.getLogger(__name__)
A = TypeVar("A", bound=Artifact)

CHECKS = "_checks"
LOST = "_lost"
CHANGES = "_changes"
FORMAT_FILE = "_store.json"
AMENDING = "_amending.json"  # an earlier version set the record aside under this name while it changed an artifact


class Store:
    """Opened once per process with `Store.open`, which refuses a place that cannot be written or trusted."""

    def __init__(self, root: Folder) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"Store({self.root.url!r})"

    @classmethod
    def open(cls, url: str) -> Store:
        """The store at `url`. StoreError if it cannot be written, or if it overwrites a file that it should only create."""
        store = cls(Folder(url))
        if store.root.is_local:
            make_private(store.root.path)
        store.check()
        return store

    def check(self) -> None:
        """Write twice under the condition that nothing is there: the second must be refused, else records can be lost."""
        name = f"{CHECKS}/{uuid.uuid4().hex}"
        try:
            first, second = self.root.create(name, b"first"), self.root.create(name, b"second")
            kept = self.root.read(name)
            self.root.remove(name)
        except DiskFullError as problem:  # existing artifacts can still be read and deleted
            log.warning("Nothing can be written to the store %s. %s", self.root, problem)
            return
        except (DataError, StoreError) as problem:
            raise StoreError(
                f"The store {self.root} cannot be used: repair it, or choose another with DATACOMP_STORE. {problem}"
            ) from problem
        if second or kept == b"second":
            raise StoreError(
                f"{self.root} does not enforce conditional writes (PUT If-None-Match: *), so two runs could overwrite each "
                "other's records: use a store that does (Amazon S3, SeaweedFS, versitygw, a local folder)."
            )
        if not first or kept != b"first":
            raise StoreError(
                f"{self.root} did not return what was just written to it: run again, and check the store if this persists."
            )

    def folder(self, artifact: Artifact) -> Folder:
        """Return the folder of an artifact's files."""
        assert artifact.data, f"{artifact.kind} without data: it did not come from a step"
        return Folder(artifact.data) if _is_absolute(artifact.data) else self.root / artifact.data

    def home(self, address: str) -> Folder:
        return self.root / address

    def record(self, address: str) -> Record | None:
        """The record in force at an address, or None if nothing is built there. StoreError if that cannot be told."""
        last = self.generations(address)[-1:]
        return last[0] if last and last[0].state == "built" else None

    def interrupted(self, address: str) -> Record | None:
        """The record of an artifact whose change (retry, takedown) has begun and not ended."""
        last = self.generations(address)[-1:]
        return last[0] if last and last[0].state == "changing" else None

    def refuse_interrupted(self, address: str) -> None:
        """StoreError if a change of what is published at an address has begun and not ended."""
        if (record := self.interrupted(address)) is not None:
            raise StoreError(_interrupted(record))
        if self.record(address) is None and self.has_older_change(address):
            raise StoreError(older_change(address))

    def has_older_change(self, address: str) -> bool:
        """Whether a retry or a takedown of an earlier version of this system has begun at an address and not ended."""
        return self.home(address).exists(AMENDING)

    def generations(self, address: str) -> list[Record]:
        """The records that an address has had, oldest first. Only the last may be in force."""
        found: list[Record] = []
        while not found or found[-1].state != "built":
            record = self._read_record(address, len(found) + 1)
            if record is None:
                break
            found.append(record)
        return found

    def certain_generations(self, address: str) -> list[Record]:
        """Return `generations`, for callers that remove the rest. StoreError if a listing has a record that cannot be found."""
        home, unread = self.home(address), list[str]()
        for pause in (*listing.PAUSES, None):
            found = self.generations(address)
            known = {record_name(one.generation) for one in found}
            unread = [name for name in home.names() if is_record(name) and name not in known]
            if not unread:
                return found
            if pause is not None:
                time.sleep(pause)
        raise StoreError(
            f"{home.at(unread[0])} is listed, and the store says that it is not there when it is requested: what is published "
            "is unknown. Nothing was removed; run it again."
        )

    def _read_record(self, address: str, generation: int) -> Record | None:
        home, name = self.home(address), record_name(generation)
        faults = 0
        for pause in (*listing.PAUSES, None):
            try:
                return Record.model_validate_json(home.read(name)).model_copy(update={"generation": generation})
            except MissingFileError:
                return None
            except ValidationError as problem:
                faults = problem.error_count()
            if pause is not None:
                time.sleep(pause)
        raise StoreError(
            f"{home.at(name)} is damaged ({faults} faults each time it was read): restore it from a copy. Its data is untouched; "
            "if there is no copy, move the folder away and run again to rebuild the artifact."
        )

    def is_published(self, address: str, attempt: str) -> bool:
        """Whether a record of any generation names this attempt's folder, or a manifest that this attempt wrote.

        StoreError if that is not certain.
        """
        begun = manifests_of(attempt)
        return any(
            record.data == f"{address}/{attempt}" or record.outputs.manifest.startswith(begun)
            for record in self.certain_generations(address)
        )

    def standing(self, kind: str = "") -> Iterator[tuple[Record, bool]]:
        """All records in force, and those that are being changed (True), in one pass: none is missed because a change ends.

        For a takedown, which must see all of them: StoreError if that is not certain.
        """
        for address in self.places(kind):
            last = self.certain_generations(address)[-1:]
            if last and last[0].state in ("built", "changing"):
                yield last[0].marked("built"), last[0].state == "changing"

    def addresses(self, kind: str = "") -> Iterator[str]:
        """Every address with a record in force (of one kind), `<kind>/<scale>/<name>`, in order."""
        for record in self.records(kind):
            yield record.address

    def records(self, kind: str = "") -> Iterator[Record]:
        """All records in force (of one kind), in order of address. StoreError if the store cannot be listed for certain."""
        for address in self.places(kind):
            found = self.record(address)
            if found is not None:
                yield found

    def places(self, kind: str = "") -> Iterator[str]:
        """Every address at which something was begun, built or not; the files of the data are not listed.

        StoreError if there is none because the store lists nothing at all, not even its own mark.
        """
        num_found = 0
        for address in self._places_below("", kind):
            num_found += 1
            yield address
        if not num_found and FORMAT_FILE not in self.root.names() and self.root.exists(FORMAT_FILE):
            raise StoreError(f"A listing of {self.root} omits existing files: run again.")

    def _places_below(self, home: str, kind: str = "") -> Iterator[str]:
        root = self.root / home
        for there in [kind] if kind else [name for name in _folders(root) if not name.startswith("_")]:
            for scale in _folders(root / there):
                for name in _folders(root / there / scale):
                    yield f"{there}/{scale}/{name}"

    def namesake(self, address: str) -> str:
        """The address of what has the same identity and another readable name; empty if there is none."""
        place, _, name = address.rpartition("/")
        ending = f"--{name.rpartition('--')[2]}"
        others = (f"{place}/{there}" for there in _folders(self.root / place) if there.endswith(ending) and there != name)
        return next((other for other in others if self.generations(other)), "")

    def artifact(self, kind: type[A], record: Record) -> A:
        """The artifact a record describes. StoreError if this version of the code cannot read it."""
        try:
            return kind.model_validate(record.artifact)
        except ValidationError as problem:
            raise StoreError(f"The record {record.address} has another version of {kind.__name__}: {problem}") from problem

    def manifest(self, record: Record) -> pl.DataFrame:
        """path, size, sha256 of every file of a record. StoreError if it is not the manifest the record names."""
        return pl.read_parquet(io.BytesIO(self.manifest_file(record)))

    def manifest_file(self, record: Record) -> bytes:
        """Return the stored manifest, checked against its record. MissingFileError if the store says so each time."""
        home, name = self.home(record.address), record.outputs.manifest
        gone: MissingFileError | None = None
        for pause in (*listing.PAUSES, None):
            try:
                data, gone = home.read(name), None
            except MissingFileError as problem:
                data, gone = b"", problem
            if hashlib.sha256(data).hexdigest() == record.outputs.manifest_sha256:
                return data
            if pause is not None:
                time.sleep(pause)
        if gone is not None and name not in home.names():
            raise gone
        raise StoreError(
            f"{home.at(name)} is not the manifest that its record names, each time it was read: restore it from a copy. Nothing "
            "was removed."
        )

    def missing(self, record: Record) -> str:
        """Why a record's data is lost, in a few words; empty if all of it is there with the right size.

        StoreError if that cannot be told: lost is only what the store says again and again, in a listing and when asked by name.
        """
        try:
            wanted = dict(self.manifest(record).select("path", "size").iter_rows())
        except MissingFileError as problem:
            return str(problem)
        return listing.contradiction(self.data(record), wanted)

    def data(self, record: Record) -> Folder:
        """Return the folder of a record's files."""
        return Folder(record.data) if _is_absolute(record.data) else self.root / record.data

    def publish(self, record: Record, manifest: bytes) -> Record:
        """Write manifest, then record, if nothing is in force at the address. The record that stands then: this one or another's.

        StoreError if it cannot be told which, or if somebody else goes on changing the address; the next run finds what stands,
        or goes on from what was made.
        """
        home = self.home(record.address)
        assert hashlib.sha256(manifest).hexdigest() == record.outputs.manifest_sha256
        home.write(record.outputs.manifest, manifest)
        for pause in (*listing.PAUSES, None):
            before = self.generations(record.address)
            if before and before[-1].state == "built":
                return before[-1]
            if before and before[-1].state == "changing":
                raise StoreError(_interrupted(before[-1]))
            try:
                if (mine := self._published(record, before)) is not None:
                    return mine
            except StoreError:
                if pause is None:
                    raise
            if pause is not None:
                time.sleep(pause)
        raise StoreError(f"{record.address} could not be published because other processes publish and delete there: run again.")

    def _published(self, record: Record, before: list[Record]) -> Record | None:
        """The record, once it lies behind those `before` it; None if somebody else was first.

        Nobody deletes the records before it meanwhile: without them it would not be found.
        """
        mine = record.model_copy(update={"generation": len(before) + 1})
        with self.alone(record.address, "publish it") if before else nullcontext():
            if before and self.generations(record.address) != before:
                return None
            return mine if self.home(record.address).create(record_name(mine.generation), mine.to_json()) else None

    def alone(self, address: str, what: str) -> AbstractContextManager[None]:
        """Be the only process that changes what is published at an address. StoreError if another one is at it."""
        return lease.exclusive_lease(self.root / CHANGES, address, what)

    def set_aside(self, record: Record, why: str) -> None:
        """Make room for a new artifact where this one is lost. Its record is marked and what is left of its data is kept.

        `_lost/` says what was lost. On a disk the data moves there; in a bucket it stays where it is, since moving it would copy
        every byte. Adopted data belong to their owner and stay. StoreError if the artifact is being changed.
        """
        with self.alone(record.address, "build it again"):
            now = self.record(record.address)
            if now is not None and now.to_json() == record.to_json():
                self.mark_lost(record, why)

    def mark_lost(self, record: Record, why: str) -> None:
        """`set_aside` for a process that is already alone at the address."""
        aside = f"{LOST}/{record.address}/{record.data.rpartition('/')[2]}"
        is_moved = self.root.is_local and not record.adopted_from
        where = aside if is_moved else record.data
        told = {"why": why, "at": records_now(), "data": where, "record": record.model_dump(mode="json")}
        self.root.write_json(f"{aside}.json", told)
        self.home(record.address).write(record_name(record.generation), record.marked("lost", why).to_json())
        if is_moved:
            self.root.move(record.data, aside)
        log.warning("%s is lost (%s): its rest was set aside, see %s", record.address, why, self.root.at(f"{aside}.json"))

    def forget(self, record: Record) -> None:
        """Have an artifact built again, although nothing is lost: its record is marked and its data set aside."""
        self.set_aside(record, "taken back")

    def lost(self) -> Iterator[LostArtifact]:
        """Yield the artifacts that were set aside as lost, in order of address."""
        for address in self._places_below(LOST):
            for name in (self.root / LOST / address).names():
                note = f"{LOST}/{address}/{name}"
                try:
                    said = self.root.read_json(note)
                except MissingFileError:  # cleared meanwhile
                    continue
                yield LostArtifact(note, address, said["data"], said["why"], said["at"], Record.model_validate(said["record"]))


class LostArtifact(NamedTuple):
    """An artifact that was set aside: the note in the store, its address, the place of its remains, why and when."""

    note: str
    address: str
    data: str
    why: str
    at: str
    record: Record


def _folders(folder: Folder) -> list[str]:
    return listing.ask_until_equal(folder.folders, folder)


def _interrupted(record: Record) -> str:
    return (
        f"A {record.why or 'retry or a takedown'} of {record.address} was begun and has not ended: run the same command again, "
        "then this one (`datacomp pool retry`, `datacomp pool takedown`)."
    )


def older_change(address: str) -> str:
    return (
        f"A retry or a takedown of {address} was begun by an earlier version of datacomp and has not ended ({AMENDING}): end it "
        f"with that version, or move the folder {address} out of the store to build it again."
    )


def make_private(folder: Path) -> None:
    """Make a folder for its owner alone (0700) if it is not there; one that is there keeps the rights it was given.

    Nothing below it can be reached by others then, whatever rights it has itself.
    """
    if folder.exists():
        return
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return  # the check of the store says what is wrong


def _is_absolute(data: str) -> bool:
    return data.startswith("/") or "://" in data
