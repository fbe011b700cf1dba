"""The steps of experiments at a scale whose chain no flow walks yet: what there will be to do, and what of it a store has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from datacomp_core.leaderboard.planning.estimate import Work
from datacomp_core.leaderboard.reference import references
from datacomp_core.scales import scale as scale_row
from datacomp_core.store import Store

EVALUATED = 732_026
"""Images of the 40 test sets."""


def standard(store: Store, scale: str, recipes: Sequence[str], seeds: Sequence[int]) -> list[Work]:
    """Pool, images, test sets; for each recipe a subset and its shards; for each seed of it training, evaluation, entry."""
    row = scale_row(scale)
    size, built = row.train_num_samples, list(store.addresses())

    def work(kind: str, name: str, samples: int, *marks: str, what: str = "", model: str = "") -> Work:
        found = [a for a in built if a.startswith(f"{kind}/{scale}/") and all(mark in a.split("/")[2] for mark in marks)]
        place = found[0] if found else None
        return Work(kind, what or kind, name, scale, samples, bool(found), "built" if found else "never built", model, place)

    def steps() -> Iterator[Work]:
        yield work("pools", scale, size)
        yield work("shards", f"{scale} images", size)
        yield work("evalsets", row.suite, EVALUATED, row.suite)
        for recipe in recipes:
            chosen = int(size * share(scale, recipe))
            yield work("subsets", recipe, size, recipe)
            yield work("shards", recipe, chosen, recipe, what="reshard")
            for seed in seeds:
                marks = (recipe, f"seed{seed}")
                yield work("checkpoints", f"{recipe}-seed{seed}", size, *marks, model=row.model)
                yield work("reports", f"{recipe}-seed{seed}", EVALUATED, *marks)
                yield work("entries", f"{recipe}-seed{seed}", 1, *marks)

    return list(steps())


def share(scale: str, recipe: str) -> float:
    """How much of a pool a recipe keeps, by the paper's row of its name or a fraction it states; else all, to be safe."""
    name, _, parameters = recipe.partition(":")
    stated = dict(pair.split("=", 1) for pair in parameters.split(",") if "=" in pair)
    for field in ("fraction", "share"):
        if field in stated:
            return min(1.0, float(stated[field]))
    size = scale_row(scale).train_num_samples
    return next((row.size / size for row in references(scale) if row.recipe == name), 1.0)
