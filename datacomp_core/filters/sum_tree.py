"""Makes many draws in proportion to changing shares, with a tree of sums with 64 children per node. A draw costs one path down
the tree and a change one path up, so 128 M draws from 128 M rows take minutes and 8 bytes per row; a plain softmax would touch
every row for every batch.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FAN = 64
Shares = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


class SumTree:
    """`shares` (rows,): not negative, in any unit. Level 0 is the rows; a level above has the sums of 64 of the one below."""

    def __init__(self, shares: Shares) -> None:
        self.rows = len(shares)
        self.levels: list[Shares] = [_padded(shares)]
        while len(self.levels[-1]) > FAN:
            self.levels.append(_padded(self.levels[-1].reshape(-1, FAN).sum(1)))

    @property
    def total(self) -> float:
        return float(self.levels[-1].sum())

    def shares(self, rows: Rows) -> Shares:
        return self.levels[0][rows]

    def draw(self, chance: np.random.Generator, number: int) -> Rows:
        """Rows drawn independently, with replacement, in proportion to their shares; shape (number,)."""
        found = np.zeros(number, np.int64)
        for level in reversed(self.levels):
            nodes = level.reshape(-1, FAN)[found]
            sums = np.cumsum(nodes, axis=1)
            at = chance.random(number) * sums[:, -1]
            child = (sums <= at[:, None]).sum(1)
            last = FAN - 1 - np.argmax(nodes[:, ::-1] > 0, axis=1)  # rounding may reach past the last share
            found = found * FAN + np.minimum(child, last)
        return found

    def change(self, rows: Rows, shares: Shares) -> None:
        """New shares for some rows (each once)."""
        self.levels[0][rows] = shares
        nodes = rows
        for below, above in zip(self.levels[:-1], self.levels[1:], strict=True):
            nodes = np.unique(nodes // FAN)
            above[nodes] = below.reshape(-1, FAN)[nodes].sum(1)


def _padded(values: Shares) -> Shares:
    padded = np.zeros(-(-max(len(values), 1) // FAN) * FAN, np.float64)
    padded[: len(values)] = values
    return padded
