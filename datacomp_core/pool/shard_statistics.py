"""Adds up the statistics of a download's shards (`<shard>_stats.json`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from datacomp_core.pool import ledger

PICTURES = ("deep_pictures", "turned_pictures")


@dataclass
class ShardStatistics:
    """The sums: outcomes of the candidates, hash mismatches, irregular pictures, and the digest of the uids that arrived."""

    reasons: Counter[str] = field(default_factory=Counter[str])
    mismatches: int = 0
    pictures: Counter[str] = field(default_factory=Counter[str])
    digest: int = 0

    def add(self, stats: dict[str, Any]) -> None:
        self.reasons.update(stats["reasons"])
        self.mismatches += stats["hash_mismatches"]
        self.pictures.update({name: stats[name] for name in PICTURES if name in stats})
        self.digest = (self.digest + int(stats["uids_digest"], 16)) % ledger.DIGEST_MODULUS

    def counts(self) -> dict[str, int]:
        """The counts of a shard set's record."""
        reasons = dict(sorted(self.reasons.items()))
        return {"candidates": self.reasons.total(), **reasons, "hash_mismatches": self.mismatches, **self.pictures}
