"""Test sets from the hub: each whole, with the hashes that the hub states, or a fault that names it. Nothing is executed.

A set is pinned to the commit that it has on the hub at that moment, which `hub.json` in its folder keeps. Folders that were
filled in another way (the original's `download_evalsets.py`) are taken as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from pydantic import Field

from datacomp_core import hub
from datacomp_core.artifacts import EvalSets, Spec
from datacomp_core.errors import SpecError
from datacomp_core.evaluation import hf_cache
from datacomp_core.evaluation.catalog import EvalTask, suite
from datacomp_core.evaluation.datasets import CLASSNAMES, SPLIT, TEMPLATES
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.store import Folder, step

LISTED = (CLASSNAMES, TEMPLATES, "dataset_type.txt")


class DownloadSpec(Spec):
    """Which test sets, and what they were."""

    suite: str = Field(default="datacomp", description="Name of the suite.")
    tasks: tuple[str, ...] = Field(default=(), description="Only these tasks (keys or names); empty: all.")

    def label(self) -> str:
        return self.suite


@step("evalsets", version=1, name=lambda spec: spec.label())
def download_evalsets(spec: DownloadSpec, *, out: Folder, threads: int = 8, progress: Progress = NO_PROGRESS) -> EvalSets:
    """All sets, below `out`. Its `content` is the hash of all files, so that other data on the hub is another artifact."""
    tasks = [task for task in suite(spec.suite).tasks if not spec.tasks or task.key in spec.tasks or task.name in spec.tasks]
    digests = download(tasks, out, threads=threads, progress=progress)
    content = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    return EvalSets(suite=spec.suite, num_tasks=len(tasks), content=content, counts={"files": sum(map(len, digests.values()))})


def download(
    tasks: Sequence[EvalTask], out: Folder, *, threads: int = 8, progress: Progress = NO_PROGRESS
) -> dict[str, dict[str, str]]:
    """Download the missing sets; return the sha256 of each file, downloaded or recorded, by task and path.

    SpecError for a task that is not on the hub; DataError or StoreError, naming the file, if one cannot be had whole.
    """
    homeless = [task.key for task in tasks if not task.repository]
    if homeless:
        raise SpecError(f"Not on the hub: {', '.join(homeless)}. Give their folders with --data.")
    wanted = [task for task in tasks if not complete(hf_cache.place(out, task))]
    found = {task.key: hub.snapshot("dataset", task.repository) for task in wanted}
    progress.start(sum(file.size for snap in found.values() for file in snap.files if is_data(file.path)), "bytes")
    digests: dict[str, dict[str, str]] = {}
    for task in tasks:
        if task.key in found:
            digests[task.key] = hub.fetch(
                found[task.key], out / task.folder, only=is_data, threads=threads, fetched=progress.advance
            )
        else:
            record = hub.recorded(out / task.folder)
            digests[task.key] = {path: file["sha256"] for path, file in record["files"].items()} if record else {}
    return digests


def complete(folder: Folder) -> bool:
    """Return whether a set is complete: fetched to its end, or filled in another way."""
    if hf_cache.is_cached(folder):
        return True
    if folder.exists(hub.RECORD):
        return hub.recorded(folder) is not None
    names = set(folder.files()) if folder.exists() else set[str]()
    if f"{SPLIT}/nshards.txt" in names:
        shards = folder.read(f"{SPLIT}/nshards.txt")
        return shards.strip().isdigit() and {f"{SPLIT}/{number}.tar" for number in range(int(shards))} <= names
    return any(name.endswith(".csv") for name in names) and any(name.endswith(".zip") for name in names)


def is_data(path: str) -> bool:
    """Of a repository, the files that evaluation reads: never its code."""
    if "/" not in path:
        return path in LISTED or path.endswith((".csv", ".zip"))
    return path.startswith(f"{SPLIT}/") and path.endswith((".tar", "nshards.txt"))
