"""Computes what a search has spent, and how many more trials its budget allows after reserving the final runs.

GPU-hours and money are those of every step that its entries came from, each once, as the records tell; hours are what the batches
took by the clock. A step that was built before the search began counts too: what a method costs does not depend on who paid.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from datacomp_core.leaderboard.entries.entry import Entry
from datacomp_core.leaderboard.entries.make_entry import cost_of
from datacomp_core.leaderboard.planning.rates import Rates
from datacomp_core.leaderboard.search.journal import Journal
from datacomp_core.store import Store

HOUR = 3600.0


class Budget(BaseModel):
    """None: as much as it takes."""

    model_config = ConfigDict(frozen=True)
    trials: int
    hours: float | None = None
    gpu_hours: float | None = None
    money: float | None = None


class Spent(BaseModel):
    """The cost of trials, baseline and final runs so far."""

    model_config = ConfigDict(frozen=True)
    trials: int
    hours: float
    gpu_hours: float
    money: float
    currency: str


def spent(store: Store, journal: Journal, entries: Sequence[Entry], rates: Rates) -> Spent:
    """`entries`: all that the search made."""
    links = {link.address: link for entry in entries for link in entry.chain}
    cost = cost_of(store, list(links.values()))
    cores = cost.seconds / HOUR * rates.machine.cpu_cores if not cost.gpu_hours else cost.seconds / HOUR
    return Spent(
        trials=len(journal.trials()),
        hours=sum(batch.seconds or 0.0 for batch in journal.batches()) / HOUR,
        gpu_hours=cost.gpu_hours,
        money=cost.gpu_hours * rates.prices.gpu_hour + cores * rates.prices.cpu_core_hour,
        currency=rates.currency,
    )


def affordable(budget: Budget, so_far: Spent, at_once: int, runs_a_trial: int, final_runs: int) -> tuple[int, str]:
    """How many trials the next batch may have, and what stops the search if it is none."""
    left = budget.trials - so_far.trials
    if left <= 0:
        return 0, f"all {budget.trials:,} trials are over"
    size = min(at_once, left)
    for name, what in (("hours", "hours"), ("gpu_hours", "GPU-hours"), ("money", so_far.currency)):
        limit, taken = getattr(budget, name), getattr(so_far, name)
        if limit is None:
            continue
        a_trial = taken / so_far.trials if so_far.trials else 0.0
        kept_back = a_trial / runs_a_trial * final_runs
        if taken + kept_back >= limit or (a_trial and limit - taken - kept_back < a_trial):
            return 0, f"the budget of {limit:g} {what} is spent: {taken:.3g}, and {kept_back:.3g} is reserved for the final runs"
        if a_trial:
            size = min(size, int((limit - taken - kept_back) / a_trial))
    return max(size, 1), ""
