"""Names for methods that share one: what in their specs tells them apart, in a few words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from datacomp_core.artifacts import Pool
from datacomp_core.leaderboard.entries.entry import Entry
from datacomp_core.leaderboard.entries.provenance import seedless

MAX_WORDS = 2
MAX_VALUE = 24


def names(several: Sequence[Entry]) -> list[str]:
    """A name for each of some entries that are different methods: the method, and where that is shared, what differs."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in several:
        groups.setdefault((entry.method, entry.track), []).append(entry)
    apart = {id(entry): words for alike in groups.values() if len(alike) > 1 for entry, words in _apart(alike)}
    return [f"{entry.method} ({apart[id(entry)]})" if id(entry) in apart else entry.method for entry in several]


def _apart(alike: Sequence[Entry]) -> Iterator[tuple[Entry, str]]:
    """For each a few words that no other has: the pool's name first, then what differs in the specs, at last a hash."""
    said = _words(alike)
    for entry, mine in zip(alike, said, strict=True):
        numbers = range(1, min(MAX_WORDS, len(mine)) + 1)
        fewest = next((number for number in numbers if sum(words[:number] == mine[:number] for words in said) == 1), 0)
        yield entry, ", ".join(mine[:fewest] if fewest else [*mine[: MAX_WORDS - 1], entry.same_but_for_seeds[:6]])


def _words(alike: Sequence[Entry]) -> list[list[str]]:
    flat, pools = [dict(_leaves(entry)) for entry in alike], [_pools(entry) for entry in alike]
    differ = {path for leaves in flat for path in leaves if len({str(other.get(path)) for other in flat}) > 1}
    made: list[list[str]] = []
    for leaves, pool in zip(flat, pools, strict=True):
        paths = [path for path in leaves if path in differ and path.rpartition(".")[2] != "name"]
        words = [f"{path.rpartition('.')[2]} {_short(leaves[path])}" for path in paths]
        made.append(list(dict.fromkeys([*([f"pool {pool}"] if pool and len(set(pools)) > 1 else []), *words])))
    return made


def _pools(entry: Entry) -> str:
    """Return the names of the pools that an entry uses; empty if one has no name."""
    given = [
        next((str(spec["name"]) for spec in link.spec.values() if isinstance(spec, dict) and spec.get("name")), "")
        for link in entry.chain
        if link.kind == Pool.kind
    ]
    return " and ".join(given) if all(given) else ""


def _leaves(entry: Entry) -> Iterator[tuple[str, Any]]:
    """Every plain value of the chain's specs by a path: kind, its place among the links of that kind, field names."""
    if entry.submitted is not None:
        yield "submitted.by", entry.submitted.by
        yield "submitted.attempt", entry.submitted.attempt
    places: dict[str, int] = {}
    for link in entry.chain:
        place = places[link.kind] = places.get(link.kind, -1) + 1
        yield f"{link.kind}.{place}.version", link.version
        yield from _below(f"{link.kind}.{place}", seedless(link.spec))


def _below(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _below(f"{path}.{name}", item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _below(f"{path}[{number}]", item)
    else:
        yield path, value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "…"
