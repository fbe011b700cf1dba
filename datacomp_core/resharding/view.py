"""Subset x ShardSet -> ShardSet without a copy: the plan of a reshard, stored as an index into the existing shards. A view has
the same shards, order and report as `reshard` of the same spec, so a training reads the same samples at the same steps. Each
sample needs its own read, so use a view for experiments and a reshard for long trainings.
"""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import asdict

import numpy as np
import polars as pl

from datacomp_core.artifacts import Captioned, ShardSet, Subset
from datacomp_core.caption_policy import CaptionPolicy
from datacomp_core.caption_sets import OVERLAY, OVERLAY_SCHEMA
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.resharding.captions import SUMMARY, CaptionEdits, CaptionSource, texts_of
from datacomp_core.resharding.copy import keys_of
from datacomp_core.resharding.plan import Rows
from datacomp_core.resharding.plan_inputs import ACCOUNT, SAMPLE_IDS, SUBSET, local_copy, planned, whole_inputs, write_missing
from datacomp_core.resharding.shard_scan import input_shards
from datacomp_core.resharding.spec import ReshardSpec
from datacomp_core.shards import INDEX_SCHEMA, MEMBERS, shard_name, write_index
from datacomp_core.store import Folder, Store, step


@step("shards", version=1, name=lambda spec, subset, shards: f"view-{subset.name or subset.recipe}")
def view(
    spec: ReshardSpec,
    subset: Subset,
    shards: ShardSet,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> ShardSet:
    """`index/<shard>.parquet` of each shard to be, pointing into the tars of `shards`, with `sample_ids.npy` and the account.

    IncompleteError if more is missing than the spec tolerates.
    """
    return _view(spec, subset, shards, None, out, store, workers, progress)


@step("shards", version=1, name=lambda spec, draw, subset, *_: f"view-{subset.name or subset.recipe}-captioned")
def view_captions(
    spec: ReshardSpec,
    draw: CaptionPolicy,
    subset: Subset,
    shards: ShardSet,
    captioned: Captioned,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> ShardSet:
    """`view` with the captions of a policy: `captions/<shard>.parquet`, a row per sample of the index (see `caption_sets`)."""
    source = CaptionSource(captioned, store.folder(captioned), draw.weights)
    return _view(spec, subset, shards, source, out, store, workers, progress)


def _view(
    spec: ReshardSpec,
    subset: Subset,
    shards: ShardSet,
    captions: CaptionSource | None,
    out: Folder,
    store: Store,
    workers: int,
    progress: Progress,
) -> ShardSet:
    inputs, where = whole_inputs(store, (shards,)), f"{store.folder(subset)}/{SUBSET}"
    with (
        local_copy(where) as chosen,
        planned(inputs, input_shards(inputs), chosen, where, spec, near=out, workers=workers, progress=progress) as plan,
        texts_of(captions, chosen, where, near=out, workers=workers) if captions else nullcontext() as texts,
    ):
        write_missing(out, plan.ledger)
        plan.account.check(spec, str(inputs))
        with out.writing(SAMPLE_IDS) as path:
            shutil.copyfile(chosen, path)
        progress.start(plan.account.written, "samples")
        names = np.array([tar.name for tar in plan.tars])
        members = pl.Series([tar.members or None for tar in plan.tars], dtype=pl.String)
        for number, rows in enumerate(plan.shards()):
            write_index(out, shard_name(number), _index(rows, names, members))
            if texts is not None:
                _write_overlay(out, shard_name(number), texts.of(rows))
            progress.advance(len(rows))
        told = texts.summary() if texts is not None else {}
        if told:
            out.write_json(SUMMARY, told)
        out.write_json(ACCOUNT, asdict(plan.account))
    return ShardSet(
        scale=shards.scale,
        tars=shards.data,
        num_samples=plan.account.written,
        num_unique=plan.account.written_unique,
        num_shards=plan.num_shards,
        counts={**plan.account.counts(), **{f"caption: {source}": n for source, n in told.get("sources", {}).items()}},
    )


def _write_overlay(out: Folder, shard: str, edits: CaptionEdits) -> None:
    """The captions of a shard's samples; null where the sample's own stands."""
    rows = [
        [{"source": source, "text": text} for source, text in captions] if edits.concern(row) else None
        for row, captions in enumerate(edits.captions)
    ]
    with out.writing(f"{OVERLAY}/{shard}.parquet") as path:
        pl.DataFrame({"captions": rows}, schema=OVERLAY_SCHEMA).write_parquet(path, compression="zstd")


def _index(rows: Rows, names: np.ndarray[tuple[int], np.dtype[np.str_]], members: pl.Series) -> pl.DataFrame:
    uids, keys = keys_of(rows)
    columns = {"uid": uids, "key": keys, "shard": names[rows["shard"]], "offset": rows["offset"], "length": rows["length"]}
    columns[MEMBERS] = members.gather(rows["shard"].astype(np.int64))
    return pl.DataFrame(columns, schema_overrides=INDEX_SCHEMA)
