"""`choose_captions`: a policy over caption sets gives every row of a pool its caption, or the captions to draw from.

The result is next to the metadata, as scores are, so that filters read the new text by themselves. A CLIP score is of a
pair: where the caption changed, the pool's own score is left out, and the one of the new pair stands there if it is known. A
row without a caption has no score, so that none takes a place in a ranking of the pool.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from datacomp_core import caption_sets
from datacomp_core.artifacts import Captioned, Captions, Embeddings, Pool, Scores
from datacomp_core.caption_policy import CaptionPolicy
from datacomp_core.caption_sets import RAW
from datacomp_core.columns import numbers
from datacomp_core.errors import DataError, SpecError
from datacomp_core.parallel import process_map
from datacomp_core.parts import FEATURES, METADATA, SCORES
from datacomp_core.pool_source import PoolSource
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.store import Folder, Store, step

log = logging.getLogger(__name__)

OF_A_PAIR = re.compile(r"clip_\w+_similarity_score")
SHARE_UNITS = 1_000_000
"""Expected shares of a draw are summed in these, so that sums of parts are exact in any order."""


@dataclass(frozen=True)
class PolicyInputs:
    """The input of every part: the policy, the metadata with its scores, and the caption sets."""

    spec: CaptionPolicy
    source: PoolSource
    sets: tuple[tuple[Captions, Folder], ...]

    def order(self) -> list[str]:
        """The sources that can be chosen, first choice first."""
        every = [RAW, *(source for one, _ in self.sets for source in one.sources)]
        return list(self.spec.named()) or every


@step("captioned", version=2, name=lambda spec, pool, *_: f"{spec.label()}-{pool.name}")
def choose_captions(
    spec: CaptionPolicy,
    pool: Pool,
    captions: tuple[Captions, ...],
    beside: tuple[Embeddings | Scores, ...],
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Captioned:
    """`scores/<part>.parquet` (see `Captioned`), and `features/<part>.npz` of the new pairs where the sets have features.

    `beside`: embeddings and scores of the pool, for policies that read one. SpecError for a source or a score that is missing.
    """
    source = PoolSource(
        store.folder(pool) / METADATA,
        tuple(store.folder(one) / SCORES for one in beside),
        tuple(store.folder(one) / FEATURES for one in beside if isinstance(one, Embeddings)),
    )
    choice = PolicyInputs(spec, source, tuple((one, store.folder(one)) for one in captions))
    made = choose_folder(choice, out, workers=workers, progress=progress)
    for told in not_used(made.counts):
        log.warning("%s", told)
    return made


def choose_folder(choice: PolicyInputs, out: Folder, *, workers: int = 1, progress: Progress = NO_PROGRESS) -> Captioned:
    """`choose_captions` for plain folders."""
    spec, sets = choice.spec, [one for one, _ in choice.sets]
    caption_sets.require_sources(spec.named(), sets)
    _require_scores(choice)
    names, counts = choice.source.parts(), Counter[str]()
    for _, folder in choice.sets:
        caption_sets.require_parts(folder, names, choice.source.metadata)
    there = (out / SCORES).files(".parquet")
    progress.start(len(names), "parts")
    todo = [part for part in names if f"{part}.parquet" not in there or not out.exists(f"tally/{part}.json")]
    progress.advance(len(names) - len(todo))
    for _ in process_map(partial(_one_part, choice, out), todo, workers=workers):
        progress.advance()
    for part in names:
        counts.update(out.read_json(f"tally/{part}.json"))
    return _made(choice, counts)


def _made(choice: PolicyInputs, counts: Counter[str]) -> Captioned:
    spec, chosen = choice.spec, [name for name in choice.order() if counts[f"caption: {name}"]]
    for name in choice.order():
        if spec.draws and counts[f"caption: {name}"]:
            counts[f"caption: {name}"] = round(counts[f"caption: {name}"] / SHARE_UNITS)
    if counts["rows"] == counts["without_caption"]:
        raise DataError(
            f"The policy {spec.label()} does not give a caption to any of the {counts['rows']:,} rows: nothing is left. "
            "Change the policy or its sets."
        )
    models = [one.model for one, _ in choice.sets if one.model and set(one.sources) & set(chosen)]
    return Captioned(
        policy=spec.label(),
        sources=tuple(chosen),
        models=tuple(dict.fromkeys(models)),
        draws=spec.draws,
        num_samples=counts["rows"],
        num_changed=counts["changed"],
        counts={name: counts[name] for name in sorted(counts) if counts[name]},
    )


def not_used(counts: Mapping[str, int]) -> list[str]:
    """A sentence for each score of the pool that is not used for rows with another caption."""
    return [
        f"{count:,} of {counts['rows']:,} rows have a different caption from the one that {name.partition(': ')[2]} was "
        "computed for: the score is not used for them. Embed the caption sets to compute it for the new pairs."
        for name, count in sorted(counts.items())
        if name.startswith("score_left_out: ") and count
    ]


def _require_scores(choice: PolicyInputs) -> None:
    """SpecError if a policy compares scores and a source that it names has none of that name."""
    spec = choice.spec
    if spec.kind not in ("best", "replace_below"):
        return
    for one, _ in choice.sets:
        if set(one.sources) & set(choice.order()) and spec.score not in one.scores:
            has = f"the set has {', '.join(one.scores)}" if one.scores else "the set has no scores"
            raise SpecError(
                f"The policy {spec.kind} compares {spec.score}, which the captions {one.name or one.address} do not have "
                f"({has}): embed them (`datacomp embed --captions`), or import them with --score-column and --score."
            )
    if RAW in choice.order():
        choice.source.check(choice.source.parts()[0], {spec.score})


# One part ------------------------------------------------------------------------------------------------------------


def _one_part(choice: PolicyInputs, out: Folder, part: str) -> None:
    source, spec = choice.source, choice.spec
    scores = _pair_scores(choice, part)
    own = source.read(part, ["uid", "text", *scores])
    own = own.with_columns([numbers(own[name]).alias(name) for name in scores])
    candidates = _candidates(choice, part, own, scores)
    counts = Counter[str](rows=own.height)
    if spec.draws:
        made = _to_draw(choice, out, part, own, candidates, counts)
    else:
        made = _chosen(spec, own, candidates, scores, counts)
        _write_features(choice, out, part, made)
    with out.writing(f"{SCORES}/{part}.parquet") as path:
        made.drop("place", "set", strict=False).write_parquet(path, compression="zstd")
    out.write_json(f"tally/{part}.json", dict(sorted(counts.items())))


def _pair_scores(choice: PolicyInputs, part: str) -> list[str]:
    """The columns that are scores of picture and caption together: of the pool, of the sets, and the one of the policy."""
    known = choice.source.columns(part)
    found = {name for name in known if OF_A_PAIR.fullmatch(name)}
    found |= {choice.spec.score} & set(known) if choice.spec.score else set()
    return sorted(found)


def _candidates(choice: PolicyInputs, part: str, own: pl.DataFrame, scores: Sequence[str]) -> pl.DataFrame:
    """Every caption that can be chosen: row, source, text, rank, order, set and its place there (-1: the pool's), scores."""
    wanted = choice.order()
    rank = {name: number for number, name in enumerate(wanted)}
    columns = [*scores, *([choice.spec.score] if choice.spec.score and choice.spec.score not in scores else [])]
    plain = [
        own.with_row_index("row").select(
            pl.col("row").cast(pl.Int64),
            pl.lit(RAW).alias("source"),
            "text",
            pl.lit(-1, pl.Int64).alias("set"),
            pl.lit(-1, pl.Int64).alias("place"),
            *(
                (pl.col(name).cast(pl.Float32) if name in own.columns else pl.lit(None, pl.Float32)).alias(name)
                for name in columns
            ),
        )
    ]
    for number, (_, folder) in enumerate(choice.sets):
        found = caption_sets.captions_for(folder, part, own["uid"], columns).with_row_index("place")
        more = [pl.lit(number, pl.Int64).alias("set"), pl.col("place").cast(pl.Int64), *columns]
        plain.append(found.select("row", "source", "text", *more))
    every = pl.concat(plain).filter(pl.col("source").is_in(wanted) & (pl.col("text").str.strip_chars() != ""))
    return every.with_columns(rank=pl.col("source").replace_strict(rank, return_dtype=pl.Int64)).sort("row", "rank", "place")


def _chosen(
    spec: CaptionPolicy, own: pl.DataFrame, candidates: pl.DataFrame, scores: Sequence[str], counts: Counter[str]
) -> pl.DataFrame:
    first = picked(spec, candidates).unique("row", keep="first", maintain_order=True)
    rows = own.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    joined = rows.join(first, on="row", how="left", maintain_order="left", suffix="_new")
    changed = (pl.col("source") != RAW) & pl.col("text_new").ne_missing(pl.col("text"))
    made = joined.with_columns(changed=changed.fill_null(False))
    for name in scores:
        void = made.select((pl.col("changed") & pl.col(name).is_not_null() & pl.col(f"{name}_new").is_null()).sum()).item()
        counts[f"score_left_out: {name}"] += int(void)
    counts["changed"] += int(made["changed"].sum())
    counts["without_caption"] += int(made["source"].null_count())
    for source, number in made["source"].drop_nulls().value_counts().iter_rows():
        counts[f"caption: {source}"] += number
    return made.select(
        "uid",
        pl.col("text_new").alias("text"),
        pl.col("source").alias("caption_source"),
        pl.col("changed").alias("caption_changed"),
        "set",
        "place",
        *(_score(name) for name in scores),
    )


def _score(name: str) -> pl.Expr:
    """The score of a row's new pair, or of its own pair where the caption is the same; a row without a caption has none."""
    same = pl.when(pl.col("source").is_not_null()).then(pl.col(name).cast(pl.Float32))
    return pl.when("changed").then(f"{name}_new").otherwise(same).alias(name)


def picked(spec: CaptionPolicy, candidates: pl.DataFrame) -> pl.DataFrame:
    """The candidates that may be taken, the one of each row that is taken first."""
    if spec.kind not in ("best", "replace_below"):
        return candidates
    score = pl.col(spec.score)
    known = candidates.filter(score.is_finite())
    by_score = known.sort("row", score, "rank", "place", descending=[False, True, False, False], maintain_order=True)
    if spec.kind == "best":
        return by_score
    least = pl.lit(spec.threshold or 0.0, pl.Float32)
    raw, others = by_score.filter(pl.col("source") == RAW), by_score.filter(pl.col("source") != RAW)
    taken = [raw.filter(score >= least), others.filter(score >= least)]
    if spec.low == "replace":
        taken += [others, candidates.filter(pl.col("source") != RAW)]
    return pl.concat([one.with_columns(turn=turn) for turn, one in enumerate(taken)]).sort("row", "turn", maintain_order=True)


def _to_draw(
    choice: PolicyInputs, out: Folder, part: str, own: pl.DataFrame, candidates: pl.DataFrame, counts: Counter[str]
) -> pl.DataFrame:
    """Write the captions to draw from, and count what is expected of each source."""
    weights = choice.spec.weights
    lists = candidates.group_by("row", maintain_order=True).agg(captions=pl.struct("source", "text"))
    rows = own.select("uid").with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    joined = rows.join(lists, on="row", how="left", maintain_order="left")
    with out.writing(f"{caption_sets.DRAWS}/{part}.parquet") as path:
        joined.select("uid", "captions").write_parquet(path, compression="zstd")
    there = (
        candidates.select("row", "source", "rank")
        .unique()
        .with_columns(weight=pl.col("source").replace_strict(weights, return_dtype=pl.Float64))
    )
    total = there.with_columns(total=pl.col("weight").sum().over("row"), first=pl.col("rank").rank("min").over("row"))
    share = (
        pl.when(pl.col("total") > 0).then(pl.col("weight") / pl.col("total")).otherwise((pl.col("first") == 1).cast(pl.Float64))
    )
    for source, number in total.group_by("source").agg(share.sum()).iter_rows():
        counts[f"caption: {source}"] += round(number * SHARE_UNITS)
    counts["without_caption"] += int(joined["captions"].null_count())
    drawn = pl.when(pl.col("captions").is_not_null()).then(pl.lit("draw")).alias("caption_source")
    return joined.select("uid", drawn, caption_changed=pl.lit(False))


# Features ------------------------------------------------------------------------------------------------------------


def _write_features(choice: PolicyInputs, out: Folder, part: str, made: pl.DataFrame) -> None:
    """`<prefix>_txt` of the captions that were chosen, for every prefix of which a set has features; NaN where none is known."""
    found = [(number, _features(folder, part)) for number, (_, folder) in enumerate(choice.sets)]
    keys = sorted({key for _, arrays in found for key in arrays if key.endswith("_txt")})
    if not keys:
        return
    changed, sets, places = (made[name].to_numpy() for name in ("caption_changed", "set", "place"))
    without = made["caption_source"].is_null().to_numpy()
    features: dict[str, Any] = {}
    for key in keys:
        width = next(arrays[key].shape[1] for _, arrays in found if key in arrays)
        whole = np.full((made.height, width), np.nan, np.float16)
        if choice.source.has_embeddings(part, key):
            whole[:] = choice.source.whole(part, key)
        whole[changed | without] = np.nan
        for number, arrays in found:
            mine = np.flatnonzero(changed & (sets == number))
            if key in arrays and len(mine):
                whole[mine] = arrays[key][places[mine].astype(np.int64)]
        features[key] = whole
    with out.writing(f"{FEATURES}/{part}.npz") as path, path.open("wb") as file:
        np.savez(file, **features)


def _features(folder: Folder, part: str) -> dict[str, Any]:
    name = f"{FEATURES}/{part}.npz"
    if not folder.exists(name):
        return {}
    with folder.open(name) as file, np.load(file, allow_pickle=False) as arrays:
        return {key: arrays[key] for key in arrays.files}
