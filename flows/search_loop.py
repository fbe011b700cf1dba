"""Decides what a search does next, independent of who runs its experiments: baseline, batches of trials rung by rung, fresh
runs of the winner. Its whole state is in its journal, so a killed search resumes: finished trials of a batch are kept, and the
others are requested again with the same values. A filter that does not work is a failed trial. A machine failure ends the run;
run it again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from datacomp_core.artifacts import BoardEntry
from datacomp_core.errors import DataError, SpecError
from datacomp_core.leaderboard.search.journal import FinalRuns, Journal, Proposal, SeedRuns, Trial, TrialBatch
from datacomp_core.leaderboard.search.proposals import RunningProposal, propose
from datacomp_core.leaderboard.search.study import entry_at, next_batch, run_at, winner_of
from datacomp_core.leaderboard.search.trial_value import value
from datacomp_core.recipes.base import Recipe
from datacomp_core.store import Store
from flows.parameters import ExperimentSpec
from flows.search_spec import SearchSpec

Measured = tuple[list[BoardEntry], Exception | None]
"""The entries of a group of experiments, or why it has none."""
Measure = Callable[[Sequence[Sequence[ExperimentSpec]]], list[Measured]]


class SearchLoop:
    """`measure` runs groups of experiments at the same time and gives the outcome of each."""

    def __init__(self, spec: SearchSpec, store: Store, measure: Measure) -> None:
        self.spec, self.store, self.measure = spec, store, measure
        self.address = spec.address()
        self.journal = Journal(store.root / self.address)
        self.request = spec.model_dump(mode="json")

    def run(self) -> Iterator[int]:
        """Work until the search is finished; yield the number of finished trials after each batch. DataError if none has a
        score."""
        self.journal.note_request(self.request)
        if self.journal.baseline() is None:
            specs = [self.spec.baseline_experiment(seed) for seed in self.spec.seeds]
            [entries] = self._all([specs])
            self.journal.note_baseline(self._runs(self.spec.baseline, entries))
        while (number := next_batch(self.store, self.journal, self.request)[0]) > 0:
            self._batch(number)
            yield len(self.journal.trials())
        winner = winner_of(self.journal.trials())
        if winner is None:
            told = next((trial.reason for trial in self.journal.trials() if trial.reason), "the budget allows none")
            raise DataError(f"No trial of the search {self.spec.name} has a score. The first one: {told}")
        if self.journal.final(winner.number) is None:
            self._final(winner)

    def _final(self, winner: Trial) -> None:
        """Run the winner and its baseline with fresh seeds."""
        recipe = self.spec.recipe_of(winner.filter, winner.number)
        ours = [self.spec.experiment(recipe, self.spec.scale, seed) for seed in self.spec.final_seeds]
        theirs = [self.spec.baseline_experiment(seed) for seed in self.spec.final_seeds]
        sides = self._all([ours, theirs])
        runs = [self._runs(name, entries) for name, entries in zip((recipe.name, self.spec.baseline), sides, strict=True)]
        self.journal.note_final(FinalRuns(winner=winner.number, ours=runs[0], theirs=runs[1]))

    def _all(self, groups: Sequence[Sequence[ExperimentSpec]]) -> list[list[BoardEntry]]:
        """Return the entries of groups that the search requires; raise the first failure."""
        found = self.measure(groups)
        for _, problem in found:
            if problem is not None:
                raise problem
        return [entries for entries, _ in found]

    def _runs(self, name: str, entries: Sequence[BoardEntry]) -> SeedRuns:
        values = [value(run_at(self.store, entry.address)) for entry in entries]
        known = [one for one in values if one is not None]
        if len(known) < len(values):
            raise DataError(f"{name} has no score on any task of the suite, so nothing can be compared with it.")
        return SeedRuns(name=name, entries=[entry.address for entry in entries], values=known)

    def _batch(self, number: int) -> None:
        """Propose a batch, or resume the one that was killed, and run it."""
        began, batches, over = time.monotonic(), self.journal.batches(), self.journal.trials()
        done = {trial.number for trial in over}
        killed = bool(batches) and any(one.number not in done for one in batches[-1].trials)
        if killed:  # with the history at that time, without its own trials
            place, asked = len(batches) - 1, batches[-1].trials
            made = self._proposed([trial for trial in over if trial.number < asked[0].number], asked, 0)
        else:
            place = len(batches)
            made = self._proposed(over, (), number)
            self.journal.note_batch(place, TrialBatch(trials=[one.asked for one in made]))
        for trial in self._tried([one for one in made if one.number not in done]):
            self.journal.note_trial(trial)
        self.journal.note_batch(place, TrialBatch(trials=[one.asked for one in made], seconds=time.monotonic() - began))

    def _proposed(self, over: Sequence[Trial], asked: Sequence[Proposal], number: int) -> list[RunningProposal]:
        spec = self.spec
        return propose(spec.the_space(), over, asked, number, sampler=spec.sampler, pruning=spec.pruning, seed=spec.seed)

    def _tried(self, made: Sequence[RunningProposal]) -> list[Trial]:
        """Run trials through the rungs; on each rung all remaining trials run together."""
        tried = [_Tried(self, one) for one in made]
        rungs = self.spec.rungs()
        for rung, (scale, seed) in enumerate(rungs):
            going = [one for one in tried if one.goes_on]
            found = self.measure([[one.experiment(scale, seed)] for one in going])
            for _, problem in found:
                if problem is not None and not isinstance(problem, (DataError, SpecError)):
                    raise problem
            for one, (entries, problem) in zip(going, found, strict=True):
                one.note(entries, problem, rung, last=rung == len(rungs) - 1)
        return [one.trial() for one in tried]


class _Tried:
    """A proposal on its way through the rungs."""

    def __init__(self, loop: SearchLoop, asked: RunningProposal) -> None:
        self.loop, self.asked = loop, asked
        self.entries: list[BoardEntry] = []
        self.values: list[float] = []
        self.reason, self.pruned = "", False
        self.recipe: Recipe | None = None
        try:
            self.recipe = loop.spec.recipe_of(asked.tree, asked.number)
        except ValueError as problem:
            self.reason = str(problem)

    @property
    def goes_on(self) -> bool:
        return not self.reason and not self.pruned

    def experiment(self, scale: str, seed: int) -> ExperimentSpec:
        assert self.recipe is not None, "a proposal without a filter is stopped"
        return self.loop.spec.experiment(self.recipe, scale, seed)

    def note(self, entries: Sequence[BoardEntry], problem: Exception | None, rung: int, *, last: bool) -> None:
        """The result of a rung."""
        if problem is not None:
            self.reason = str(problem) or type(problem).__name__
            return
        worth = value(run_at(self.loop.store, entries[0].address))
        if worth is None:
            self.reason = "no task of the suite has a score"
            return
        self.entries += entries
        self.values.append(worth)
        self.pruned = self.asked.lags(worth, rung) and not last

    def trial(self) -> Trial:
        own = self.values[-len(self.loop.spec.seeds) :]
        state: Literal["failed", "pruned", "complete"] = "failed" if self.reason else "pruned" if self.pruned else "complete"
        return Trial(
            number=self.asked.number,
            params=self.asked.params,
            filter=None if self.recipe is None else self.recipe.filter.model_dump(mode="json"),
            state=state,
            values=self.values,
            value=sum(own) / len(own) if state == "complete" else None,
            entries=[entry.address for entry in self.entries],
            reason=self.reason,
            size=entry_at(self.loop.store, self.entries[-1].address).size.total if self.entries else None,
        )
