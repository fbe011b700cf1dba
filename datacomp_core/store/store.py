"""The object store: a folder or a bucket in which every artifact has one address, and a record that says it is built."""

from __future__ import annotations

import hashlib
import io
import logging
import uuid
from collections.abc import Iterator
from typing import Any, TypeVar

import polars as pl
from pydantic import ValidationError

from datacomp_core.artifacts import Artifact
from datacomp_core.errors import DataError, StoreError
from datacomp_core.store.folder import FileStat, Folder
from datacomp_core.store.record import MANIFEST, RECORD, Record, manifest_bytes

log = logging.getLogger(__name__)
A = TypeVar("A", bound=Artifact)

CHECKS = "_checks"


class Store:
    """Opened once per process with `Store.open`, which refuses a place that cannot be written or trusted."""

    def __init__(self, root: Folder) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"Store({self.root.url!r})"

    @classmethod
    def open(cls, url: str) -> Store:
        """The store at `url`. StoreError if it cannot be written, or if it overwrites what it was told only to create."""
        store = cls(Folder(url))
        store.check()
        return store

    def check(self) -> None:
        """Write twice under the condition that nothing is there: the second must be refused, else records can be lost."""
        name = f"{CHECKS}/{uuid.uuid4().hex}"
        try:
            first, second = self.root.create(name, b"first"), self.root.create(name, b"second")
            kept = self.root.read(name)
            self.root.remove(name)
        except (DataError, StoreError) as problem:
            raise StoreError(
                f"The store {self.root} cannot be used: name another with DATACOMP_STORE, or mend it. {problem}"
            ) from problem
        if not first or second or kept != b"first":
            raise StoreError(
                f"{self.root} does not enforce conditional writes (PUT If-None-Match: *), so two runs could overwrite each "
                "other's records: use a store that does (Amazon S3, SeaweedFS, versitygw, a local folder)."
            )

    def folder(self, artifact: Artifact) -> Folder:
        """Where the files of an artifact lie."""
        assert artifact.data, f"{artifact.kind} without data: it did not come from a step"
        return Folder(artifact.data) if _is_absolute(artifact.data) else self.root / artifact.data

    def home(self, address: str) -> Folder:
        return self.root / address

    def record(self, address: str) -> Record | None:
        """The record at an address, or None if nothing is built there. StoreError if it is damaged."""
        home = self.home(address)
        try:
            data = home.read(RECORD)
        except DataError:
            return None
        try:
            return Record.model_validate_json(data)
        except ValidationError as problem:
            raise StoreError(
                f"{home.at(RECORD)} is damaged ({problem.error_count()} faults): remove it to build again."
            ) from problem

    def addresses(self, kind: str = "") -> Iterator[str]:
        """Every address with a record (of one kind), `<kind>/<scale>/<name>`, in order; the files of the data are not listed."""
        for there in [kind] if kind else self.root.folders():
            for scale in (self.root / there).folders():
                for name in (self.root / there / scale).folders():
                    address = f"{there}/{scale}/{name}"
                    if self.home(address).exists(RECORD):
                        yield address

    def records(self, kind: str = "") -> Iterator[Record]:
        """All records (of one kind), in order of address."""
        for address in self.addresses(kind):
            found = self.record(address)
            if found is not None:
                yield found

    def artifact(self, kind: type[A], record: Record) -> A:
        """The artifact a record describes. StoreError if this version of the code cannot read it."""
        try:
            return kind.model_validate(record.artifact)
        except ValidationError as problem:
            raise StoreError(f"The record {record.address} is of another version of {kind.__name__}: {problem}") from problem

    def manifest(self, record: Record) -> pl.DataFrame:
        """path, size, sha256 of every file of a record. StoreError if it is not the manifest the record names."""
        data = self.home(record.address).read(MANIFEST)
        if hashlib.sha256(data).hexdigest() != record.outputs.manifest_sha256:
            raise StoreError(
                f"{self.home(record.address).at(MANIFEST)} is not the one its record names: remove the record to build again."
            )
        return pl.read_parquet(io.BytesIO(data))

    def missing(self, record: Record) -> str:
        """Why a record's data cannot be used, in a few words; empty if all of it is there with the right size."""
        try:
            wanted = dict(self.manifest(record).select("path", "size").iter_rows())
            data = str(record.artifact["data"])
            there = (Folder(data) if _is_absolute(data) else self.root / data).files()
        except (DataError, StoreError) as problem:
            return str(problem)
        for path, size in wanted.items():
            if path not in there:
                return f"{path} is gone"
            if there[path] != size:
                return f"{path} has {there[path]} bytes in place of {size}"
        return ""

    def publish(self, record: Record, files: list[FileStat]) -> bool:
        """Write manifest, then record. False if another run published first; then theirs is the truth."""
        home = self.home(record.address)
        data = manifest_bytes(files)
        if not home.exists(RECORD):
            home.write(MANIFEST, data)
        return home.create(RECORD, record.model_dump_json(indent=1).encode("utf-8"))

    def forget(self, record: Record) -> None:
        """Take back a record whose data is gone, unless somebody has already replaced it."""
        current = self.record(record.address)
        if current is not None and current.artifact.get("data") == record.artifact.get("data"):
            self.home(record.address).remove(RECORD)
            if not record.adopted_from:
                (self.root / str(record.artifact["data"])).remove()


def _is_absolute(data: str) -> bool:
    return data.startswith("/") or "://" in data


def files_of(folder: Folder, known: dict[str, FileStat]) -> list[FileStat]:
    """Every file below `folder` with its hash: taken from `known` where size agrees, else read once."""
    found = []
    for path, size in folder.files().items():
        stat = known.get(path)
        found.append(stat if stat and stat.size == size else FileStat(path, size, _hash(folder, path)))
    return found


def _hash(folder: Folder, path: str) -> str:
    with folder.open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # pyright: ignore[reportArgumentType]


def describe(record: Record) -> dict[str, Any]:
    """A record as a person wants it: plain values in reading order."""
    return {
        "address": record.address,
        "fingerprint": record.fingerprint,
        "built": record.started,
        "seconds": record.seconds,
        "files": record.outputs.num_files,
        "bytes": record.outputs.num_bytes,
        "spec": record.spec,
        "inputs": record.inputs,
        "counts": record.artifact.get("counts", {}),
        "options": record.options,
        "host": record.host,
        "versions": record.versions,
    }
