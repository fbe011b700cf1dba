"""`score_pool`: computes one score for every row of a pool, as a column next to its metadata; existing parts are kept. The
file of a part is written atomically, and a later attempt resumes after it; the same holds for the shards of an image score.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from datacomp_core import engines
from datacomp_core.artifacts import Captioned, Checkpoint, Embeddings, Pool, Scores, ShardSet
from datacomp_core.driver_files import Exchange, bring_files, exchange
from datacomp_core.errors import DataError
from datacomp_core.parallel import concurrently
from datacomp_core.parts import FEATURES, METADATA, SCORES
from datacomp_core.pool_source import PoolSource
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.scores.base import AnyScore, Column, Score, ScoreContext
from datacomp_core.scores.column_of import JOINED, ColumnOf
from datacomp_core.scores.image_scores import BY_SHARD
from datacomp_core.scores.score_cache import home_of
from datacomp_core.store import Folder, Store, step
from datacomp_core.store.content_marks import Trust


@step("scores", version=1, name=lambda spec, pool, *_: f"{spec.label()}-{pool.name}")
def score_pool(
    spec: AnyScore,
    pool: Pool,
    embeddings: Embeddings | None,
    shards: ShardSet | None,
    scorer: Checkpoint | None,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    device: str = "",
    progress: Progress = NO_PROGRESS,
) -> Scores:
    """Write `scores/<part>.parquet` (uid and the score's column). DataError if the pool lacks what the score reads."""
    source = _source(store, pool, embeddings, shards)
    return _scored(spec, source, scorer, out, store, workers, device, progress)


@step("scores", version=1, name=lambda spec, pool, *_: f"{spec.label()}-{pool.name}-captioned")
def score_captioned(
    spec: AnyScore,
    pool: Pool,
    embeddings: Embeddings | None,
    shards: ShardSet | None,
    scorer: Checkpoint | None,
    captioned: Captioned,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    device: str = "",
    progress: Progress = NO_PROGRESS,
) -> Scores:
    """`score_pool` of the pairs with the captions of a policy."""
    source, folder = _source(store, pool, embeddings, shards), store.folder(captioned)
    beside = (*source.scores, folder / SCORES)
    source = replace(source, scores=beside, features=(folder / FEATURES, *source.features), captioned=folder)
    return _scored(spec, source, scorer, out, store, workers, device, progress)


def _source(store: Store, pool: Pool, embeddings: Embeddings | None, shards: ShardSet | None) -> PoolSource:
    return PoolSource(
        store.folder(pool) / METADATA,
        (store.folder(embeddings) / SCORES,) if embeddings is not None else (),
        (store.folder(embeddings) / FEATURES,) if embeddings is not None else (),
        store.folder(shards) if shards is not None else None,
    )


def _scored(
    spec: Score,
    source: PoolSource,
    scorer: Checkpoint | None,
    out: Folder,
    store: Store,
    workers: int,
    device: str,
    progress: Progress,
) -> Scores:
    model = (scorer.model, store.folder(scorer).at("checkpoint.pt")) if scorer is not None else None
    there = frozenset((out / SCORES).files(".parquet"))
    made = ScoreCounts()
    compute(spec, source, out, workers=workers, model=model, device=device, progress=progress, counted=made.add)
    for earlier in concurrently(
        partial(_counts, spec, out / SCORES), [part for part in source.parts() if f"{part}.parquet" in there]
    ):
        made.add(earlier)
    rows, scored = made.rows, made.scored
    counts = {"scored": scored, "without": rows - scored, **spec.account(out)}
    return Scores(column=spec.column_name, num_samples=rows, num_scored=scored, counts=counts)


@dataclass
class ScoreCounts:
    """Rows, and rows with a score, of the parts that were added."""

    rows: int = 0
    scored: int = 0

    def add(self, counted: tuple[int, int]) -> None:
        self.rows, self.scored = self.rows + counted[0], self.scored + counted[1]


def _counts(score: Score, out: Folder, part: str) -> tuple[int, int]:
    """Rows, and rows with a score, of a part that an earlier attempt has made."""
    found = pl.read_parquet(io.BytesIO(out.read(f"{part}.parquet")), columns=[score.column_name])[score.column_name]
    return len(found), found.count()


def compute(
    score: Score,
    source: PoolSource,
    out: Folder,
    *,
    workers: int = 1,
    model: tuple[str, str] | None = None,
    device: str = "",
    progress: Progress = NO_PROGRESS,
    counted: Callable[[tuple[int, int]], None] | None = None,
) -> Folder:
    """Fill `scores/` in `out` with a parquet for every part that has none yet. `model`: name and checkpoint of a CLIP. `counted`
    is called with the rows, and the rows with a score, of each part that this call makes.
    """
    names = source.parts()
    check(score, source, names[0], model)
    there = (out / SCORES).files(".parquet")
    todo = [part for part in names if f"{part}.parquet" not in there]
    if todo:
        with exchange(out) as shared:
            if not isinstance(score, ColumnOf):  # it reads its table here, in `prepare`
                bring_files(shared, score)
            context = ScoreContext(source, tuple(names), out, shared, workers, progress, _brought(shared, model), device)
            prepared = score.prepare(context)
            work = partial(_one_part, score, source, prepared, out / SCORES)
            for _, made in context.map(work, todo, f"parts of {score.kind}"):
                if counted is not None:
                    counted(made)
        out.remove(BY_SHARD)
        out.remove(JOINED)
    return out / SCORES


def _brought(shared: Exchange, model: tuple[str, str] | None) -> tuple[str, str] | None:
    """The model, with a checkpoint that its workers reach."""
    if model is None or "://" in model[1] or not engines.spans_machines():
        return model
    return model[0], shared.folder.at(shared.bring(Path(model[1])))


def check(score: Score, source: PoolSource, part: str, model: tuple[str, str] | None) -> None:
    """DataError says what the score reads and the pool lacks, before anything is computed."""
    source.check(part, {"uid", *score.columns()})
    for key in score.feature_keys():
        source.require_embeddings(part, key)
    if "images" in score.needs and source.shards is None:
        raise DataError(
            f"The score {score.kind} reads images, but this pool has none: download them, or give their folder (--shards)."
        )
    if "model" in score.needs and model is None:
        raise DataError(f"The score {score.kind} needs a CLIP: give --model and --checkpoint.")


def _one_part(score: Score, source: PoolSource, prepared: Any, out: Folder, part: str) -> tuple[int, int]:
    """Write a part; return its rows, and its rows with a score."""
    uids = source.read(part, ["uid"])
    values = _numbers(score, score.of_part(source, part, prepared))
    if len(values) != len(uids):
        raise DataError(
            f"Part {part} has {len(uids)} rows of metadata and {len(values)} of what {score.kind} reads: fetch them again."
        )
    series = _series(score.column_name, values)
    buffer = io.BytesIO()
    uids.with_columns(series).write_parquet(buffer, compression="zstd")
    out.write(f"{part}.parquet", buffer.getvalue())
    return len(series), series.count()


def _numbers(score: Score, given: Any) -> Column:
    """Return a score's values for a part as an array. DataError if they are not one number per row."""
    values = given if isinstance(given, np.ndarray) else np.asarray(given)
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise DataError(
            f"The score {score.kind} returns an array of shape {values.shape} and dtype {values.dtype}: return one number "
            "per row."
        )
    return values


def _series(name: str, values: Column) -> pl.Series:
    if isinstance(values, np.ma.MaskedArray):
        known = pl.Series(~np.ma.getmaskarray(values))
        return pl.select(pl.when(known).then(pl.Series(values.data))).to_series().alias(name)
    return pl.Series(name, values, nan_to_null=True)


def computed(
    wanted: Sequence[Score],
    source: PoolSource,
    kept: Folder,
    *,
    workers: int = 1,
    model: tuple[str, str] | None = None,
    trust: Trust = "content",
    progress: Progress = NO_PROGRESS,
) -> PoolSource:
    """The source with the columns of some scores beside it: those in `kept` are used, the others are computed into it.

    A folder in `kept` belongs to one score of one content of what it reads (`home_of`). `trust="times"` does not read files that
    have the sizes and times of an earlier call.
    """
    folders: list[Folder] = []
    for score in wanted:
        check(score, source, source.parts()[0], model)
        home = home_of(score, source, kept, model, trust)
        folders.append(compute(score, source, home, workers=workers, model=model, progress=progress))
    return replace(source, scores=(*source.scores, *folders))
