"""Every single change to a bundle: to each value of its JSON, each cell of its manifests, each array; and what is left out.

A change is made the way a forger makes it: every hash, size and record is set right for it afterwards.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from forging import Files, repaired

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Mutation:
    """A change to one file of a bundle; `told` says which."""

    name: str
    told: str
    change: Callable[[bytes], bytes | None]

    def of(self, good: Files) -> Files:
        files, data = dict(good), self.change(good[self.name])
        if data is None:
            del files[self.name]
        else:
            files[self.name] = data
        return repaired(files, self.name)


def mutations(good: Files) -> list[Mutation]:
    """All of them, in the order of the files."""
    return [mutation for name in sorted(good) for mutation in _of_file(name, good[name])]


def _of_file(name: str, data: bytes) -> Iterator[Mutation]:
    yield Mutation(name, "left out", lambda _: None)
    yield Mutation(name, "empty", lambda _: b"")
    yield Mutation(name, "cut short", lambda data: data[: len(data) // 2])
    kinds = {"json": _of_json, "jsonl": _of_lines, "parquet": _of_table, "npz": _of_arrays, "npy": _of_uids}
    if (kind := kinds.get(name.rpartition(".")[2])) is not None:
        for told, change in kind(data):
            yield Mutation(name, told, change)


Change = tuple[str, Callable[[bytes], bytes]]

# JSON -----------------------------------------------------------------------------------------------------------------

REMOVED = object()


def places(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value in a JSON document but the whole, with its path."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*path, key), item
        yield from places(item, (*path, key))


def others(value: Any) -> list[Any]:
    """Other values of a field: of its own type, of others, and none."""
    if isinstance(value, bool):
        return [not value, None, REMOVED]
    if isinstance(value, (int, float)):
        return [value + 1, value * 0.5 + 0.001, -1, None, "9", 1e308, REMOVED]
    if isinstance(value, str):
        return [value + "x", "", None, "9" * 64, "../../x", REMOVED]
    if isinstance(value, dict):
        return [{**value, "more": 1}, {}, None, [value], REMOVED]
    if isinstance(value, list):
        return [[*value, *value[:1]], value[::-1], value[1:], [], None, REMOVED]
    return [1.0, "x", [1], {"a": 1}, REMOVED]


def _with(path: Path, other: Any) -> Callable[[Any], None]:
    def change(said: Any) -> None:
        for step in path[:-1]:
            said = said[step]
        if other is REMOVED:
            del said[path[-1]]
        else:
            said[path[-1]] = other

    return change


def _of_json(data: bytes) -> Iterator[Change]:
    for path, value in places(json.loads(data)):
        for other in others(value):
            if other != value:

                def change(data: bytes, path: Path = path, other: Any = other) -> bytes:
                    said = json.loads(data)
                    _with(path, other)(said)
                    return json.dumps(said).encode()

                yield f"{path} = {'nothing' if other is REMOVED else other!r}", change
    yield "a key twice", lambda data: b'{"average": 0.99, "tasks": [], ' + data.lstrip()[1:]
    yield "a key twice at the end", lambda data: data.rstrip()[:-1] + b', "average": 0.99, "scale": "small"}'


def _of_lines(data: bytes) -> Iterator[Change]:
    lines = data.splitlines()
    for number, line in enumerate(lines):
        for told, change in _of_json(line):

            def changed(data: bytes, number: int = number, change: Callable[[bytes], bytes] = change) -> bytes:
                lines = data.splitlines()
                return b"\n".join([*lines[:number], change(lines[number]), *lines[number + 1 :], b""])

            yield f"line {number}: {told}", changed
    yield "a line twice", lambda data: data + data.splitlines()[0] + b"\n"


# Tables and arrays ----------------------------------------------------------------------------------------------------


def _of_table(data: bytes) -> Iterator[Change]:
    table = pl.read_parquet(io.BytesIO(data))
    rows = table.to_dicts()
    changed: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows):
        rest = [*rows[:number], *rows[number + 1 :]]
        changed[f"row {number} left out"] = rest
        changed[f"row {number} twice"] = [*rows, row]
        for name, value in row.items():
            for other in [value + 1, -1, 1 << 60] if isinstance(value, int) else [f"{value}x", "", "9" * 64]:
                changed[f"row {number} {name} = {other!r}"] = [*rest, {**row, name: other}]
    for told, given in changed.items():

        def change(_: bytes, given: list[dict[str, Any]] = given) -> bytes:
            out = io.BytesIO()
            pl.DataFrame(given, schema=table.schema).write_parquet(out)
            return out.getvalue()

        yield told, change


def _of_arrays(data: bytes) -> Iterator[Change]:
    with np.load(io.BytesIO(data)) as kept:
        arrays = {name: kept[name] for name in kept.files}
    changed: dict[str, dict[str, Any]] = {"one more": {**arrays, "more": np.ones(3)}}
    for name, array in arrays.items():
        rest = {other: arrays[other] for other in arrays if other != name}
        one = array.copy()
        one.flat[0] = not one.flat[0] if one.dtype == bool else one.flat[0] + 1
        last = array.copy()
        last.flat[-1] = 0 if last.dtype == bool or last.flat[-1] else 1
        changed[f"{name} left out"] = rest
        for told, other in {
            "another first": one,
            "another last": last,
            "one less": array[:-1],
            "one more": np.concatenate([array, array[:1]]),
            "none": array[:0],
            "flat": array.reshape(-1)[:1].reshape(()),
            "as float": array.astype(np.float64) + 0.5,
            "not numbers": np.full(array.shape, np.nan),
            "as text": array.astype("U8"),
            "negative": -1 - array.astype(np.int64),
            "large": np.full(array.shape, 1 << 62),
        }.items():
            changed[f"{name}: {told}"] = {**rest, name: other}
    for told, given in changed.items():

        def change(_: bytes, given: dict[str, Any] = given) -> bytes:
            out = io.BytesIO()
            np.savez_compressed(out, **given)
            return out.getvalue()

        yield told, change


def _of_uids(data: bytes) -> Iterator[Change]:
    uids = np.load(io.BytesIO(data))
    other = uids.copy()
    other[0] = (1, 1)
    for told, given in {
        "another": other,
        "one less": uids[1:],
        "one twice": np.concatenate([uids[:1], uids]),
        "backwards": uids[::-1],
        "none": uids[:0],
        "flat": uids.view("<u8"),
        "other bytes": uids.astype(">u8,>u8"),
    }.items():

        def change(_: bytes, given: Any = given) -> bytes:
            out = io.BytesIO()
            np.save(out, given)
            return out.getvalue()

        yield told, change
