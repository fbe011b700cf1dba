"""A search for a filter: batches of trials, each an experiment of the same chain, then fresh runs of the winner and a verdict."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from prefect import flow

from datacomp_core.artifacts import BoardEntry
from datacomp_core.errors import DataError
from datacomp_core.leaderboard.search.journal import Batch, Final, Journal, Runs, Trial
from datacomp_core.leaderboard.search.proposals import Open, propose
from datacomp_core.leaderboard.search.study import entry_at, next_batch, run_at, winner_of
from datacomp_core.leaderboard.search.worth import value
from datacomp_core.recipes.base import Recipe
from flows.calls import Submitted, options
from flows.chain import each_once, experiment
from flows.parameters import ExperimentSpec
from flows.searching import SearchSpec
from tasks.board import publish_board
from tasks.running import store
from tasks.search import publish_search


@flow(name="search", **options("{scale}-{name}-search"))
def search(spec: SearchSpec) -> str:
    """Search until the budget is spent, run the winner again, and say whether it is better. Returns the search's address.

    DataError if no trial came to a score.
    """
    address = spec.address()
    journal = Journal(store().root / address)
    request = spec.model_dump(mode="json")
    journal.note_request(request)
    try:
        if journal.baseline() is None:
            _baseline(spec, journal)
        while (number := next_batch(store(), journal, request)[0]) > 0:
            _batch(spec, journal, number)
            publish_search(address)
        winner = winner_of(journal.trials())
        if winner is None:
            told = next((trial.reason for trial in journal.trials() if trial.reason), "none was over")
            raise DataError(f"No trial of the search {spec.name} came to a score. The first one: {told}")
        if journal.final(winner.number) is None:
            _final(spec, journal, winner)
    finally:
        publish_board(spec.scale)
        publish_search(address)
    return address


def _baseline(spec: SearchSpec, journal: Journal) -> Runs:
    """What the winner is held against, with the seeds of the search."""
    entries, problem = _measured([[spec.baseline_experiment(seed) for seed in spec.seeds]])[0]
    if problem is not None:
        raise problem
    runs = _runs(spec.baseline, entries)
    journal.note_baseline(runs)
    return runs


def _final(spec: SearchSpec, journal: Journal, winner: Trial) -> None:
    """The winner and what it is held against, with fresh seeds."""
    recipe = spec.recipe_of(winner.filter, winner.number)
    ours = [spec.experiment(recipe, spec.scale, seed) for seed in spec.final_seeds]
    theirs = [spec.baseline_experiment(seed) for seed in spec.final_seeds]
    made = _measured([ours, theirs])
    for _, problem in made:
        if problem is not None:
            raise problem
    sides = [_runs(name, entries) for name, (entries, _) in zip((recipe.name, spec.baseline), made, strict=True)]
    journal.note_final(Final(winner=winner.number, ours=sides[0], theirs=sides[1]))


def _runs(name: str, entries: Sequence[BoardEntry]) -> Runs:
    values = [value(run_at(store(), entry.address)) for entry in entries]
    if any(one is None for one in values):
        raise DataError(f"{name} has no score on any task of the suite: nothing can be held against it.")
    return Runs(name=name, entries=[entry.address for entry in entries], values=[one for one in values if one is not None])


def _batch(spec: SearchSpec, journal: Journal, number: int) -> None:
    """Propose a batch, or take up the one that was killed, and run it rung by rung."""
    began, batches = time.monotonic(), journal.batches()
    over = journal.trials()
    done = {trial.number for trial in over}
    left = [one for one in batches[-1].trials if one.number not in done] if batches else []
    if left:  # the same history as when they were asked for: trials of this batch that are over are no part of it
        asked = batches[-1].trials
        before = [trial for trial in over if trial.number < asked[0].number]
        made = propose(spec.the_space(), before, asked, 0, sampler=spec.sampler, pruning=spec.pruning, seed=spec.seed)
        place = len(batches) - 1
    else:
        made = propose(spec.the_space(), over, (), number, sampler=spec.sampler, pruning=spec.pruning, seed=spec.seed)
        place = len(batches)
        journal.note_batch(place, Batch(trials=[one.asked for one in made]))
    for trial in _tried(spec, made):
        journal.note_trial(trial)
    before_that = batches[place].seconds or 0.0 if place < len(batches) else 0.0
    journal.note_batch(place, Batch(trials=[one.asked for one in made], seconds=before_that + time.monotonic() - began))


class _Tried:
    """A proposal on its way through the rungs."""

    def __init__(self, spec: SearchSpec, asked: Open) -> None:
        self.spec, self.asked = spec, asked
        self.entries: list[BoardEntry] = []
        self.values: list[float] = []
        self.reason, self.pruned = "", False
        self.recipe: Recipe | None = None
        try:
            self.recipe = spec.recipe_of(asked.tree, asked.number)
        except ValueError as problem:
            self.reason = str(problem)

    @property
    def goes_on(self) -> bool:
        return not self.reason and not self.pruned

    def experiment(self, scale: str, seed: int) -> ExperimentSpec:
        assert self.recipe is not None, "a proposal without a filter goes no further"
        return self.spec.experiment(self.recipe, scale, seed)

    def note(self, entries: Sequence[BoardEntry], problem: Exception | None, rung: int, *, last: bool) -> None:
        """What a rung came to."""
        worth = None if problem is not None else value(run_at(store(), entries[0].address))
        if worth is None:
            self.reason = str(problem) or type(problem).__name__ if problem is not None else "no task of the suite has a score"
            return
        self.entries += entries
        self.values.append(worth)
        self.pruned = self.asked.lags(worth, rung) and not last

    def trial(self) -> Trial:
        own = self.values[-len(self.spec.seeds) :]
        state = "failed" if self.reason else "pruned" if self.pruned else "complete"
        return Trial(
            number=self.asked.number,
            params=self.asked.params,
            filter=None if self.recipe is None else self.recipe.filter.model_dump(mode="json"),
            state=state,
            values=self.values,
            value=sum(own) / len(own) if state == "complete" else None,
            entries=[entry.address for entry in self.entries],
            reason=self.reason,
            size=entry_at(store(), self.entries[-1].address).size.total if self.entries else None,
        )


def _tried(spec: SearchSpec, made: Sequence[Open]) -> list[Trial]:
    """Every trial of a batch through the rungs: on each, all that go on are run together."""
    tried = [_Tried(spec, one) for one in made]
    rungs = spec.rungs()
    for rung, (scale, seed) in enumerate(rungs):
        going = [one for one in tried if one.goes_on]
        found = _measured([[one.experiment(scale, seed)] for one in going])
        for one, (entries, problem) in zip(going, found, strict=True):
            one.note(entries, problem, rung, last=rung == len(rungs) - 1)
    return [one.trial() for one in tried]


def _measured(groups: Sequence[Sequence[ExperimentSpec]]) -> list[tuple[list[BoardEntry], Exception | None]]:
    """The entries of each group of experiments, or why it has none; steps that several need are done once."""
    calls = Submitted()
    once = each_once(calls.call)
    asked: list[tuple[list[Any], list[Any], Exception | None]] = []
    for group in groups:
        own: list[Any] = []

        def noted(task: Any, *identity: Any, own: list[Any] = own) -> Any:
            own.append(once(task, *identity))
            return own[-1]

        try:
            asked.append(([experiment(noted, spec).entry for spec in group], own, None))
        except ValueError as problem:  # the pool lacks what this filter reads, say
            asked.append(([], own, problem))
    calls.settled()
    return [_outcome(*one) for one in asked]


def _outcome(wanted: list[Any], own: list[Any], problem: Exception | None) -> tuple[list[BoardEntry], Exception | None]:
    """A group's entries, or the first failure among its own calls."""
    for future in own:
        if problem is None and hasattr(future, "state") and (future.state.is_failed() or future.state.is_crashed()):
            found = future.result(raise_on_failure=False)
            problem = found if isinstance(found, Exception) else DataError(str(found))
    if problem is not None:
        return [], problem
    return [future.result() for future in wanted], None
