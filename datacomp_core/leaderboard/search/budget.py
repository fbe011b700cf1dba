"""Computes what a search has spent, and how many more trials its budget allows after reserving the final runs.

GPU-hours and money are those of every step that its entries came from, each once, as the records tell; hours are what the batches
took by the clock. A step that was built before the search began counts too: what a method costs does not depend on who paid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, ConfigDict

from datacomp_core.leaderboard.entries.entry import Entry
from datacomp_core.leaderboard.entries.make_entry import cost_of
from datacomp_core.leaderboard.entries.provenance import ProvenanceLink
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


class Amounts(BaseModel):
    """What something costs in each unit of a budget."""

    model_config = ConfigDict(frozen=True)
    hours: float = 0.0
    gpu_hours: float = 0.0
    money: float = 0.0


class Spent(Amounts):
    """The cost of trials, baseline and final runs so far. `a_trial`: the mean of what a trial needed beside the baseline's steps,
    `a_run`: that of one training at the search's own scale, with its subset, shards and evaluation."""

    trials: int
    currency: str
    a_trial: Amounts = Amounts()
    a_run: Amounts = Amounts()


def spent(store: Store, journal: Journal, entries: Mapping[str, Entry], scale: str, rates: Rates) -> Spent:
    """`entries`: all that the search made, by address; `scale`: the search's own."""
    trials, baseline = journal.trials(), journal.baseline()
    shared = _steps([entries[place] for place in (baseline.entries if baseline is not None else [])])
    steps = _steps([entries[place] for trial in trials for place in trial.entries])
    tried = [link for address, link in steps.items() if address not in shared]
    own = [entry for entry in entries.values() if entry.scale == scale]
    runs = [link for entry in own for link in entry.chain if link.address in entry.inputs.values()]
    hours = sum(batch.seconds or 0.0 for batch in journal.batches()) / HOUR
    whole, of_trials, of_runs = (_amounts(store, links, rates) for links in ([*_steps(entries.values()).values()], tried, runs))
    by_the_clock = hours / of_trials.hours if of_trials.hours else 0.0  # trials at the same time take less than one after another
    return Spent(
        trials=len(trials),
        hours=hours,
        gpu_hours=whole.gpu_hours,
        money=whole.money,
        currency=rates.currency,
        a_trial=_divided(of_trials, len(trials), by_the_clock),
        a_run=_divided(of_runs, len(own), by_the_clock),
    )


def _steps(entries: Iterable[Entry]) -> dict[str, ProvenanceLink]:
    """The steps of entries by address, each once."""
    return {link.address: link for entry in entries for link in entry.chain}


def _amounts(store: Store, links: list[ProvenanceLink], rates: Rates) -> Amounts:
    """The cost of steps; `hours` as if one ran after another."""
    cost = cost_of(store, links)
    hours = cost.seconds / HOUR
    cores = hours if cost.gpu_hours else hours * rates.machine.cpu_cores
    money = cost.gpu_hours * rates.prices.gpu_hour + cores * rates.prices.cpu_core_hour
    return Amounts(hours=hours, gpu_hours=cost.gpu_hours, money=money)


def _divided(whole: Amounts, number: int, by_the_clock: float) -> Amounts:
    """The mean of `number` of them."""
    number = max(number, 1)
    return Amounts(hours=whole.hours * by_the_clock / number, gpu_hours=whole.gpu_hours / number, money=whole.money / number)


def affordable(budget: Budget, so_far: Spent, at_once: int, final_runs: int, *, finished: bool = False) -> tuple[int, str]:
    """How many trials the next batch may have, and what stops the search if it is none. `finished`: the final runs are over."""
    left = budget.trials - so_far.trials
    if left <= 0:
        return 0, f"all {budget.trials:,} trials are over"
    size = min(at_once, left)
    for name, what in (("hours", "hours"), ("gpu_hours", "GPU-hours"), ("money", so_far.currency)):
        limit, taken = getattr(budget, name), getattr(so_far, name)
        if limit is None:
            continue
        a_trial, kept_back = getattr(so_far.a_trial, name), getattr(so_far.a_run, name) * final_runs
        if taken + kept_back >= limit or (a_trial and limit - taken - kept_back < a_trial):
            final = " with the final runs" if finished else f", and {kept_back:.3g} is reserved for the final runs"
            return 0, f"the budget of {limit:g} {what} is spent: {taken:.3g}{final}"
        if a_trial:
            size = min(size, int((limit - taken - kept_back) / a_trial))
    return max(size, 1), ""
