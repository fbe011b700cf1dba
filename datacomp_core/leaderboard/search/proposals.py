"""Proposes the next trials with Optuna: the same finished trials always lead to the same proposals.

Optuna stores nothing: its study is built again from the journal for each batch, with the number of trials as seed. A filter is
tried once: a sampler that proposes it again is asked again (what it proposed stays in the study as running). A finished
trial has a value for each rung (a smaller scale or another seed); the median rule uses them to end trials that lag behind.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from datacomp_core.leaderboard.search.journal import Proposal, Trial
from datacomp_core.leaderboard.search.space import ChoiceParameter, Free, Space

if TYPE_CHECKING:
    import optuna

Sampler = Literal["tpe", "gp", "random"]
Pruning = Literal["median", "none"]
RANDOM_FIRST = 8
"""Trials by chance before a sampler has anything to learn from."""
BEFORE_PRUNING = 4
ASKS = 3
"""How often a sampler that repeats a filter is asked before one of those that are left is drawn."""
MOST_LISTED = 10_000


class RunningProposal:
    """A proposal that runs: what it asks for, and whether it is worth going on with."""

    def __init__(self, number: int, params: dict[str, Any], tree: Any, trial: optuna.Trial) -> None:
        self.number, self.params, self.tree, self._trial = number, params, tree, trial

    def lags(self, value: float, rung: int) -> bool:
        """Report what it was worth on a rung; True if the median of those before it was better."""
        self._trial.report(value, rung)
        return self._trial.should_prune()

    @property
    def asked(self) -> Proposal:
        return Proposal(number=self.number, params=self.params)


def propose(
    space: Space, over: Sequence[Trial], asked: Sequence[Proposal], number: int, *, sampler: Sampler, pruning: Pruning, seed: int
) -> list[RunningProposal]:
    """`number` new trials, or those of `asked` again if there are any. No new trial has the filter of another one, so they are
    fewer if the space has no more.
    """
    optuna = _quiet_optuna()
    own = int.from_bytes(hashlib.sha256(f"{seed} {len(over)}".encode()).digest()[:4], "big")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(direction="maximize", sampler=_sampler(sampler, own), pruner=_pruner(pruning))
        study.add_trials([_frozen(space, trial) for trial in over])
        for one in asked:
            study.enqueue_trial(dict(one.params))
        first = asked[0].number if asked else max((trial.number for trial in over), default=-1) + 1
        if asked:
            return [_asked(space, study, first + place) for place in range(len(asked))]
        made: list[RunningProposal] = []
        tried = {space.of_values(trial.params) for trial in over}
        random = np.random.default_rng(own)
        while len(made) < number and (one := _fresh(space, study, first + len(made), tried, random)) is not None:
            tried.add(space.of_values(one.params))
            made.append(one)
        return made


def _fresh(
    space: Space, study: optuna.Study, number: int, tried: Set[str], random: np.random.Generator
) -> RunningProposal | None:
    """A trial of a filter that was not tried; None if there is none. Of an endless space, that of the last of ASKS repeats."""
    one = _asked(space, study, number)
    for _ in range(ASKS):
        if space.of_values(one.params) not in tried:
            return one
        one = _asked(space, study, number)
    left = space.untried(tried, MOST_LISTED)
    if left is None:
        return one
    if not left:
        return None
    study.enqueue_trial(left[int(random.integers(len(left)))])
    return _asked(space, study, number)


def _asked(space: Space, study: optuna.Study, number: int) -> RunningProposal:
    trial = study.ask()
    tree = space.filled(lambda name, free: _suggested(trial, name, free))
    return RunningProposal(number, dict(trial.params), tree, trial)


def _suggested(trial: optuna.Trial, name: str, free: Free) -> Any:
    if isinstance(free, ChoiceParameter):
        return trial.suggest_categorical(name, free.labels)
    if free.is_whole:
        return trial.suggest_int(name, int(free.low), int(free.high), step=int(free.step or 1), log=free.log)
    step = None if free.step is None else float(free.step)
    return trial.suggest_float(name, float(free.low), float(free.high), step=step, log=free.log)


def distribution(free: Free) -> optuna.distributions.BaseDistribution:
    """As `_suggested` makes it."""
    from optuna import distributions

    if isinstance(free, ChoiceParameter):
        return distributions.CategoricalDistribution(free.labels)
    if free.is_whole:
        return distributions.IntDistribution(int(free.low), int(free.high), log=free.log, step=int(free.step or 1))
    step = None if free.step is None else float(free.step)
    return distributions.FloatDistribution(float(free.low), float(free.high), log=free.log, step=step)


def _frozen(space: Space, trial: Trial) -> optuna.trial.FrozenTrial:
    import optuna

    states = optuna.trial.TrialState
    state = {"complete": states.COMPLETE, "pruned": states.PRUNED, "failed": states.FAIL}[trial.state]
    return optuna.trial.create_trial(
        state=state,
        value=trial.value if trial.state == "complete" else None,
        params=dict(trial.params),
        distributions={name: distribution(space.free[name]) for name in trial.params},
        intermediate_values=dict(enumerate(trial.values)),
    )


def _sampler(kind: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    from optuna import samplers

    if kind == "random":
        return samplers.RandomSampler(seed=seed)
    if kind == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=RANDOM_FIRST, warn_independent_sampling=False)
    return samplers.TPESampler(seed=seed, n_startup_trials=RANDOM_FIRST, multivariate=True, group=True, constant_liar=True)


def _pruner(kind: Pruning) -> optuna.pruners.BasePruner:
    from optuna import pruners

    return pruners.NopPruner() if kind == "none" else pruners.MedianPruner(n_startup_trials=BEFORE_PRUNING)


def _quiet_optuna() -> Any:
    """Optuna, which tells of every study on standard error unless it is asked not to."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def importance(space: Space, over: Sequence[Trial]) -> dict[str, float]:
    """How much of what trials are worth each parameter decides (PED-ANOVA), largest first; none of fewer than four trials."""
    optuna = _quiet_optuna()
    complete = [trial for trial in over if trial.state == "complete"]
    shared = [name for name in space.free if all(name in trial.params for trial in complete)]
    if len(complete) < BEFORE_PRUNING or not shared or len({trial.value for trial in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(direction="maximize")
        study.add_trials([_frozen(space, trial) for trial in complete])
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=shared))
