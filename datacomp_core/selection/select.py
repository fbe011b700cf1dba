"""`select_subset`: runs a filter over a pool, part by part in processes, and writes the sorted multiset of kept uids. Ranking
filters first get their exact threshold from a few passes over one column; then every part is judged once. Each worker loads one
part in memory. `select` does the same for a plain folder of the original tooling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl

from datacomp_core.artifacts import Captioned, Embeddings, Pool, Scores, Subset
from datacomp_core.caption_sets import RAW
from datacomp_core.driver_files import bring_files, exchange
from datacomp_core.errors import DataError
from datacomp_core.filters import AllOf, Filter, RankFilter
from datacomp_core.filters.base import LookupFilter
from datacomp_core.parallel import concurrently
from datacomp_core.parts import FEATURES, METADATA, SCORES
from datacomp_core.pool_source import PoolSource
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.recipes.base import Recipe
from datacomp_core.recipes.load import load_recipe
from datacomp_core.registry import RECIPES
from datacomp_core.selection.aligned import require_aligned
from datacomp_core.selection.filter_evaluator import FilterNode, source_at, walk
from datacomp_core.selection.lists import accounts, found_file, list_table, repeated
from datacomp_core.selection.pool_passes import find_cuts, prepared
from datacomp_core.selection.report import Explanation, ReportTally, edges_of, histogram, keeps_none, sample_table
from datacomp_core.selection.run_files import RunFiles
from datacomp_core.selection.select_part import SAMPLES, PartJob, PartReport, judge_part
from datacomp_core.selection.subset_spec import SubsetSpec, columns_of_pool, named_captions, scores_of, whole_tree
from datacomp_core.selection.threshold_search import ScoreCutoff
from datacomp_core.selection.with_captions import HasCaption, captions_in, tell_outside_scores, with_captions
from datacomp_core.selection.worker_pool import WorkerPool
from datacomp_core.sorted_runs import merge
from datacomp_core.store import Folder, Store, scratch, step

__all__ = ["RECIPES", "Recipe", "Selection", "SubsetSpec", "load_recipe", "scores_of", "select", "select_subset"]

SUBSET = "subset.npy"
LISTED = ("listed", "unique", "in_pool", "not_in_pool")
WORK = "work"
TABLES = "tables"


@dataclass(frozen=True)
class Selection:
    """The selection: rows with repeats, distinct uids, and the explanation."""

    num_samples: int
    num_unique: int
    explanation: Explanation


Beside = Embeddings | tuple[Embeddings | Scores | Captioned, ...] | None
"""The artifacts beside the metadata."""


@step("subsets", version=1, name=lambda spec, pool, embeddings: f"{spec.label()}-{pool.name}")
def select_subset(
    spec: SubsetSpec,
    pool: Pool,
    embeddings: Beside,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Subset:
    """`subset.npy`, `explain.json`, `histogram.json`, `kept.parquet` and `dropped.parquet` (samples to look at).

    `embeddings`: what is beside the metadata: embeddings, computed scores, and the captions of a policy, which take the place
    of the pool's own; a row that the policy gives none is dropped.
    """
    return subset_of(spec, pool, embeddings, {}, out=out, store=store, workers=workers, progress=progress)


def subset_of(
    spec: SubsetSpec,
    pool: Pool,
    embeddings: Beside,
    named: Mapping[str, PoolSource],
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Subset:
    """Select with what is beside the metadata. `named`: the pool with the captions of each source that the filter names."""
    beside = embeddings if isinstance(embeddings, tuple) else (embeddings,) if embeddings is not None else ()
    chosen = select(
        spec,
        store.folder(pool) / METADATA,
        [store.folder(each) / SCORES for each in beside],
        features=[store.folder(each) / FEATURES for each in beside if isinstance(each, Embeddings)],
        captioned=next((store.folder(each) for each in beside if isinstance(each, Captioned)), None),
        named=named,
        kept=out / WORK,
        out=out,
        beside="as_made",
        workers=workers,
        progress=progress,
    )
    out.remove(WORK)
    told = chosen.explanation
    if not chosen.num_samples:
        raise DataError(keeps_none(spec.recipe, told, pool.address))
    chosen_by = [one for one in told.lists if not one.excluded]  # of a list below a `not` nothing is trained on
    lists = {f"{name}, of the lists": sum(getattr(one, name) for one in chosen_by) for name in LISTED if chosen_by}
    dropped = {f"dropped: {reason}": number for reason, number in told.dropped.items()}
    counts = {"candidates": told.rows, **lists, "kept": told.kept, **dropped}
    return Subset(recipe=spec.recipe, num_samples=chosen.num_samples, num_unique=chosen.num_unique, counts=counts)


def select(
    wanted: Recipe | SubsetSpec,
    metadata: Folder,
    scores: Sequence[Folder] = (),
    *,
    features: Sequence[Folder] = (),
    shards: Folder | None = None,
    captioned: Folder | None = None,
    named: Mapping[str, PoolSource] | None = None,
    kept: Folder | None = None,
    out: Folder | None = None,
    name: str = SUBSET,
    write: Literal["all", "subset", "subset_of_some"] = "all",
    beside: Literal["by_uid", "by_position", "as_made"] = "by_uid",
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Selection:
    """Filter a folder of metadata parquets. `out=None` is a dry run: the account alone, nothing is written.

    `scores`: folders with a parquet of the same name for each part (uid and score columns, rows aligned); `features`: folders
    with a npz; `shards`: the download, whose index tells which uids of a list arrived; `kept`: where the finished parts of this
    selection are until it is done. `write`: with "subset" only `name` is written into `out`, with "subset_of_some" not even
    that if no row is kept, else histogram, explanation and samples too. `beside`: whether scores are held against the
    metadata's uids (DataError if they are in another order: see `aligned`), taken by position, or known to be aligned.
    `captioned`: what a policy made of the captions; `named`: the pool with the captions of each source that the filter names.
    """
    own = PoolSource(metadata, tuple(scores), tuple(features))
    source = replace(captions_in(own, captioned), by_captions={**({} if captioned else {RAW: own}), **(named or {})})
    tree = whole_tree(wanted.filter) if captioned is None else with_captions(whole_tree(wanted.filter))
    names = source.parts()
    if beside != "as_made":
        require_aligned(source, by_position=beside == "by_position")
    check(source, names[0], tree)
    for read, asked in readings(source, tree):
        read.check_filled(names, asked.columns())
        tell_outside_scores(read, names[0], asked)
    workers_of_pass = WorkerPool(workers, source.num_rows(names[0]) * len(names))
    root = FilterNode("0", tree)
    with scratch() as local, exchange(kept or out) as shared:
        bring_files(shared, *(asked for _, asked in walk(root) if not isinstance(asked, LookupFilter)))
        place = prepared(root, shared, kept, local / TABLES)
        cuts = find_cuts(source, names, root, place, workers_of_pass, progress)
        job = PartJob(source, tree, cuts, place, samples=0)
        cut = None
        if out is not None and write == "all":
            shown, cut = _shown(root, cuts, source, names[0])
            job = replace(job, samples=SAMPLES, score=shown, edges=_edges(source, names, shown, workers_of_pass))
        tally = judged_parts(job, names, workers_of_pass, progress)
        told = tally.explanation(_label(wanted), wanted.filter.model_dump(mode="json"))
        runs = RunFiles(place.runs.folder, tuple(names), local / "runs")
        told = told.model_copy(update={"lists": accounts(root, local / TABLES, runs.found, local, shards)})
        written = out if write != "subset_of_some" or told.kept else None  # an earlier file stays if nothing takes its place
        num_samples, num_unique = _merge(runs, local, written, name, tree)
    if out is not None and write == "all":
        _write_report(out, source, tally, told, histogram(job.score, job.edges, tally, cut))
    return Selection(num_samples, num_unique, told)


def _label(wanted: Recipe | SubsetSpec) -> str:
    return wanted.name if isinstance(wanted, Recipe) else wanted.recipe


def check(source: PoolSource, part: str, tree: Filter) -> None:
    """DataError names what the filter reads and the pool lacks, before anything starts."""
    for read, asked in readings(source, tree):
        read.check(part, {"uid", *asked.columns()})
    root = FilterNode("0", tree)
    for placed in walk(root):
        if features := placed.filter.feature_prefix():
            source_at(root, placed.path, source).require_embeddings(part, f"{features}_img")


def require_columns(wanted: Filter, source: PoolSource) -> None:
    """DataError names a column that a filter or a score that it computes reads, and that is not there or is empty: said before
    any score is computed. Filters below a `captions_of` are looked at with their own source."""
    names, columns = source.parts(), columns_of_pool(wanted)
    source.check(names[0], columns)
    source.check_filled(names, columns)


def readings(source: PoolSource, tree: Filter) -> list[tuple[PoolSource, Filter]]:
    """Return each source and its filter: the tree reads the policy's captions, filters below a `captions_of` the named ones."""
    return [(source, tree), *((source.of(name), each) for name, some in named_captions(tree).items() for each in some)]


def judged_parts(
    job: PartJob,
    names: Sequence[str],
    workers_of_pass: WorkerPool,
    progress: Progress,
    seen: Callable[[PartReport], None] | None = None,
) -> ReportTally:
    """Judge every part that no earlier attempt has. The workers write what they made of a part; `seen` is called for each."""
    tally, runs = ReportTally(), job.place.runs.folder
    progress.start(len(names), "parts")
    there = runs.files(".json") if job.place.account == "kept" else {}
    for data in concurrently(runs.read, (f"{part}.json" for part in names if f"{part}.json" in there)):
        before = PartReport.model_validate_json(data)
        tally.add(before)
        progress.advance(1, rows=before.rows, kept=before.steps[-1].kept)
    todo = [part for part in names if f"{part}.json" not in there]
    for _, judged in workers_of_pass.for_filters(job.root, partial(judge_part, job), todo):
        tally.add(judged)
        if seen is not None:
            seen(judged)
        progress.advance(1, rows=judged.rows, kept=judged.steps[-1].kept)
    return tally


def _shown(root: FilterNode, cuts: dict[str, ScoreCutoff], source: PoolSource, part: str) -> tuple[str, float | None]:
    """The score to draw, and its cut: the score of the first filter on a score, else any score beside the metadata."""
    for placed in walk(root):
        asked = placed.filter
        if source_at(root, placed.path, source) is not source:
            continue
        if fixed := asked.fixed_cutoff():
            return fixed
        if isinstance(asked, RankFilter) and _is_column(asked):
            (column,) = asked.columns()
            return column, cuts[placed.path].value
    beside = source.score_columns(part)
    return (beside[0], None) if beside else ("", None)


def _is_column(asked: RankFilter) -> bool:
    columns = list(asked.columns())
    return len(columns) == 1 and asked.score_expression().meta.eq(pl.col(columns[0]))


def _edges(source: PoolSource, names: Sequence[str], column: str, workers_of_pass: WorkerPool) -> tuple[float, ...]:
    if not column:
        return ()
    return edges_of(found for _, found in workers_of_pass.for_columns(partial(_range, source, column), names))


def _range(source: PoolSource, column: str, part: str) -> tuple[float | None, float | None]:
    scores = source.read(part, [column])[column].cast(pl.Float64)
    finite = scores.filter(scores.is_finite().fill_null(False))
    low, high = finite.min(), finite.max()
    return (float(low), float(high)) if isinstance(low, float) and isinstance(high, float) else (None, None)


def _merge(runs: RunFiles, local: Path, out: Folder | None, name: str, tree: Filter) -> tuple[int, int]:
    if out is None:
        return _merged(runs, local, local / SUBSET, tree)
    with out.writing(name) as path:
        return _merged(runs, local, path, tree)


def _merged(runs: RunFiles, local: Path, target: Path, tree: Filter) -> tuple[int, int]:
    """A list without other filters (or with captions, see `with_captions`) keeps its repeats, whatever the pool repeats."""
    inner = tree.filters if isinstance(tree, AllOf) else ()
    captioned = bool(inner) and isinstance(inner[0], HasCaption)
    alone, path = (inner[1], "0.1") if captioned and len(inner) == 2 else (tree, "0")
    table = list_table(alone, local / TABLES / path)
    if table is None:
        return merge(runs.chosen(), target)
    found = found_file(local, path)  # alone it chooses what it finds
    if captioned:
        found = local / "chosen.npy"
        merge(runs.chosen(), found)
    return repeated(found, table, target)


def _write_report(out: Folder, source: PoolSource, tally: ReportTally, told: Explanation, drawn: dict[str, Any]) -> None:
    for name, samples in (("kept", tally.kept_samples()), ("dropped", tally.dropped_samples())):
        table = sample_table(source, samples)
        with out.writing(f"{name}.parquet") as path:
            table.write_parquet(path, compression="zstd")
    out.write_json("histogram.json", drawn)
    out.write_json("explain.json", told.model_dump(mode="json"))
