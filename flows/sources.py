"""What a person is offered first at each scale: recipes, and where the pool is. One row a scale."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """`recipe` is the one a form starts from, `recipes` those of a sweep; `debug` has no pool of its own, and asks for one."""

    recipe: str
    recipes: tuple[str, ...]
    pool: str = ""


SOURCES: dict[str, Source] = {
    "tiny": Source("clip_score_tiny", ("no_filter", "clip_score_tiny")),
    **{
        scale: Source(
            "clip_score:score=l14,fraction=0.3",
            ("no_filter", "basic_filter", "clip_score:score=l14,fraction=0.3"),
            pool,
        )
        for scale, pool in (("debug", "pools/ADDRESS"), ("small", ""), ("medium", ""), ("large", ""), ("xlarge", ""))
    },
}
