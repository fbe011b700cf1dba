"""Flow of the whole chain for one scale and one recipe."""

from __future__ import annotations

from prefect import flow

from datacomp_core.artifacts import BoardEntry
from flows.chain import experiments
from flows.parameters import ExperimentSpec
from flows.task_calls import SubmittedCalls, options
from tasks.board import publish_board


@flow(name="experiment", **options("{scale}-{recipe}-seed{seed}"))
def experiment(spec: ExperimentSpec) -> BoardEntry:
    """Pool, images, scores, filter, reshard, training, evaluation, leaderboard. Finished steps are reused."""
    calls = SubmittedCalls()
    [entry] = calls.results(experiments(calls.call, [spec]))
    publish_board(spec.scale)
    return entry
