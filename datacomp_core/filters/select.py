"""`select_subset`: a filter over a pool, part by part in processes, to the sorted multiset of the uids it keeps.

What ranks the pool takes its cut first, exactly, from a few passes over one column; then every part is judged once. Memory
is that of one part a worker. `select` does the same for a plain folder of the original tooling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field, TypeAdapter, model_validator

from datacomp_core.artifacts import Embeddings, Pool, Spec, Subset
from datacomp_core.errors import SpecError
from datacomp_core.filters import All, Everything, Filter, Ranked, SampleTo, Threshold, WholeFilter
from datacomp_core.filters.base import score_column
from datacomp_core.filters.baselines import RECIPES, Recipe, recipe
from datacomp_core.filters.chance import Random
from datacomp_core.filters.cut import Look, Window, find, look
from datacomp_core.filters.judge import Cut, Judge, Placed, cost_of, walk
from datacomp_core.filters.part import SAMPLES, Job, judge_part
from datacomp_core.filters.recipes import load_recipe
from datacomp_core.filters.report import Explanation, Tally, edges_of, histogram, sample_table
from datacomp_core.filters.source import Source
from datacomp_core.filters.subset_file import merge
from datacomp_core.parallel import process_map
from datacomp_core.parts import METADATA, SCHEMA, SCORES
from datacomp_core.progress import NoProgress, Progress
from datacomp_core.store import Folder, Store, scratch, step

__all__ = ["RECIPES", "Recipe", "Selection", "SubsetSpec", "load_recipe", "select", "select_subset"]

SUBSET = "subset.npy"
ROWS_FOR_A_PROCESS = 5_000_000
COSTLY_ROWS_FOR_A_PROCESS = 50_000
NO_PROGRESS = NoProgress()
FILTER: TypeAdapter[Filter] = TypeAdapter(WholeFilter)


class SubsetSpec(Spec):
    """Which pairs of the pool to train on: a recipe by name, or a filter of one's own."""

    recipe: str = Field(
        default="no_filter", min_length=1, description="A known recipe, which brings its filter, or a name for the filter below."
    )
    filter: WholeFilter = Field(
        default_factory=Everything, description="What is kept. Leave it as it is where the recipe is a known one."
    )

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        """A known recipe brings its filter, so that the address follows what is done and not what it is called."""
        if not isinstance(given, dict) or not isinstance(given.get("recipe"), str):
            return given
        name, own = given["recipe"], FILTER.validate_python(given.get("filter", Everything()))
        if name.partition(":")[0] not in RECIPES:
            if own == Everything():
                recipe(name)  # says which are known
            return given
        known = recipe(name).filter
        if own not in (Everything(), known):
            raise SpecError(f"{name!r} is a known recipe with another filter than the one given: give yours a name of its own.")
        return {**given, "filter": known}

    def label(self) -> str:
        return self.recipe

    def needs_embeddings(self) -> bool:
        """Whether it reads a score that metadata of DataComp's schema does not carry."""
        return not self.filter.columns() <= set(SCHEMA.names())


@dataclass(frozen=True)
class Selection:
    """What was chosen: rows with repeats, distinct uids, and the account."""

    num_samples: int
    num_unique: int
    explanation: Explanation


@step("subsets", version=1, name=lambda spec, pool, embeddings: f"{spec.label()}-{pool.name}")
def select_subset(
    spec: SubsetSpec,
    pool: Pool,
    embeddings: Embeddings | None,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Subset:
    """`subset.npy`, `explain.json`, `histogram.json`, `kept.parquet` and `dropped.parquet` (samples to look at)."""
    scores = (store.folder(embeddings) / SCORES,) if embeddings is not None else ()
    chosen = select(spec, store.folder(pool) / METADATA, scores, out=out, workers=workers, progress=progress)
    told = chosen.explanation
    counts = {"candidates": told.rows, "kept": told.kept, **{f"dropped: {reason}": n for reason, n in told.dropped.items()}}
    return Subset(recipe=spec.recipe, num_samples=chosen.num_samples, num_unique=chosen.num_unique, counts=counts)


def select(
    wanted: Recipe | SubsetSpec,
    metadata: Folder,
    scores: Sequence[Folder] = (),
    *,
    out: Folder | None = None,
    name: str = SUBSET,
    write: Literal["all", "subset"] = "all",
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Selection:
    """Filter a folder of metadata parquets. `out=None` is a dry run: the account alone, nothing is written.

    `scores`: folders with a parquet of the same name for each part (uid and score columns, rows aligned). `write`: with
    "subset" only `name` is written into `out`, else histogram, explanation and samples too.
    """
    label = wanted.name if isinstance(wanted, Recipe) else wanted.recipe
    source = Source(metadata, tuple(scores))
    names = source.parts()
    tree = _tree(wanted.filter)
    root = Placed("0", tree)
    source.check(names[0], {"uid", *tree.columns()})
    hands = Hands(workers, source.num_rows(names[0]) * len(names))
    with scratch() as local:
        cuts = _cuts(source, names, root, local, hands, progress)
        job = Job(source, tree, cuts, local / "runs", local / "memory", samples=0)
        cut = None
        if out is not None and write == "all":
            shown, cut = _shown(root, cuts, source, names[0])
            job = replace(job, samples=SAMPLES, score=shown, edges=_edges(source, names, shown, hands.for_columns()))
        tally = Tally()
        progress.start(len(names), "parts")
        for _, judged in process_map(partial(judge_part, job), names, workers=hands.for_filters(tree)):
            tally.add(judged)
            progress.advance(1, rows=judged.rows, kept=judged.steps[-1].kept)
        told = tally.explanation(label, wanted.filter.model_dump(mode="json"))
        num_samples, num_unique = _merge(names, local, out, name)
    if out is not None and write == "all":
        _write_report(out, source, tally, told, histogram(job.score, job.edges, tally, cut))
    return Selection(num_samples, num_unique, told)


@dataclass(frozen=True)
class Hands:
    """How many processes a pass is worth: starting one costs seconds, in which this process reads millions of rows."""

    workers: int
    num_rows: int

    def for_columns(self) -> int:
        """A pass over a column of numbers."""
        return min(self.workers, max(1, self.num_rows // ROWS_FOR_A_PROCESS))

    def for_filters(self, tree: Filter) -> int:
        """A pass with all filters; costly ones are some hundred times slower."""
        ease = COSTLY_ROWS_FOR_A_PROCESS if cost_of(tree) else ROWS_FOR_A_PROCESS
        return min(self.workers, max(1, self.num_rows // ease))


def _cuts(source: Source, names: Sequence[str], root: Placed, local: Path, hands: Hands, progress: Progress) -> dict[str, Cut]:
    """The cut of everything that ranks: the pool's first, then the survivors', each after those before it."""
    ranked = [placed for placed in walk(root) if isinstance(placed.filter, Ranked)]
    cuts: dict[str, Cut] = {}
    for placed in sorted(ranked, key=lambda placed: _ranks(placed).among() == "survivors"):
        asked = _ranks(placed)

        def every(window: Window, placed: Placed = placed) -> Any:
            glance = Glance(source, root, dict(cuts), placed, local / "memory", window)
            progress.start(len(names), f"parts for the cut of: {placed.filter.title()}")
            some = hands.for_columns() if _ranks(placed).among() == "pool" else hands.for_filters(root.filter)
            for _, found in process_map(partial(_look, glance), names, workers=some):
                progress.advance()
                yield found

        cut, num_rows = find(every, asked.rank)
        cuts[placed.path] = cut._replace(times=asked.times(num_rows)) if isinstance(asked, SampleTo) else cut
    return cuts


def _tree(wanted: Filter) -> Filter:
    """A sample is drawn last, from the survivors of its filter."""
    return All.model_construct(filters=(wanted.filter, wanted)) if isinstance(wanted, SampleTo) else wanted


def _ranks(placed: Placed) -> Ranked:
    assert isinstance(placed.filter, Ranked)
    return placed.filter


@dataclass(frozen=True)
class Glance:
    """A look at one ranking filter's scores in every part."""

    source: Source
    root: Placed
    cuts: dict[str, Cut]
    placed: Placed
    memory: Path
    window: Window


def _look(glance: Glance, part: str) -> Look:
    asked = _ranks(glance.placed)
    if asked.among() == "pool":
        frame = glance.source.read(part, asked.columns())
        return look(Judge(frame, {}).scores(asked), frame.height, glance.window)
    frame = glance.source.read(part, {"uid", *glance.root.filter.columns()})
    judge = Judge(frame, glance.cuts, glance.memory / part, watched=glance.placed.path)
    judge.verdict(glance.root, judge.everybody())
    reached = judge.reached
    assert reached is not None, "a filter that nobody comes to"
    return look(judge.scores(asked).filter(pl.Series(reached)), int(reached.sum()), glance.window)


def _shown(root: Placed, cuts: dict[str, Cut], source: Source, part: str) -> tuple[str, float | None]:
    """The score to draw, and its cut: that of the first filter on a score, else any score that lies beside the metadata."""
    for placed in walk(root):
        asked = placed.filter
        if isinstance(asked, Threshold):
            return score_column(asked.score), asked.at_least
        if isinstance(asked, Ranked) and not isinstance(asked, (Random, SampleTo)):
            (column,) = asked.columns()
            return column, cuts[placed.path].value
    beside = source.score_columns(part)
    return (beside[0], None) if beside else ("", None)


def _edges(source: Source, names: Sequence[str], column: str, workers: int) -> tuple[float, ...]:
    if not column:
        return ()
    return edges_of(found for _, found in process_map(partial(_range, source, column), names, workers=workers))


def _range(source: Source, column: str, part: str) -> tuple[float | None, float | None]:
    scores = source.read(part, [column])[column].cast(pl.Float64)
    finite = scores.filter(scores.is_finite().fill_null(False))
    low, high = finite.min(), finite.max()
    return (float(low), float(high)) if isinstance(low, float) and isinstance(high, float) else (None, None)


def _merge(names: Sequence[str], local: Path, out: Folder | None, name: str) -> tuple[int, int]:
    runs = [local / "runs" / f"{part}.npy" for part in names]
    if out is None:
        return merge(runs, local / SUBSET)
    with out.writing(name) as path:
        return merge(runs, path)


def _write_report(out: Folder, source: Source, tally: Tally, told: Explanation, drawn: dict[str, Any]) -> None:
    for name, samples in (("kept", tally.kept_samples()), ("dropped", tally.dropped_samples())):
        table = sample_table(source, samples)
        with out.writing(f"{name}.parquet") as path:
            table.write_parquet(path, compression="zstd")
    out.write_json("histogram.json", drawn)
    out.write_json("explain.json", told.model_dump(mode="json"))
