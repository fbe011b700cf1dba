"""Runs one step on one GPU worker, as requested by `tasks/remote.py`. The task runs in the main thread, so a stop reaches
it."""

from __future__ import annotations

from typing import Any, cast

from prefect import Task, flow

from datacomp_core.artifacts import Artifact
from datacomp_core.errors import unknown
from datacomp_core.store.step import STEPS
from flows.task_calls import options
from tasks import captions, curate, evaluate, remote, train

ON_GPU: tuple[Task[..., Any], ...] = (
    *(train.train, curate.embed, curate.score, evaluate.evaluate),
    *(captions.embed_captions, captions.score_captioned, captions.generate_captions, captions.translate_captions),
)
"""Every task whose step `tasks/remote.py` may hand to a GPU worker."""
TASKS = {remote.key(cast("Any", task.fn).step): task for task in ON_GPU}


@flow(name="gpu-step", **options("{step}"))
def gpu_step(step: str, identity: list[Any]) -> Artifact:
    """Train, embed, score, evaluate or write captions here, and leave the artifact in the store."""
    if step not in TASKS:
        raise unknown("GPU step", step, TASKS)
    return TASKS[step](*remote.unpacked(STEPS[step], identity))
