"""What a person is offered first at each scale: recipes, and where pool and test sets are looked for. One row a scale."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """`recipe` is the one a form starts from, `recipes` those of a sweep; addresses are to be filled in by who knows them."""

    recipe: str
    recipes: tuple[str, ...]
    pool: str = ""
    evalsets: str = ""


SOURCES: dict[str, Source] = {
    "tiny": Source("clip_score_tiny", ("no_filter", "clip_score_tiny")),
    **{
        scale: Source(
            "clip_score:score=l14,fraction=0.3",
            ("no_filter", "basic_filter", "clip_score:score=l14,fraction=0.3"),
            f"pools/{scale}/ADDRESS",
            "evalsets/any/ADDRESS",
        )
        for scale in ("debug", "small", "medium", "large", "xlarge")
    },
}
