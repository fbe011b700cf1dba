"""How much of a pool a recipe keeps, before it was asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datacomp_core.leaderboard.reference import references
from datacomp_core.scales import scale as scale_row


def share(scale: str, recipe: str, stated: Mapping[str, Any] | None = None) -> float:
    """By the paper's row of its name, else the least share that its filter (`stated`, as JSON) has; else all, to be safe."""
    size = scale_row(scale).train_num_samples
    known = next((row.size / size for row in references(scale) if row.recipe == recipe), None)
    return min(1.0, known if known is not None else _strictest(stated or {}))


def _strictest(asked: Mapping[str, Any]) -> float:
    """Of filters that all have to agree, none keeps more than the strictest. What others keep is not known beforehand."""
    if asked.get("kind") == "all":
        return min((_strictest(one) for one in asked["filters"]), default=1.0)
    return min(float(asked.get(name) or 1.0) for name in ("fraction", "share"))
