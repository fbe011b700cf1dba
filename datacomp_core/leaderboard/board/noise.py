"""The noise of training that a row with one seed borrows from rows with several.

On a board that several people send to, nobody may move another one's verdict by sending rows whose seeds are far apart (a
"better" would become "tied") or close together. So a row takes the noise of its own sender's rows first; of other senders each
counts once, by the median, and only if there are enough of them that no single one decides the median.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median_low

from datacomp_core.leaderboard.board.stats import SeedVariance, pooled_spread

ENOUGH = 3
"""Other senders with several seeds. With three, the median is between the values of two of them, for any value of the third."""


class SeedNoise:
    """Spreads over seeds by sender, from each row's sender (empty on a private board) and its averages by seed."""

    def __init__(self, rows: Iterable[tuple[str, Sequence[float]]]) -> None:
        by_sender: dict[str, list[Sequence[float]]] = {}
        for sender, averages in rows:
            by_sender.setdefault(sender, []).append(averages)
        spreads = {sender: pooled_spread(methods) for sender, methods in by_sender.items()}
        self._spreads = {sender: spread for sender, spread in spreads.items() if spread is not None}

    def borrowed_by(self, sender: str) -> SeedVariance | None:
        """Return the variance for a row of this sender with one seed; None if only data that a sender could choose are known."""
        own = self._spreads.get(sender)
        if own is not None:
            return own
        others = list(self._spreads.values())
        return _median(others) if len(others) >= ENOUGH else None

    def deviation(self) -> float | None:
        """The standard deviation to show for the whole board: the median of its senders. None if no row has two seeds."""
        return _median(list(self._spreads.values())).variance ** 0.5 if self._spreads else None

    @property
    def num_senders(self) -> int:
        """Senders that have a row with several seeds."""
        return len(self._spreads)


def _median(spreads: list[SeedVariance]) -> SeedVariance:
    """Variance and degrees of freedom each by their own median: a sender of few seeds may otherwise widen every interval."""
    found = [median_low(spread.variance for spread in spreads), median_low(spread.freedom for spread in spreads)]
    return SeedVariance(variance=found[0], freedom=int(found[1]), num_senders=len(spreads))
