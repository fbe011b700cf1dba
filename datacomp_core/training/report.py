"""Writes `training.json`: what was trained, on what, how, and the result. Plain JSON instead of the reference's pickle."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from datacomp_core.artifacts import ShardSet
from datacomp_core.errors import LostProcessError
from datacomp_core.training.alarms import collapsed
from datacomp_core.training.arguments import arguments
from datacomp_core.training.job import RUN, RankJob
from datacomp_core.training.launch import TorchrunLayout
from datacomp_core.training.preflight import PreflightRow
from datacomp_core.training.run_monitor import RunMonitor
from datacomp_core.training.sample_order import SampleOrder

log = logging.getLogger(__name__)

NAMED = 20  # unreadable samples that are told by name


def report(
    job: RankJob,
    layout: TorchrunLayout,
    shards: tuple[ShardSet, ...],
    table: list[PreflightRow],
    watch: RunMonitor,
    seconds: float,
) -> dict[str, Any]:
    """The record of a run that has ended. LostProcessError if its last step is missing from the history."""
    spec, rows = job.spec, watch.rows
    if not rows or int(rows[-1]["step"]) + 1 != spec.steps:
        raise LostProcessError(f"The training ended without its last step {spec.steps}: run again to resume.")
    losses = [row["loss"] for row in rows[-max(1, len(rows) // 20) :]]
    has_collapsed = collapsed(spec, losses)
    if has_collapsed:
        log.warning("the loss ended at %.3f, about ln(batch): nothing was learnt", losses[-1])
    return {
        "arguments": arguments(
            spec, job.machine, data="::".join(item.data for item in shards), logs="", name=RUN, num_sources=len(shards)
        ),
        "steps": spec.steps,
        "samples_seen": spec.samples_seen,
        "sources": _sources(job, shards, table),
        "mean_repeats": round(spec.samples_seen / sum(row.num_samples for row in table), 4),
        "unreadable": {"count": watch.num_unreadable, "some": watch.unreadable[:NAMED]},
        "final_loss": sum(losses) / len(losses),
        "collapsed": has_collapsed,
        "alarms": [alarm._asdict() for alarm in watch.alarms.values()],
        "machine": job.machine.model_dump(mode="json"),
        "layout": layout.model_dump(mode="json") | {"threads": layout.threads_each},
        "seconds": round(seconds, 1),
    }


def _sources(job: RankJob, shards: tuple[ShardSet, ...], table: list[PreflightRow]) -> list[dict[str, Any]]:
    """Return the samples drawn from each shard set, counted from the sample order, which is a function of the seed."""
    spec = job.spec
    sizes = np.array([row.num_samples for row in table])
    weights = np.array([source.weight for source in job.sources for _ in source.shards])
    seen = SampleOrder(spec.seed, spec.recipe.batch_size, sizes, weights).seen(spec.steps)
    cuts = np.cumsum([0, *(item.num_shards for item in shards)]).tolist()
    return [
        {
            "name": item.name,
            "fingerprint": item.fingerprint,
            "num_samples": item.num_samples,
            "num_shards": item.num_shards,
            "num_bytes": sum(row.num_bytes for row in table[begin:end]),
            "samples_seen": int(seen[begin:end].sum()),
            "mean_repeats": round(float(seen[begin:end].sum() / item.num_samples), 4),
        }
        for item, begin, end in zip(shards, cuts[:-1], cuts[1:], strict=True)
    ]
