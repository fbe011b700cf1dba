"""Lists the defaults of each scale: recipes, and where the pool is. Every scale has a row."""

from __future__ import annotations

from dataclasses import dataclass

from datacomp_core.scales import SCALES


@dataclass(frozen=True)
class ScaleDefaults:
    """`recipe` is the default of a form, `recipes` of a sweep; `debug` has no built-in pool and requires one."""

    recipe: str
    recipes: tuple[str, ...]
    pool: str = ""


BEST = "clip_score:score=l14,fraction=0.3"
SOURCES: dict[str, ScaleDefaults] = {
    scale: ScaleDefaults("clip_score_tiny", ("no_filter", "clip_score_tiny"))
    if scale == "tiny"
    else ScaleDefaults(BEST, ("no_filter", "basic_filter", BEST), "pools/ADDRESS" if row.hub is None else "")
    for scale, row in SCALES.items()
}
"""A scale without a hub data set has no built-in pool."""
