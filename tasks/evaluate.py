"""Tasks that score a checkpoint: fetch test sets, evaluate, and enter the result on the leaderboard."""

from __future__ import annotations

from prefect import task

from datacomp_core.artifacts import BoardEntry, Checkpoint, EvalReport, EvalSets, ShardSet, Subset
from datacomp_core.evaluation import download as downloading
from datacomp_core.evaluation import evaluate as evaluation
from datacomp_core.evaluation import own_sets
from datacomp_core.leaderboard.entries import make_entry as entering
from datacomp_core.settings import settings
from tasks import retry_policies
from tasks.run_step import run, runs


@task(name="download-evalsets", **retry_policies.NETWORK)
@runs(downloading.download_evalsets)
def download_evalsets(spec: downloading.DownloadSpec) -> EvalSets:
    """Test sets from the hub, each complete and with its hashes."""
    return run(downloading.download_evalsets, spec)


@task(name="bring-own-sets", **retry_policies.NETWORK)
@runs(own_sets.bring_own_sets)
def bring_own_sets(spec: own_sets.OwnSetsSpec) -> EvalSets:
    """Copy the user's own test sets into the store."""
    return run(own_sets.bring_own_sets, spec)


@task(name="evaluate", **retry_policies.NETWORK)
@runs(evaluation.evaluate)
def evaluate(spec: evaluation.EvalSpec, checkpoint: Checkpoint, evalsets: EvalSets) -> EvalReport:
    """Zero-shot scores of a checkpoint on every task of a suite."""
    return run(evaluation.evaluate, spec, checkpoint, evalsets, device=settings().device, workers=settings().num_workers)


@task(name="enter", **retry_policies.NETWORK)
@runs(entering.enter)
def enter(spec: entering.EntrySpec, report: EvalReport, checkpoint: Checkpoint, subset: Subset, shards: ShardSet) -> BoardEntry:
    """The leaderboard entry of one report, with its complete provenance."""
    return run(entering.enter, spec, report, checkpoint, subset, shards)
