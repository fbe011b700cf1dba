"""A search as a whole: what it was asked and tried, what that took, and its verdict; from the journal and the entries alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.artifacts import BoardEntry
from datacomp_core.errors import SpecError
from datacomp_core.leaderboard.board.stats import SeedVariance, pooled_spread
from datacomp_core.leaderboard.entries import per_image_scores
from datacomp_core.leaderboard.entries.entry import Entry, read
from datacomp_core.leaderboard.entries.provenance import data_of
from datacomp_core.leaderboard.planning.rates import load
from datacomp_core.leaderboard.search.budget import Budget, Spent, affordable, spent
from datacomp_core.leaderboard.search.journal import FinalRuns, Journal, SeedRuns, Trial
from datacomp_core.leaderboard.search.proposals import importance
from datacomp_core.leaderboard.search.space import Space
from datacomp_core.leaderboard.search.trial_value import ScoredEntry, SearchVerdict, judge
from datacomp_core.store import Store

SEARCHES = "searches"


class Study(BaseModel):
    """See the module."""

    model_config = ConfigDict(frozen=True)
    name: str
    scale: str
    address: str
    filter: Any = Field(description="With its ranges and choices.")
    against: str
    trials: list[Trial]
    baseline: SeedRuns | None
    final: FinalRuns | None
    best: int | None = Field(description="The number of the best trial of the search.")
    judgement: SearchVerdict | None = Field(description="None until the final runs have ended.")
    importance: dict[str, float]
    noise: float | None = Field(description="Standard deviation of a run over seeds, if there were several.")
    spent: Spent
    stopped: str = Field(description="Why the search stopped; empty while it continues.")
    rows: dict[str, str] = Field(description="Entry's address -> key of its row on the board.")
    boards: dict[str, str] = Field(description="Entry's address -> scale of its board, which its pool need not have.")

    @property
    def complete(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.state == "complete"]


def winner_of(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the largest value; of equals the first."""
    over = [trial for trial in trials if trial.value is not None]
    return max(over, key=lambda trial: (trial.value or 0.0, -trial.number)) if over else None


def entry_at(store: Store, address: str) -> Entry:
    """SpecError if the entry is gone."""
    record = store.record(address)
    if record is None:
        raise SpecError(
            f"The entry {address} of this search is gone: the search needs the entries of its trials. Start a new search."
        )
    return read(store, store.artifact(BoardEntry, record))


def run_at(store: Store, address: str) -> ScoredEntry:
    """An entry with its hits."""
    folder = data_of(store, address)
    return ScoredEntry.of(entry_at(store, address), {} if folder is None else per_image_scores.read(folder))


def next_batch(store: Store, journal: Journal, request: dict[str, Any]) -> tuple[int, str]:
    """How many trials come next, those of a killed batch first; else none, and why."""
    return _next_batch(journal, request, spent(store, journal, _entries(store, journal), request["scale"], load(None)))


def _next_batch(journal: Journal, request: dict[str, Any], so_far: Spent) -> tuple[int, str]:
    trials = journal.trials()
    done, batches = {trial.number for trial in trials}, journal.batches()
    if batches and (left := [one for one in batches[-1].trials if one.number not in done]):
        return len(left), ""
    space = Space(json.loads(request["space"]))
    tried = {space.of_values(trial.params) for trial in trials}
    if space.untried(tried, len(tried)) == []:
        return 0, f"every filter of the space was tried, {len(tried):,} in all"
    budget = Budget.model_validate({name: request.get(name) for name in Budget.model_fields})
    winner = winner_of(trials)
    finished = winner is not None and journal.final(winner.number) is not None
    return affordable(budget, so_far, request["at_once"], 2 * len(request["final_seeds"]), finished=finished)


def _entries(store: Store, journal: Journal) -> dict[str, Entry]:
    """Every entry that the search made, by address."""
    return {address: entry_at(store, address) for address in _addresses(journal)}


def _addresses(journal: Journal) -> list[str]:
    trials, baseline = journal.trials(), journal.baseline()
    found = [address for trial in trials for address in trial.entries]
    found += baseline.entries if baseline is not None else []
    best = winner_of(trials)
    final = journal.final(best.number) if best is not None else None
    found += [*final.ours.entries, *final.theirs.entries] if final is not None else []
    return list(dict.fromkeys(found))


def study_of(store: Store, address: str) -> Study:
    """A search of the store. SpecError if there is none at the address."""
    folder = store.root / address
    if not address.startswith(f"{SEARCHES}/") or not folder.exists("request.json"):
        raise SpecError(f"There is no search at {address!r} in {store.root}: `datacomp search --list` lists the searches.")
    journal = Journal(folder)
    request = folder.read_json("request.json")
    trials, baseline = journal.trials(), journal.baseline()
    best = winner_of(trials)
    final = journal.final(best.number) if best is not None else None
    entries = _entries(store, journal)
    tree = json.loads(request["space"])
    against = request["against"] or (baseline.name if baseline is not None else "the scale's CLIP score")
    judgement = None
    if final is not None and best is not None and baseline is not None:
        own = best.values[-len(request["seeds"]) :]
        sides = [[run_at(store, place) for place in side.entries] for side in (final.ours, final.theirs)]
        judgement = judge(best.number, against, len(trials), (own, baseline.values), sides[0], sides[1])
    so_far = spent(store, journal, entries, request["scale"], load(None))
    spread = _spread(trials, baseline, final, len(request["seeds"]))
    return Study(
        name=request["name"],
        scale=request["scale"],
        address=address,
        filter=tree,
        against=against,
        trials=trials,
        baseline=baseline,
        final=final,
        best=None if best is None else best.number,
        judgement=judgement,
        importance=importance(Space(tree), trials),
        noise=None if spread is None else spread.variance**0.5,
        spent=so_far,
        stopped=_next_batch(journal, request, so_far)[1],
        rows={place: entry.same_but_for_seeds[:12] for place, entry in entries.items()},
        boards={place: entry.scale for place, entry in entries.items()},
    )


def _spread(trials: Sequence[Trial], baseline: SeedRuns | None, final: FinalRuns | None, seeds: int) -> SeedVariance | None:
    """The noise between seeds, from all that was run with several."""
    several = [trial.values[-seeds:] for trial in trials if trial.state == "complete"]
    several += [baseline.values] if baseline is not None else []
    several += [final.ours.values, final.theirs.values] if final is not None else []
    return pooled_spread(several)


def searches(store: Store) -> list[str]:
    """The addresses of all searches of a store."""
    folder = store.root / SEARCHES
    return [f"{SEARCHES}/{name.removesuffix('/request.json')}" for name in sorted(folder.files("request.json"))]
