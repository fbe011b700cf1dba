"""Decides which sample is where in which batch: a pure function of seed, shard sizes, step and position in the global batch.
As in the reference with `--dataset-resampled`, shards are drawn with replacement and read completely, each in its own order.
The global batch is cut into lanes; each lane has its own sequence of drawn shards. Nothing depends on ranks, workers or on what
was read before, so a resumed run, or one on another number of GPUs, sees what it would have seen.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

MAX_LANES = 64  # a batch mixes about as many shards at once; open_clip on 8 GPUs with 4 workers each mixes 32
VISITS = 64  # drawn shards that are looked up together
SHARDS, SAMPLES, CROPS, CAPTIONS = 1, 2, 3, 4  # what a stream of random numbers is for
NUMBERS_A_SAMPLE = 64

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def stream(*parts: int) -> int:
    """The 64-bit key of a stream of random numbers."""
    key = 0
    for part in parts:
        key = _scramble((key ^ part) + _GAMMA & _MASK)
    return key


def uniform(key: int, counter: npt.NDArray[np.uint64]) -> Floats:
    """SplitMix64's numbers at any places of a stream, float64 in [0, 1)."""
    z = np.uint64(key) + (counter + np.uint64(1)) * np.uint64(_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _scramble(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


class SampleOrder:
    """`sizes` and `weights` of the shards, shape (n,); a shard is drawn in proportion to its weight, an empty one never."""

    def __init__(self, seed: int, batch_size: int, sizes: Ints, weights: Floats | None = None) -> None:
        assert sizes.sum() > 0, "an order over nothing"
        self.seed, self.batch_size, self.sizes = seed, batch_size, sizes
        self.lanes = math.gcd(batch_size, MAX_LANES)
        self.lane_batch = batch_size // self.lanes
        drawn = np.where(sizes > 0, np.ones(len(sizes)) if weights is None else weights, 0.0)
        self._thresholds = np.cumsum(drawn) / drawn.sum()
        self._visits: dict[int, tuple[Ints, Ints]] = {}
        self._permutations: dict[int, tuple[int, Ints]] = {}

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> tuple[Ints, Ints]:
        """Shard and place in its index of each sample from `start` to `stop` of the global batch of a step."""
        stop = self.batch_size if stop is None else stop
        shards, rows = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for lane in range(start // self.lane_batch, -(-stop // self.lane_batch)):
            first = lane * self.lane_batch
            begin, end = max(start, first) - first, min(stop, first + self.lane_batch) - first
            at = step * self.lane_batch
            for shard, places in self._span(lane, at + begin, at + end):
                shards.append(np.full(len(places), shard))
                rows.append(places)
        return np.concatenate(shards), np.concatenate(rows)

    def shards(self, step: int, start: int, stop: int) -> list[int]:
        """Which shards that part of the global batch of a step is read from, in order."""
        found: set[int] = set()
        for lane in range(start // self.lane_batch, -(-stop // self.lane_batch)):
            first = (step - lane) * self.lane_batch  # of the step in this lane, less the lane's place in the batch
            begin, end = first + max(start, lane * self.lane_batch), first + min(stop, (lane + 1) * self.lane_batch)
            choice, ends = self._visited(lane, end)
            visits = slice(np.searchsorted(ends, begin, side="right"), np.searchsorted(ends, end - 1, side="right") + 1)
            found.update(choice[visits].tolist())
        return sorted(found)

    def seen(self, steps: int) -> Ints:
        """How many samples of each shard the first `steps` steps draw, shape (n,)."""
        seen = np.zeros(len(self.sizes), np.int64)
        for lane in range(self.lanes):
            left = steps * self.lane_batch
            choice, ends = self._visited(lane, left)
            taken = np.clip(left - (ends - self.sizes[choice]), 0, self.sizes[choice])
            np.add.at(seen, choice, taken)
        return seen

    def crops(self, step: int, start: int, stop: int, count: int) -> Floats:
        """`count` random numbers for the augmentation of each sample, shape (stop - start, count)."""
        assert count <= NUMBERS_A_SAMPLE
        at = np.arange(start, stop, dtype=np.uint64) + np.uint64(step * self.batch_size)
        places = at[:, None] * np.uint64(NUMBERS_A_SAMPLE) + np.arange(count, dtype=np.uint64)
        return uniform(stream(self.seed, CROPS), places)

    def captions(self, step: int, start: int, stop: int) -> Floats:
        """Two random numbers a sample for the draw of its caption, shape (stop - start, 2): a source, and one of its texts."""
        at = np.arange(start, stop, dtype=np.uint64) + np.uint64(step * self.batch_size)
        return uniform(stream(self.seed, CAPTIONS), at[:, None] * np.uint64(2) + np.arange(2, dtype=np.uint64))

    # ---------------------------------------------------------------------------------------------------------------

    def _span(self, lane: int, begin: int, end: int) -> list[tuple[int, Ints]]:
        """Yield the pieces of drawn shards between two positions of a lane."""
        choice, ends = self._visited(lane, end)
        pieces = []
        while begin < end:
            visit = int(np.searchsorted(ends, begin, side="right"))
            shard = int(choice[visit])
            opened = int(ends[visit] - self.sizes[shard])
            until = min(end, int(ends[visit]))
            pieces.append((shard, self._permutation(lane, visit, shard)[begin - opened : until - opened]))
            begin = until
        return pieces

    def _visited(self, lane: int, end: int) -> tuple[Ints, Ints]:
        """The shards drawn in a lane and where each ends, up to at least place `end`."""
        choice, ends = self._visits.get(lane, (np.empty(0, np.int64), np.empty(0, np.int64)))
        key = stream(self.seed, SHARDS, lane)
        while not len(ends) or ends[-1] < end:
            numbers = uniform(key, np.arange(len(choice), len(choice) + VISITS, dtype=np.uint64))
            drawn = np.searchsorted(self._thresholds, numbers, side="right").astype(np.int64)
            drawn = np.minimum(drawn, int(np.flatnonzero(self.sizes)[-1]))
            choice = np.concatenate([choice, drawn])
            ends = np.cumsum(self.sizes[choice])
            self._visits[lane] = choice, ends
        return choice, ends

    def _permutation(self, lane: int, visit: int, shard: int) -> Ints:
        cached = self._permutations.get(lane)
        if cached is None or cached[0] != visit:
            places = np.arange(self.sizes[shard], dtype=np.uint64)
            numbers = uniform(stream(self.seed, SAMPLES, lane, visit), places)
            cached = self._permutations[lane] = visit, np.argsort(numbers, kind="stable").astype(np.int64)
        return cached[1]
