"""How much of a pool a recipe keeps, before it was asked."""

from __future__ import annotations

from datacomp_core.leaderboard.reference import references
from datacomp_core.scales import scale as scale_row


def share(scale: str, recipe: str) -> float:
    """By the paper's row of its name or a fraction it states; else all, to be safe."""
    name, _, parameters = recipe.partition(":")
    stated = dict(pair.split("=", 1) for pair in parameters.split(",") if "=" in pair)
    for field in ("fraction", "share"):
        if field in stated:
            return min(1.0, float(stated[field]))
    size = scale_row(scale).train_num_samples
    return next((row.size / size for row in references(scale) if row.recipe == name), 1.0)
