"""Flow for many recipes and seeds over one pool; shared steps run once."""

from __future__ import annotations

from prefect import flow

from datacomp_core.artifacts import BoardEntry
from flows.chain import experiments
from flows.parameters import SweepSpec
from flows.task_calls import SubmittedCalls, options
from tasks.board import publish_board


@flow(name="sweep", **options("{scale}-sweep"))
def sweep(spec: SweepSpec) -> list[BoardEntry]:
    """Run every recipe with every seed, each a row of the leaderboard."""
    calls = SubmittedCalls()
    try:
        return calls.results(experiments(calls.call, spec.experiments()))
    finally:
        publish_board(spec.scale)
