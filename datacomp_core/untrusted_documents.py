"""Reads untrusted JSON and YAML: size, depth and alias expansion are limited before anything is built. Every YAML file of the
project is read here (a test checks this). An error is one DataError with its position.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from datacomp_core.errors import DataError

MAX_BYTES = 1 << 20
MAX_DEPTH = 60
MAX_NODES = 100_000
"""Values of a YAML file, with every alias counted as often as it is used."""
MAX_NUMBER = 100
"""Maximum characters of a YAML number. A base 60 number (`1:1:1:...`) takes minutes to build and cannot be printed."""
JSON_DEPTH = 200
MAX_JSON_BYTES = 16 << 20
"""A model's configuration has kilobytes; the index of its sharded weights has some megabytes."""
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def parse_json(data: bytes | str, where: str, *, max_depth: int = JSON_DEPTH) -> Any:
    """Parse a JSON text. DataError if it is invalid or nested too deeply."""
    try:
        found = json.loads(data)
    except RecursionError:
        raise DataError(f"{where} is nested too deeply to be read as JSON.") from None
    except (ValueError, UnicodeDecodeError) as problem:
        raise DataError(f"{where} is not valid JSON ({problem}).") from problem
    if _depth(found, max_depth) > max_depth:
        raise DataError(f"{where} is nested deeper than {max_depth} levels of JSON.")
    return found


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES, max_depth: int = JSON_DEPTH) -> Any:
    """Read a JSON file. DataError if it cannot be read, or is too large or too deep."""
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as problem:
        raise DataError(f"{path}: {problem.strerror or problem}.") from problem
    if len(data) > max_bytes:
        raise DataError(f"{path} has more than {max_bytes:,} bytes, the limit for JSON.")
    return parse_json(data, str(path), max_depth=max_depth)


def _depth(value: Any, most: int) -> int:
    """Return how deeply lists and objects are nested; counting stops just above `most`."""
    depth, level = 0, [value]
    while level and depth <= most:
        level = [item for each in level for item in _children(each)]
        depth += 1
    return depth


def _children(value: Any) -> Iterator[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return (item for item in inner if isinstance(item, (dict, list)))


def read_yaml(path: Path) -> Any:
    """Read a YAML file. DataError if it cannot be read, is too large or too deep, or expands too many aliases."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as problem:
        raise DataError(f"{path}: {problem.strerror or problem}.") from problem
    return parse_yaml(data, str(path))


def parse_yaml(data: bytes | str, where: str) -> Any:
    """As `read_yaml`, from its text; `where` names it in errors."""
    if len(data) > MAX_BYTES:
        raise DataError(f"{where} has more than {MAX_BYTES:,} bytes, the limit for YAML.")
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        _check_events(text, where)
        return Loader(text).get_single_data()  # a safe loader: plain values alone
    except RecursionError:
        raise DataError(f"{where} is nested too deeply to be read as YAML.") from None
    except yaml.YAMLError as problem:
        raise DataError(f"{where} is not valid YAML: {_told(problem)}.") from problem
    except (
        ValueError,
        OverflowError,
    ) as problem:  # an invalid date, a number of thousands of digits, bytes that are not UTF-8
        raise DataError(f"{where} cannot be read as YAML: {problem}.") from problem


def yaml_text(value: Any) -> str:
    """Write plain values as readable YAML, in the given order."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)


def _told(problem: yaml.YAMLError) -> str:
    """Describe PyYAML's error in one line."""
    mark = getattr(problem, "problem_mark", None)
    text = str(getattr(problem, "problem", None) or problem).split("\n", 1)[0]
    return text if mark is None else f"{text} (line {mark.line + 1}, column {mark.column + 1})"


def _is_number(event: yaml.ScalarEvent) -> bool:
    """Return whether a scalar will become a number, by its tag or its unquoted form."""
    if event.tag is not None and event.tag != "!":
        return event.tag in NUMBERS
    known = yaml.SafeLoader.yaml_implicit_resolvers.get(event.value[:1], [])
    return event.implicit[0] and any(tag in NUMBERS and pattern.match(event.value) for tag, pattern in known)


class _Keys:
    """The keys of the open mappings. YAML forbids duplicates; PyYAML silently uses the last."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._open: list[set[str] | None] = []
        self._is_value: list[bool] = []

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.CollectionEndEvent):
            self._open.pop()
            self._is_value.pop()
        elif isinstance(event, yaml.NodeEvent):
            if self._open and self._open[-1] is not None:
                if not self._is_value[-1] and isinstance(event, yaml.ScalarEvent):
                    self._add(event, self._open[-1])
                self._is_value[-1] = not self._is_value[-1]
            if isinstance(event, yaml.CollectionStartEvent):
                self._open.append(set() if isinstance(event, yaml.MappingStartEvent) else None)
                self._is_value.append(False)

    def _add(self, event: yaml.ScalarEvent, keys: set[str]) -> None:
        if event.value in keys and event.value != "<<":
            line = event.start_mark.line + 1
            raise DataError(f"{self._where} has {event.value[:60]!r} twice in one mapping (line {line}): keep one of them.")
        keys.add(event.value)


def _check_events(text: str, where: str) -> None:
    """Walk over the parser's events without building values: check depth, and the number of values with aliases expanded."""
    open_sizes: list[int] = []
    anchors: list[str | None] = []
    sizes: dict[str, int] = {}
    total, keys = 0, _Keys(where)
    for event in yaml.parse(text, Loader=Loader):
        keys.take(event)
        if isinstance(event, yaml.AliasEvent):
            still_open = event.anchor in anchors  # it contains itself
            size = MAX_NODES + 1 if still_open else sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_sizes.append(1)
            anchors.append(event.anchor)
            if len(open_sizes) > MAX_DEPTH:
                raise DataError(f"{where} is nested deeper than {MAX_DEPTH} levels of YAML.")
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = open_sizes.pop(), anchors.pop()
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if len(event.value) > MAX_NUMBER and _is_number(event):
                raise DataError(f"{where} cannot be read as YAML: it has a number of more than {MAX_NUMBER} characters.")
            if event.anchor is not None:
                sizes[event.anchor] = 1
        else:
            continue
        total = size if not open_sizes else total
        if open_sizes:
            open_sizes[-1] += size
        if max(total, *open_sizes, 0) > MAX_NODES:
            raise DataError(f"{where} expands to more than {MAX_NODES:,} values, or an alias contains itself.")
