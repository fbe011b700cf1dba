"""How much of a pool a recipe keeps, before it was asked."""

from __future__ import annotations

from datacomp_core.leaderboard.board.published_results import references
from datacomp_core.scales import scale as scale_row


def share(scale: str, recipe: str, stated: float | None = None) -> float:
    """By the paper's row of its name, else what its filter states (`Filter.expected_share`); else all, to be safe."""
    size = scale_row(scale).train_num_samples
    known = next((row.size / size for row in references(scale) if row.recipe == recipe and row.size), None)
    return known if known is not None else 1.0 if stated is None else stated
