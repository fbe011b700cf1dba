"""Where something came from: from an address or a fingerprint to every record upstream of it.

Everything is read from the records alone, so it holds whatever code made them. What a record names but the store no longer
has, or has with another fingerprint, is reported as such and never left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.errors import SpecError
from datacomp_core.store import Folder, Store
from datacomp_core.store.record import Record

MIN_PREFIX = 4
HEX = re.compile(r"[0-9a-f]+")


class ProvenanceLink(BaseModel):
    """One step of a chain. `state` is `built`, `missing` (no record there) or `changed` (built again since it was used)."""

    model_config = ConfigDict(frozen=True)
    kind: str
    name: str
    address: str
    fingerprint: str = Field(description="The fingerprint under which it was used.")
    state: str = "built"
    depth: int = Field(default=0, description="Number of steps from the start of the walk.")
    inputs: dict[str, list[str]] = Field(default_factory=dict, description="Parameter name to addresses.")
    spec: dict[str, Any] = Field(default_factory=dict)
    meaning: dict[str, Any] = Field(default_factory=dict, description="The specs without defaults and names.")
    counts: dict[str, int] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    version: int = 0
    started: str = ""
    seconds: float = 0.0
    num_files: int = 0
    num_bytes: int = 0
    host: str = ""
    adopted_from: str | None = None


def find(store: Store, text: str) -> Record:
    """The record at an address, or the one whose fingerprint (or address hash) begins with `text`.

    SpecError if there is none, or if several fit; then they are named.
    """
    text = text.strip().strip("/")
    if "/" in text:
        record = store.record(text)
        if record is None:
            raise SpecError(f"Nothing is built at {text!r} in {store.root}: `datacomp leaderboard` lists the entries.")
        return record
    if len(text) < MIN_PREFIX or not HEX.fullmatch(text):
        raise SpecError(f"{text!r} is neither an address nor at least {MIN_PREFIX} hex digits of a fingerprint.")
    known = list(store.addresses())
    hits = [r for a in known if a.rpartition("--")[2].startswith(text) and (r := store.record(a)) is not None]
    hits = hits or [r for a in known if (r := store.record(a)) is not None and r.fingerprint.startswith(text)]
    if not hits:
        raise SpecError(f"No fingerprint in {store.root} begins with {text!r}.")
    if len(hits) > 1:
        raise SpecError(f"{text!r} fits {len(hits)} records, give more digits: {', '.join(r.address for r in hits[:5])}.")
    return hits[0]


def walk(store: Store, start: str | Record | Iterable[str]) -> list[ProvenanceLink]:
    """Every step upstream of `start` (an address, a fingerprint prefix, a record, or several addresses), itself included.

    Each once, consumers before what they consumed, so it reads from the result down to the pool.
    """
    if isinstance(start, str):
        start = find(store, start)
    roots = [start.address] if isinstance(start, Record) else list(start)
    records: dict[str, Record | None] = {}
    used_as: dict[str, str] = {}
    finished: list[str] = []

    def visit(address: str, fingerprint: str) -> None:
        used_as.setdefault(address, fingerprint)
        if address in records:
            return
        record = records[address] = store.record(address)
        for used in _inputs(record):
            visit(used["address"], used["fingerprint"])
        finished.append(address)

    for root in roots:
        visit(root, "")
    depths = _depths(roots, records)
    return [_link(address, records[address], used_as[address], depths[address]) for address in reversed(finished)]


def data_of(store: Store, address: str) -> Folder | None:
    """The folder of what was made at an address, of whatever kind; None if there is no record."""
    record = store.record(address)
    return None if record is None else store.data(record)


def of_kind(links: Iterable[ProvenanceLink], kind: str) -> list[ProvenanceLink]:
    """The links of one kind, in the order of the walk."""
    return [link for link in links if link.kind == kind]


def seedless(value: Any) -> Any:
    """A spec without its seeds, at any depth: what runs that differ in nothing but chance have in common."""
    if isinstance(value, dict):
        return {key: seedless(item) for key, item in value.items() if key != "seed" and not key.endswith("_seed")}
    return [seedless(item) for item in value] if isinstance(value, list) else value


def _inputs(record: Record | None) -> list[dict[str, str]]:
    return [] if record is None else [used for given in record.inputs.values() for used in given]


def _depths(roots: list[str], records: dict[str, Record | None]) -> dict[str, int]:
    depths, level, depth = dict.fromkeys(roots, 0), roots, 0
    while level:
        depth += 1
        below = dict.fromkeys(used["address"] for address in level for used in _inputs(records[address]))  # each once
        level = [address for address in below if address not in depths]
        depths.update(dict.fromkeys(level, depth))
    return depths


def _link(address: str, record: Record | None, used_as: str, depth: int) -> ProvenanceLink:
    kind, _, rest = address.partition("/")
    name = rest.rpartition("/")[2].rpartition("--")[0]
    if record is None:
        return ProvenanceLink(kind=kind, name=name, address=address, fingerprint=used_as, state="missing", depth=depth)
    return ProvenanceLink(
        kind=record.kind,
        name=str(record.artifact.get("name") or name),
        address=address,
        fingerprint=used_as or record.fingerprint,
        state="built" if used_as in ("", record.fingerprint) else "changed",
        depth=depth,
        inputs={parameter: [used["address"] for used in given] for parameter, given in record.inputs.items()},
        spec=record.spec,
        meaning=record.meaning or record.spec,
        counts=record.artifact.get("counts", {}),
        options=record.options,
        version=record.version,
        started=record.started,
        seconds=record.seconds,
        num_files=record.outputs.num_files,
        num_bytes=record.outputs.num_bytes,
        host=str(record.host.get("name", "")),
        adopted_from=record.adopted_from,
    )
