"""Reports a reshard: every chosen sample is written, or missing for a named reason. One byte per chosen sample, in a file on
scratch disk, records its outcome. A uid in several shards of a folder is read from the first.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from datacomp_core import uid
from datacomp_core.errors import DataError, IncompleteError
from datacomp_core.resharding.plan import Positions, Rows, repeat
from datacomp_core.resharding.shard_scan import NEVER_DOWNLOADED, NOT_IN_PART, UNKNOWN, ScannedShard
from datacomp_core.resharding.spec import ReshardSpec
from datacomp_core.shards import TAKEN_DOWN

WRITTEN = 1
MAX_REASONS = 250
AT_ONCE = 1 << 22
TOLD_SHARDS = 3


@dataclass(frozen=True)
class LossReport:
    """`missing` counts samples (repeats included) by reason; `details` by reason and what is known of the cause."""

    subset: int
    unique: int
    written: int
    written_unique: int
    missing: dict[str, int]
    details: dict[str, int]
    damaged_shards: dict[str, str]
    found_again: int

    def counts(self) -> dict[str, int]:
        """For a record: plain names and numbers."""
        missing = {f"missing_{reason}": count for reason, count in self.missing.items()}
        return {"subset": self.subset, "written": self.written, **missing, "found_again": self.found_again}

    def check(self, spec: ReshardSpec, where: str) -> None:
        """IncompleteError if more is missing than the spec tolerates, or nothing is left to write."""
        excused = {TAKEN_DOWN, NOT_IN_PART, *([NEVER_DOWNLOADED] if spec.never_downloaded == "count" else [])}
        loss = sum(count for reason, count in self.missing.items() if reason not in excused)
        if loss <= spec.tolerated_missing * self.subset and self.written:
            return
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.missing.items())
        shards = [f"{name}: {damage}" for name, damage in sorted(self.damaged_shards.items())]
        damaged = f"; damaged shards ({len(shards)}): {'; '.join(shards[:TOLD_SHARDS])}" if shards else ""
        raise IncompleteError(
            f"Of {self.subset:,} chosen samples {self.written:,} can be written from {where} and {sum(self.missing.values()):,} "
            f"are missing ({reasons}{damaged}): repair the shards, or raise `tolerated_missing` (--tolerated-missing of "
            "`datacomp reshard`) if you accept that loss."
        )


@dataclass
class LossLedger:
    """Gathers what was found, shard by shard in their order, so that the account does not depend on who was faster.

    `otherwise` is the reason of what no shard and no record knows.
    """

    subset: uid.Uids
    otherwise: str = UNKNOWN
    fate: Any = None
    causes: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    damaged: dict[str, str] = field(default_factory=dict)
    found_again: int = 0

    def __post_init__(self) -> None:
        self.causes += [(self.otherwise, ""), ("", "")]
        with tempfile.TemporaryFile() as file:  # memory-mapped: it may be larger than memory
            file.truncate(max(len(self.subset), 1))
            self.fate = np.memmap(file, np.uint8, "r+", shape=(len(self.subset),))  # pyright: ignore[reportArgumentType]

    def enter(self, found: ScannedShard) -> Rows:
        """Return the rows to write, one per copy, without those that an earlier shard gave."""
        fresh = self.fate[found.first] != WRITTEN
        self.found_again += int((~fresh).sum())
        self.fate[_positions(found.first[fresh], found.count[fresh])] = WRITTEN
        for lost in found.lost:
            positions = _positions(lost.first, lost.count)
            positions = positions[self.fate[positions] == 0]
            self.fate[positions] = self._code(lost.reason, lost.detail)
        if found.damage:
            self.damaged[found.shard.label] = found.damage
        return repeat(found.rows[fresh], found.count[fresh])

    def _code(self, reason: str, detail: str) -> int:
        cause = (reason, detail)
        if cause not in self.causes:
            if len(self.causes) >= MAX_REASONS:
                cause = (reason, "other")
            if cause not in self.causes:
                self.causes.append(cause)
        return self.causes.index(cause)

    def close(self) -> LossReport:
        by_code = np.zeros(256, np.int64)
        unique = written_unique = 0
        for _, fate, is_first in self._pieces():
            by_code += np.bincount(fate, minlength=256)
            unique += int(is_first.sum())
            written_unique += int(np.logical_or.reduceat(fate == WRITTEN, np.flatnonzero(is_first)).sum())
        missing: dict[str, int] = {}
        details: dict[str, int] = {}
        for code, (reason, detail) in enumerate(self.causes):
            if code != WRITTEN and (count := int(by_code[code])):
                missing[reason] = missing.get(reason, 0) + count
                details[f"{reason}: {detail}" if detail else reason] = count
        written = int(by_code[WRITTEN])
        assert written + sum(missing.values()) == len(self.subset), "a chosen sample is unaccounted for"
        return LossReport(
            len(self.subset),
            unique,
            written,
            written_unique,
            missing,
            dict(sorted(details.items())),
            self.damaged,
            self.found_again,
        )

    def missing(self) -> Iterator[pl.DataFrame]:
        """uid, copies, reason, detail of what is missing, in order of uid, in pieces."""
        reasons = np.array([reason for reason, _ in self.causes])
        details = np.array([detail for _, detail in self.causes])
        for begin, fate, is_first in self._pieces():
            begins = is_first.copy()  # copies of one uid from several shard sets may be lost for different reasons
            begins[1:] |= fate[1:] != fate[:-1]
            at = np.flatnonzero((fate != WRITTEN) & begins)
            if not len(at):
                continue
            starts = np.flatnonzero(begins)
            ends = np.append(starts[1:], len(fate))
            copies = (ends - starts)[np.searchsorted(starts, at)]
            columns = {"copies": copies, "reason": reasons[fate[at]], "detail": details[fate[at]]}
            yield pl.DataFrame([uid.unpack(self.subset[begin + at]), *(pl.Series(n, v) for n, v in columns.items())])

    def _pieces(self) -> Iterator[tuple[int, Any, Any]]:
        """Stretches of the subset that cut no uid's repeats apart: where each begins, its fates, which are a uid's first."""
        begin = 0
        while begin < len(self.subset):
            end = min(begin + AT_ONCE, len(self.subset))
            while end < len(self.subset) and self.subset[end] == self.subset[end - 1]:
                end += 1
            piece = self.subset[begin:end]
            is_first = np.ones(len(piece), bool)
            is_first[1:] = (piece["f0"][1:] != piece["f0"][:-1]) | (piece["f1"][1:] != piece["f1"][:-1])
            yield begin, self.fate[begin:end], is_first
            begin = end


def _positions(first: Positions, count: Positions) -> Positions:
    begins = np.cumsum(count) - count
    return np.repeat(first, count) + np.arange(int(count.sum())) - np.repeat(begins, count)


def open_ledger(subset: uid.Uids, where: str, *, is_part: bool) -> LossLedger:
    """Raise DataError if nothing was chosen. A part of the shards cannot show that a uid is unknown."""
    if not len(subset):
        raise DataError(f"The subset {where} is empty: there is nothing to write.")
    return LossLedger(subset, NOT_IN_PART if is_part else UNKNOWN)
