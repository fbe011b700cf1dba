"""Computes sampling keys: a hash of a uid and a seed, the same in every pool and on every machine, uniform over 64 bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from datacomp_core import uid

UNSIGNED = npt.NDArray[np.uint64]
HIGHEST = (1 << 64) - 1
SAMPLE_SEED = 0xE7
"""Seed of the uniform sample that `datacomp explore` shows."""


def last_key(num_rows: int, num_pool: int) -> int:
    """The highest key of a sample of about `num_rows` rows; HIGHEST if that is all of the pool."""
    return HIGHEST if num_rows >= num_pool else num_rows * (1 << 64) // num_pool - 1


def is_sampled(uids: uid.Uids, last: int) -> npt.NDArray[np.bool_]:
    """Which uids belong to the sample up to a key, shape (n,)."""
    if last >= HIGHEST:
        return np.ones(len(uids), np.bool_)
    return sampling_keys(uids, SAMPLE_SEED) <= np.uint64(max(last, 0))


def sampling_keys(uids: uid.Uids, seed: int) -> UNSIGNED:
    """Two rounds of splitmix64 over the uid's halves, keyed with the seed; shape (n,)."""
    start = mixed_bits(np.array([seed], np.uint64))
    return mixed_bits(mixed_bits(uids["f0"] ^ start) ^ uids["f1"])


def mixed_bits(value: UNSIGNED) -> UNSIGNED:
    """One step of splitmix64 (Steele, Lea and Flood 2014); the overflow is intended."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
