"""The order of samples: a pure function of seed and place, drawn as resampling with replacement should be."""

import numpy as np
import pytest

from datacomp_core.training.data import BatchSlice
from datacomp_core.training.sample_order import SampleOrder, stream, uniform


def order(
    seed: int = 0, batch: int = 96, sizes: tuple[int, ...] = (50, 0, 70, 30), weights: tuple[float, ...] = ()
) -> SampleOrder:
    return SampleOrder(seed, batch, np.array(sizes), np.array(weights) if weights else None)


def test_any_step_can_be_asked_for_first() -> None:
    through = order()
    walked = [through.batch(step) for step in range(40)]
    for step in (39, 3, 17):
        fresh = order().batch(step)
        assert all(np.array_equal(a, b) for a, b in zip(fresh, walked[step], strict=True))


@pytest.mark.parametrize(("world", "accumulation"), [(1, 1), (2, 1), (3, 4), (32, 3)])
def test_ranks_and_micro_batches_cut_one_and_the_same_batch(world: int, accumulation: int) -> None:
    whole = order()
    parts = [
        whole.batch(7, *BatchSlice(rank, world, accumulation).part(96, piece))
        for rank in range(world)
        for piece in range(accumulation)
    ]
    for cut, one in zip(map(np.concatenate, zip(*parts, strict=True)), order().batch(7), strict=True):
        assert np.array_equal(cut, one)


def test_a_drawn_shard_is_read_whole_before_the_next() -> None:
    lane = SampleOrder(5, 1, np.array([10, 20]))  # a batch of one has one lane
    drawn = [lane.batch(step) for step in range(300)]
    shards, rows = np.concatenate([s for s, _ in drawn]), np.concatenate([r for _, r in drawn])
    at = 0
    while at + 20 <= 300:
        size = 10 * (1 + int(shards[at]))
        assert set(shards[at : at + size]) == {shards[at]}
        assert sorted(rows[at : at + size]) == list(range(size))
        at += size


def test_seen_counts_what_batches_hold() -> None:
    for steps in (1, 13, 200):
        walked, counted = order(), np.zeros(4, np.int64)
        for step in range(steps):
            np.add.at(counted, walked.batch(step)[0], 1)
        assert np.array_equal(order().seen(steps), counted)
        assert counted[1] == 0, "an empty shard is never drawn"


def test_every_sample_is_as_likely_and_weights_tell() -> None:
    steps = 4000
    even = order(sizes=(40, 80)).seen(steps) / np.array([40, 80])
    assert even[0] / even[1] == pytest.approx(1, abs=0.05)
    weighted = order(sizes=(40, 80), weights=(3.0, 1.0)).seen(steps) / np.array([40, 80])
    assert weighted[0] / weighted[1] == pytest.approx(3, rel=0.1)


def test_seeds_give_other_orders_and_other_crops() -> None:
    assert not np.array_equal(order(0).batch(0)[1], order(1).batch(0)[1])
    assert not np.array_equal(order(0).crops(0, 0, 4, 40), order(1).crops(0, 0, 4, 40))
    assert np.array_equal(order(0).crops(2, 5, 9, 40), order(0).crops(2, 0, 96, 40)[5:9])


def test_the_random_numbers_are_splitmix64() -> None:
    # the first outputs of the published generator for seed 1234567, and their place in [0, 1)
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert uniform(1234567, np.arange(3, dtype=np.uint64)).tolist() == [(number >> 11) * 2.0**-53 for number in published]
    assert stream(1, 2) != stream(2, 1)
