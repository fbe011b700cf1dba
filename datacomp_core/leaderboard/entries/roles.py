"""Decides a method's role on the board: the unfiltered pool, a control that chooses at random, or a method that judges.

The filter in the subset's record decides, never a name: calling a filter `random` does not make it one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from datacomp_core.kind_registration import ControlFilter
from datacomp_core.leaderboard.entries.entry import Entry

Role = Literal["baseline", "control", "method"]


def role(entry: Entry) -> Role:
    """By the kinds of the filter's leaves: nothing but `everything`, nothing but that and `random`, or more."""
    link = next((link for link in entry.chain if link.address == entry.inputs.get("subset")), None)
    specs = [] if link is None else [spec["filter"] for spec in link.spec.values() if isinstance(spec, dict) and "filter" in spec]
    kinds = {kind for spec in specs for kind in _leaves(spec)}
    if not kinds:
        return "method"
    if kinds == {ControlFilter.EVERYTHING}:
        return "baseline"
    return "control" if kinds <= set(ControlFilter) else "method"


def _leaves(spec: Any) -> Iterator[str]:
    """Yield the kinds of the filters that contain no other filter."""
    if isinstance(spec, list):
        for item in spec:
            yield from _leaves(item)
    elif isinstance(spec, dict):
        inner = [found for value in spec.values() if isinstance(value, (dict, list)) for found in _leaves(value)]
        if inner:
            yield from inner
        elif "kind" in spec:
            yield str(spec["kind"])
