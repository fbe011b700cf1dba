"""Previews a filter on a pool: the report on all rows, and the verdict and reason of each row of a uniform sample. Nothing is
written. The report equals the report of `select`: the same passes with the same code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datacomp_core.driver_files import bring_files, exchange
from datacomp_core.filters.base import LookupFilter
from datacomp_core.pool_source import PoolSource
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.recipes.base import Recipe
from datacomp_core.sampling_key import HIGHEST
from datacomp_core.selection.filter_evaluator import FilterNode, walk
from datacomp_core.selection.pool_passes import find_cuts, prepared
from datacomp_core.selection.report import Explanation
from datacomp_core.selection.select import TABLES, check, judged_parts, readings, whole_tree
from datacomp_core.selection.select_part import PartJob, PartReport, words_of
from datacomp_core.selection.worker_pool import WorkerPool
from datacomp_core.store import scratch


@dataclass(frozen=True)
class Review:
    """`codes`, one a row of the sample in the order of the parts: 0 if it is kept, else the place of its reason in `words`."""

    explanation: Explanation
    codes: npt.NDArray[np.int16]
    words: tuple[str, ...]

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        return self.codes == 0


def review(
    wanted: Recipe, source: PoolSource, *, last: int = HIGHEST, workers: int = 1, progress: Progress = NO_PROGRESS
) -> Review:
    """Return what a recipe keeps of a pool, and why it drops each row of the sample up to the sampling key `last`.

    Raises the same DataError as `select`.
    """
    tree, names = whole_tree(wanted.filter), source.parts()
    check(source, names[0], tree)
    for read, asked in readings(source, tree):
        read.check_filled(names, asked.columns())
    workers_of_pass, root = WorkerPool(workers, source.num_rows(names[0]) * len(names)), FilterNode("0", tree)
    codes: dict[str, list[int]] = {}

    def seen(judged: PartReport) -> None:
        codes[judged.part] = judged.watched

    with scratch() as local, exchange(None) as shared:
        bring_files(shared, *(asked for _, asked in walk(root) if not isinstance(asked, LookupFilter)))
        place = prepared(root, shared, None, local / TABLES)
        cuts = find_cuts(source, names, root, place, workers_of_pass, progress)
        job = PartJob(source, tree, cuts, place, samples=0, watched=last)
        tally = judged_parts(job, names, workers_of_pass, progress, seen)
    told = tally.explanation(wanted.name, wanted.filter.model_dump(mode="json"))
    ordered = np.concatenate([np.empty(0, np.int16), *(np.array(codes[name], np.int16) for name in names)])
    return Review(told, ordered.astype(np.int16), tuple(words_of(tally.steps)))
