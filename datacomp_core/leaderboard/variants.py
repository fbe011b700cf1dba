"""Names for methods that share one: what in their specs tells them apart, in a few words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from datacomp_core.leaderboard.entry import Entry
from datacomp_core.leaderboard.provenance import seedless

MAX_WORDS = 2
MAX_VALUE = 24


def names(several: Sequence[Entry]) -> list[str]:
    """A name for each of some entries that are different methods: the method, and where that is shared, what differs."""
    made: list[str] = []
    for entry in several:
        alike = [other for other in several if (other.method, other.track) == (entry.method, entry.track)]
        made.append(entry.method if len(alike) == 1 else f"{entry.method} ({_apart(entry, alike)})")
    return made


def _apart(entry: Entry, alike: Sequence[Entry]) -> str:
    flat = [dict(_leaves(other)) for other in alike]
    mine = dict(_leaves(entry))
    missing = object()
    paths = [path for path in mine if any(other.get(path, missing) != mine[path] for other in flat)]
    words = [f"{path.rpartition('.')[2]} {_short(mine[path])}" for path in paths if path.rpartition(".")[2] != "name"]
    return ", ".join(dict.fromkeys(words[:MAX_WORDS])) or entry.same_but_for_seeds[:6]


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
