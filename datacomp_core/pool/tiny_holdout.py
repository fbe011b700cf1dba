"""Decides what is held out for the zero-shot tasks and therefore excluded from training. The split is the same for every pool
seed, so that scores are comparable: test images leave the pool and the trusted
set, and so does every drawing that resembles one of them (correlation above .95 at 16 px, upright or mirrored).

Comparing takes seconds, so the result is stored in `tiny_data/holdout.parquet`; `python -m datacomp_core.pool.tiny_holdout`
writes it again, and a test compares it with `split()`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.pool.tiny_source import (
    CLIPART_SET,
    DATA,
    FINGERPRINT_SIDE,
    POOL_SETS,
    SHIFTED_SET,
    TRUSTED_SETS,
    Drawing,
    DrawingName,
    drawings,
    fingerprint,
    of_sets,
    open_image,
)

SPLIT = DATA / "holdout.parquet"
LOOK_ALIKE = "looks-like-a-test-image"
HOLDOUT_SEED = 2304_14108
NEAR = 0.95
"""Correlation above which two images count as the same."""

CONCRETE = frozenset(
    (
        "animal-bird", "animal-bug", "animal-mammal", "animal-marine", "animal-reptile", "clothing", "computer", "dishware",
        "drink", "food-asian", "food-fruit", "food-prepared", "food-sweet", "food-vegetable", "household", "light & video",
        "musical-instrument", "place-building", "plant-flower", "plant-other", "sky & weather", "sport", "tool",
        "transport-air", "transport-ground", "transport-water",
    )
)  # fmt: skip
"""Subcategories of Unicode's emoji list whose members are things one can name."""
MIN_SETS = 3
"""A class is drawn in this many of the pool's art sets: one drawing is the test image, the others may be used for training."""
MAX_WORDS = 2
COARSE_IMAGES = 45
CLIPART_CLASSES = (
    "animals", "buildings", "computer", "education", "food", "geography", "office", "people", "plants", "recreation",
    "shapes", "signs_and_symbols", "tools", "transportation",
)  # fmt: skip
CLIPART_IMAGES = 50
HELD_OUT_SHARE = 0.4
"""At most this share of a small group is held out, so that the pool keeps some of it."""
RETRIEVAL_IMAGES = 400
RETRIEVAL_SHARE = 0.4


@dataclass(frozen=True)
class Holdout:
    """Test drawings by task; their names; and the names of other drawings that resemble one of them."""

    tasks: dict[str, list[Drawing]]
    tests: frozenset[DrawingName]
    near: frozenset[DrawingName]

    def may_train(self, drawing: Drawing) -> bool:
        return drawing.id not in self.tests and drawing.id not in self.near


@lru_cache(maxsize=1)
def holdout() -> Holdout:
    """Return the stored split."""
    by_name = {drawing.id: drawing for drawing in drawings()}
    tasks: dict[str, list[Drawing]] = defaultdict(list)
    near: set[DrawingName] = set()
    for task, source, key in pl.read_parquet(SPLIT).iter_rows():
        name = DrawingName(source, key)
        if task == LOOK_ALIKE:
            near.add(name)
        else:
            tasks[task].append(by_name[name])
    return Holdout(dict(tasks), frozenset(d.id for drawn in tasks.values() for d in drawn), frozenset(near))


def split_table(split: Holdout) -> pl.DataFrame:
    """A split as a table: task (or `looks-like-a-test-image`), source, key."""
    rows = [(task, *drawing.id) for task, drawn in split.tasks.items() for drawing in drawn]
    rows += [(LOOK_ALIKE, *name) for name in sorted(split.near)]
    return pl.DataFrame(rows, ["task", "source", "key"], orient="row")


def split() -> Holdout:
    """The split from scratch. The same on every machine: seeded choice, and a comparison in whole numbers."""
    chance = random.Random(HOLDOUT_SEED)
    concepts = _grouped(of_sets(*POOL_SETS), lambda drawing: drawing.key)
    classes = {key for key, drawn in concepts.items() if len(drawn) >= MIN_SETS and _is_concrete(drawn[0])}
    others = [drawn for key, drawn in concepts.items() if key not in classes and len(drawn) > 1 and drawn[0].keywords]
    shifted = of_sets(SHIFTED_SET)
    tasks = {
        "objects": [chance.choice(concepts[key]) for key in sorted(classes)],
        "objects_3d": [drawing for drawing in shifted if drawing.key in classes],
        "coarse": _some_of_each(chance, [d for d in shifted if d.key not in classes], lambda d: d.category, COARSE_IMAGES),
        "flags": [drawing for drawing in shifted if drawing.subcategory == "country-flag"],
        "clipart": _some_of_each(
            chance,
            [d for d in of_sets(CLIPART_SET) if directory(d) in CLIPART_CLASSES],
            directory,
            CLIPART_IMAGES,
        ),
        "retrieval": [chance.choice(drawn) for drawn in others if chance.random() < RETRIEVAL_SHARE][:RETRIEVAL_IMAGES],
    }
    tests = [drawing for drawn in tasks.values() for drawing in drawn]
    names = frozenset(drawing.id for drawing in tests)
    trainable = [d for d in of_sets(*POOL_SETS, *TRUSTED_SETS, CLIPART_SET) if d.id not in names]
    return Holdout(tasks, names, frozenset(_look_alikes(trainable, tests)))


def directory(drawing: Drawing) -> str:
    """The first directory of a clip art's path, which is its class."""
    return drawing.path.partition("/")[0]


def _is_concrete(drawing: Drawing) -> bool:
    return drawing.subcategory in CONCRETE and len(drawing.name.split()) <= MAX_WORDS


def _grouped(some: list[Drawing], by: Callable[[Drawing], str]) -> dict[str, list[Drawing]]:
    groups: dict[str, list[Drawing]] = defaultdict(list)
    for drawing in some:
        groups[by(drawing)].append(drawing)
    return {key: groups[key] for key in sorted(groups)}


def _some_of_each(chance: random.Random, some: list[Drawing], by: Callable[[Drawing], str], most: int) -> list[Drawing]:
    chosen: list[Drawing] = []
    for drawn in _grouped(some, by).values():
        chosen += chance.sample(drawn, min(most, int(HELD_OUT_SHARE * len(drawn))))
    return chosen


# Near-duplicates ------------------------------------------------------------------------------------------------------


def _look_alikes(trainable: list[Drawing], tests: list[Drawing]) -> Iterator[DrawingName]:
    ours, theirs = _fingerprints(trainable), _fingerprints(tests)
    mirrored = theirs.reshape(-1, FINGERPRINT_SIDE, FINGERPRINT_SIDE, 3)[:, :, ::-1].reshape(len(theirs), -1)
    hits = near(ours, np.concatenate([theirs, mirrored]))
    for drawing, hit in zip(trainable, hits, strict=True):
        if hit:
            yield drawing.id


def _fingerprints(some: list[Drawing]) -> npt.NDArray[np.uint8]:
    return np.stack([fingerprint(open_image(drawing.image)) for drawing in some])


def near(ours: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8], threshold: float = NEAR) -> npt.NDArray[np.bool_]:
    """Which rows of `ours` correlate above `threshold` with any row of `theirs`; a row of one colour with none.

    Screened in float32, decided in whole numbers: the result does not depend on a machine's matrix routines.
    """
    rows, columns = np.nonzero(_standardised(ours) @ _standardised(theirs).T > threshold - 1e-3)
    hits = np.zeros(len(ours), np.bool_)
    for start in range(0, len(rows), 4096):
        some = slice(start, start + 4096)
        a, b = ours[rows[some]].astype(np.int64), theirs[columns[some]].astype(np.int64)
        size = a.shape[1]
        covariance = size * (a * b).sum(1) - a.sum(1) * b.sum(1)
        variances = [(size * (v * v).sum(1) - v.sum(1) ** 2).astype(np.float64) for v in (a, b)]
        sure = covariance.astype(np.float64) > threshold * np.sqrt(variances[0]) * np.sqrt(variances[1])
        hits[rows[some][sure]] = True
    return hits


def _standardised(values: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    centred = values.astype(np.float32)
    centred -= centred.mean(1, keepdims=True)
    length = np.sqrt((centred**2).sum(1, keepdims=True))
    return centred / np.maximum(length, 1e-6)


if __name__ == "__main__":
    split_table(split()).write_parquet(SPLIT)
