"""Nothing that is tested on can be trained on, whatever the pool's seed."""

from __future__ import annotations

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageOps

from datacomp_core.pool import tiny_captions as captions
from datacomp_core.pool.tiny_holdout import SPLIT, holdout, near, split, split_table
from datacomp_core.pool.tiny_pairs import candidates
from datacomp_core.pool.tiny_source import CLIPART_SET, POOL_SETS, TRUSTED_SETS, drawings, of_sets


def pixels(data: bytes, *, mirrored: bool = False) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image = ImageOps.mirror(image) if mirrored else image
    return np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=np.float64).ravel()


@pytest.mark.parametrize("seed", [0, 7])
def test_no_test_image_and_no_look_alike_is_in_the_pool(seed: int) -> None:
    tests = holdout().tests
    pool = {pair.drawing.id: pair.drawing for pair in candidates(seed, 800)}
    assert not pool.keys() & tests
    by_name = {drawing.id: drawing for drawing in drawings()}
    theirs = np.stack([pixels(by_name[name].image, mirrored=side) for name in sorted(tests) for side in (False, True)])
    ours = np.stack([pixels(drawing.image) for drawing in pool.values()])
    with np.errstate(invalid="ignore"):  # an image of one colour correlates with nothing
        correlation = np.corrcoef(ours[:300], theirs)[:300, 300:]
    assert np.nanmax(correlation) <= 0.95 + 1e-9


def test_no_drawing_serves_two_purposes() -> None:
    tests = holdout().tests
    sources = {"pool": {*POOL_SETS, CLIPART_SET}, "trusted": set(TRUSTED_SETS)}
    assert not sources["pool"] & sources["trusted"]
    assert not [drawing for drawing in of_sets(*TRUSTED_SETS) if drawing.id in tests]


def test_every_class_can_be_learned_from_the_pool() -> None:
    """A class whose drawings were all held out or dropped would be a test of nothing."""
    left = {drawing.key for drawing in of_sets(*POOL_SETS) if holdout().may_train(drawing)}
    tasks = holdout().tasks
    assert all(drawing.key in left for drawing in tasks["objects"])
    assert sum(drawing.key in left for drawing in tasks["flags"]) / len(tasks["flags"]) > 0.8


def test_near_is_correlation_decided_exactly() -> None:
    chance = np.random.default_rng(0)
    theirs = chance.integers(0, 256, (30, 768), dtype=np.uint8)
    ours = np.clip(
        theirs[chance.integers(0, 30, 200)] + chance.normal(0, chance.uniform(0, 60, (200, 1)), (200, 768)), 0, 255
    ).astype(np.uint8)
    ours[0] = 9  # one colour correlates with nothing
    with np.errstate(invalid="ignore"):
        expected = np.nan_to_num(np.corrcoef(ours, theirs)[:200, 200:]).max(1) > 0.95
    assert expected.any()
    assert not expected.all()
    assert np.array_equal(near(ours, theirs), expected)


@pytest.mark.slow
def test_the_written_split_is_the_computed_one() -> None:
    assert split_table(split()).equals(pl.read_parquet(SPLIT))


def test_pool_trusted_set_and_tests_share_no_template() -> None:
    sets = [
        captions.POOL_TEMPLATES,
        captions.TRUSTED_TEMPLATES,
        captions.TEST_TEMPLATES + captions.FLAG_TEMPLATES + captions.DIGIT_TEMPLATES + captions.RETRIEVAL_TEMPLATES,
    ]
    words = {"name": "@", "title": "@", "c": "@", "one": "@", "two": "@", "three": "@"}
    plain = [{template.format(**words) for template in templates} for templates in sets]
    for number, mine in enumerate(plain):
        assert "@" not in mine
        for others in plain[number + 1 :]:
            assert not mine & others
