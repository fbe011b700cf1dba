"""One entry as one tar: what the original competition asked for, and the records that prove where it came from.

`MANIFEST.json` stands first and has size and sha256 of every other file. Equal entries give equal bytes: no clock, no host, no
user name goes in. Files are streamed from the store and hashed as they pass, so a subset of any size can be packed.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from datacomp_core import parts
from datacomp_core.artifacts import BoardEntry, Pool
from datacomp_core.errors import DataError, SpecError
from datacomp_core.leaderboard.entries.entry import ENTRY, Entry, read
from datacomp_core.leaderboard.entries.per_image_scores import HITS, prediction_file
from datacomp_core.leaderboard.entries.provenance import data_of, find
from datacomp_core.leaderboard.submission import signature
from datacomp_core.leaderboard.submission.method_card import card
from datacomp_core.redaction import redact_all
from datacomp_core.store import Folder, Store
from datacomp_core.store.record import MANIFEST, RECORD, Record
from datacomp_core.subset_files import SUBSET

FORMAT = 2  # from 2 on with predictions
BLOCK = 1 << 20
# Names in a bundle. Those of results, checkpoint and samples are the original's on the hub.
LIST, RECORDS, CARD = "MANIFEST.json", "records", "method.md"
SIGNATURE = "MANIFEST.json.sig"
RESULTS, REPORT, CHECKPOINT, SAMPLES = "results.jsonl", "report.json", "checkpoint.pt", "samples"
TRAINING = "training.json"


@dataclass(frozen=True)
class BundleItem:
    """One file to pack: from a folder, or from memory."""

    name: str
    size: int
    sha256: str
    folder: Folder | None = None
    path: str = ""
    data: bytes = b""

    def open(self) -> IO[bytes]:
        return io.BytesIO(self.data) if self.folder is None else self.folder.open(self.path)


def write_bundle(
    store: Store, what: str, out: Path, *, checkpoint: bool = False, author: str = "", text: str = "", sign: Path | None = None
) -> str:
    """Pack an entry (by address or fingerprint) into the tar `out`, atomically; return the sha256 of its manifest.

    `text` is what the author says of the method; `sign` is a private key of OpenSSH that signs the manifest. SpecError if it is
    not an entry; DataError if a file is gone or differs from its record.
    """
    record = find(store, what)
    if record.kind != BoardEntry.kind:
        raise SpecError(f"{what!r} is an artifact of kind {record.kind}: give a leaderboard entry to make a bundle.")
    entry = read(store, store.artifact(BoardEntry, record))
    items = sorted(_items(store, record, entry, checkpoint=checkpoint), key=lambda item: item.name)
    items.append(_plain(CARD, card(entry, author, text).encode()))
    listing = _listing(record, items)
    signed = b"" if sign is None else signature.sign(listing, sign)
    where = Folder(out.absolute().parent)
    where.sweep_left_behind(out.name)
    with where.writing(out.name) as path, tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(_header(LIST, len(listing)), io.BytesIO(listing))
        if signed:
            archive.addfile(_header(SIGNATURE, len(signed)), io.BytesIO(signed))
        for item in items:
            with item.open() as file:
                passing = _Passing(file)
                archive.addfile(_header(item.name, item.size), passing)
            if passing.hash.hexdigest() != item.sha256:
                raise DataError(f"{item.name} of {record.address} is not the file its record names: build that step again.")
    return hashlib.sha256(listing).hexdigest()


class _Passing(io.RawIOBase):
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.hash.update(data)
        return data


def _listing(record: Record, items: list[BundleItem]) -> bytes:
    files = {item.name: {"size": item.size, "sha256": item.sha256} for item in items}
    return json.dumps({"format": FORMAT, "entry": record.address, "files": files}, indent=1, sort_keys=True).encode()


def _header(name: str, size: int) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.mode = size, 0o644
    return made


def _plain(name: str, data: bytes) -> BundleItem:
    return BundleItem(name, len(data), hashlib.sha256(data).hexdigest(), data=data)


def _items(store: Store, record: Record, entry: Entry, *, checkpoint: bool) -> Iterator[BundleItem]:
    for address in [record.address, *dict.fromkeys(link.address for link in entry.chain)]:
        upstream = store.record(address)
        if upstream is None:
            raise DataError(f"The record {address} is gone, so this entry can no longer be proved: build that step again.")
        yield _plain(f"{RECORDS}/{address}/{RECORD}", _impersonal(upstream))
        yield _plain(f"{RECORDS}/{address}/{MANIFEST}", store.manifest_file(upstream))
    wanted = [
        (record.address, ENTRY, ENTRY),
        (record.address, HITS, HITS),
        (entry.inputs["report"], "eval_results.jsonl", RESULTS),
        (entry.inputs["report"], "report.json", REPORT),
        (entry.inputs["subset"], SUBSET, f"{SAMPLES}/{SUBSET}"),
    ]
    wanted += [(entry.inputs["report"], name, name) for name in _predictions(store, entry)]
    wanted.append((entry.inputs["checkpoint"], TRAINING, TRAINING))
    if checkpoint:
        wanted.append((entry.inputs["checkpoint"], "checkpoint.pt", CHECKPOINT))
    for address, path, name in wanted:
        yield from _of_record(store, address, path, name)
    if entry.track == "byod":
        for link in entry.chain:
            if link.kind == Pool.kind:
                yield from _metadata(store, link.address)


def _predictions(store: Store, entry: Entry) -> list[str]:
    """The files from which every score can be computed again."""
    record = store.record(entry.inputs["report"])
    assert record is not None
    wanted = [prediction_file(task.key) for task in entry.tasks]
    return sorted(set(wanted) & set(store.manifest(record)["path"]))


def _impersonal(record: Record) -> bytes:
    """A record without the names of machine and user and without secrets of urls: a bundle is made to be given away."""
    host = {name: value for name, value in record.host.items() if name not in ("name", "user")}
    outputs = record.outputs.model_copy(update={"manifest": MANIFEST})
    public = {
        "host": host,
        "outputs": outputs,
        "generation": 1,
        "options": redact_all(record.options),
        "adopted_from": redact_all(record.adopted_from),
        "artifact": {**record.artifact, "data": redact_all(record.artifact.get("data", ""))},
    }
    return record.model_copy(update=public).to_json()


def _of_record(store: Store, address: str, path: str, name: str) -> Iterator[BundleItem]:
    """A file of an artifact, with the hash its manifest gives (adopted files have none there: they are read once)."""
    record, folder = store.record(address), data_of(store, address)
    assert record is not None
    assert folder is not None
    rows = store.manifest(record).filter(path=path).to_dicts()
    if rows:
        size, sha256 = int(rows[0]["size"]), str(rows[0]["sha256"]) or _hash(folder, path)
        yield BundleItem(name, size, sha256, folder, path)


def _metadata(store: Store, address: str) -> Iterator[BundleItem]:
    """The urls and captions of data that no pool of ours has."""
    record, folder = store.record(address), data_of(store, address)
    if record is None or folder is None:
        return
    for row in store.manifest(record).to_dicts():
        path = str(row["path"])
        if path.startswith(f"{parts.METADATA}/") and path.endswith(".parquet"):
            yield from _of_record(store, address, path, f"{SAMPLES}/{record.address.replace('/', '-')}-{path.rpartition('/')[2]}")


def _hash(folder: Folder, path: str) -> str:
    found = hashlib.sha256()
    with folder.open(path) as file:
        while data := file.read(BLOCK):
            found.update(data)
    return found.hexdigest()
