"""A small world for the leaderboard's tests: every artifact of the chain, made by steps of its own in a real store.

The pictures, scores, losses and results are drawn from seeded generators; the files have the form that the stages write.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from PIL import Image, ImageDraw

from datacomp_core import parts, shards, uid
from datacomp_core.artifacts import (
    BoardEntry,
    Checkpoint,
    Embeddings,
    EvalReport,
    EvalSets,
    Pool,
    ShardSet,
    Spec,
    Subset,
)
from datacomp_core.evaluation import report as reports
from datacomp_core.evaluation.catalog import SUITES, EvalTask
from datacomp_core.evaluation.protocols import PROTOCOLS
from datacomp_core.evaluation.report import TaskResult
from datacomp_core.evaluation.rescore import rescore
from datacomp_core.evaluation.zero_shot_model import EXACT
from datacomp_core.leaderboard.entries.make_entry import EntrySpec, enter
from datacomp_core.scales import Scale, scale
from datacomp_core.store import Folder, Store, step

assert rescore, "the code that computes scores again must be known where a bundle is checked"
TASKS = ("objects", "objects_3d", "coarse", "flags", "clipart", "digits", "retrieval")
NUM = 60
CUT = 0.2


class WorldPoolSpec(Spec):
    scale: str = "tiny"
    seed: int = 0


class WorldSpec(Spec):
    seed: int = 0
    setting: str = ""


FILTERS = {
    "no_filter": {"kind": "everything"},
    "random": {"kind": "all", "filters": [{"kind": "everything"}, {"kind": "random", "share": 0.33, "seed": 0}]},
}
NUM_IMAGES = 400


class WorldSubsetSpec(Spec):
    recipe: str
    filter: dict[str, Any] = {}

    def label(self) -> str:
        return self.recipe


class WorldTrainSpec(Spec):
    recipe: Scale
    seed: int = 0


class WorldEvalSpec(Spec):
    suite: str = "tiny"
    version: int = 1


def picture(number: int) -> bytes:
    image = Image.new("RGB", (48, 48), ((number * 53) % 255, (number * 97) % 255, (number * 29) % 255))
    ImageDraw.Draw(image).ellipse((8, 8, 40, 40), fill=((number * 31) % 255, 200, (number * 71) % 255))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def caption(number: int) -> str:
    return "<b>free shipping</b> & more" if number == 3 else f"a drawing of thing number {number}"


def row_uid(number: int) -> str:
    return uid.uid_of(f"http://world.invalid/{number}.png", caption(number))


@step("pools", version=1)
def world_pool(spec: WorldPoolSpec, *, out: Folder) -> Pool:
    rows = [
        {
            "uid": row_uid(i),
            "url": f"http://world.invalid/{i}.png",
            "text": caption(i),
            "original_width": 48,
            "original_height": 48,
        }
        for i in range(NUM)
    ]
    for part in range(2):
        frame = pl.DataFrame(rows[part::2], schema_overrides=parts.SCHEMA)
        with out.writing(f"{parts.METADATA}/{part:08d}.parquet") as path:
            frame.write_parquet(path)
    return Pool(scale=spec.scale, name=f"pool{spec.seed}", num_samples=NUM, num_parts=2, counts={"seed": spec.seed})


class WorldAdoptedSpec(Spec):
    """A pool that says it is a scale's."""

    scale: str = "adopted"
    of: str = "tiny"
    seed: int = 0


@step("pools", version=3)
def adopted_pool(spec: WorldAdoptedSpec, *, out: Folder) -> Pool:
    """The world's rows as what somebody adopted."""
    return world_pool.function(WorldPoolSpec(scale=spec.of, seed=spec.seed), out=out)


@step("shards", version=1)
def world_images(spec: WorldSpec, pool: Pool, *, out: Folder) -> ShardSet:
    write_shard(out, "00000000", list(range(NUM - 4)))
    counts = {"candidates": NUM, "arrived": NUM - 4, "http_4xx": 3, "not_an_image": 1, "hash_mismatches": 0}
    content = f"{uid.digest(map(row_uid, range(NUM - 4))):064x}"
    return ShardSet(num_samples=NUM - 4, num_unique=NUM - 4, num_shards=1, content=content, counts=counts)


def write_shard(out: Folder, name: str, numbers: list[int], caption: Callable[[int], str] = caption) -> None:
    data = io.BytesIO()
    writer = shards.ShardWriter(data, name)
    for number in numbers:
        writer.add(row_uid(number), f"{number:09d}", {"png": picture(number), "txt": caption(number).encode()})
    index = writer.finish()
    out.write(f"{name}.tar", data.getvalue())
    shards.write_index(out, name, index)


@step("embeddings", version=1)
def world_scores(spec: WorldSpec, pool: Pool, shards: ShardSet, *, out: Folder) -> Embeddings:
    for part in range(2):
        rows = range(part, NUM, 2)
        with out.writing(f"scores/{part:08d}.parquet") as path:
            pl.DataFrame({"uid": [row_uid(i) for i in rows], "clip_score": [score_of(i) for i in rows]}).write_parquet(path)
    return Embeddings(model="tiny", columns=("clip",), num_samples=NUM, num_embedded=NUM - 4)


def score_of(number: int) -> float:
    return float(np.random.default_rng(number).normal(0.2, 0.05))


def is_kept(recipe: str, number: int) -> bool:
    rules = {
        "clip_score": score_of(number) >= CUT,
        "random": number % 3 == 0,
        "intersect": score_of(number) >= CUT and number % 2 == 0,
    }
    return rules.get(recipe, True)


@step("subsets", version=1, name=lambda spec, pool, embeddings: f"{spec.recipe}-{pool.name}")
def world_subset(
    spec: WorldSubsetSpec, pool: Pool, embeddings: Embeddings | tuple[Embeddings, ...] | None, *, out: Folder
) -> Subset:
    kept = [i for i in range(NUM) if is_kept(spec.recipe, i)]
    out.write("subset.npy", uid.subset_bytes(uid.pack(pl.Series([row_uid(i) for i in kept]))))
    explain(out, spec.recipe, kept)
    return Subset(recipe=spec.recipe, num_samples=len(kept), num_unique=len(kept), counts={"kept": len(kept)})


def explain(out: Folder, recipe: str, kept: list[int]) -> None:
    """The files beside a subset from which a page shows what was chosen."""
    dropped = [i for i in range(NUM) if i not in kept]
    reasons = ["low_score" if i % 2 else "too_small" for i in dropped]
    out.write_json("explain.json", {"kept": len(kept), "dropped": {name: reasons.count(name) for name in set(reasons)}})
    if recipe in ("clip_score", "intersect"):
        counts, edges = np.histogram([score_of(i) for i in range(NUM)], bins=40)
        held = np.histogram([score_of(i) for i in kept], bins=edges)[0]
        drawn = {"column": "clip", "edges": edges.tolist(), "counts": counts.tolist(), "kept": held.tolist(), "cut": CUT}
        out.write_json("histogram.json", drawn)
    for name, numbers, why in (("kept", kept, [""] * len(kept)), ("dropped", dropped, reasons)):
        with out.writing(f"{name}.parquet") as path:
            pl.DataFrame(
                {"uid": [row_uid(i) for i in numbers], "text": [caption(i) for i in numbers], "reason": why},
                schema={"uid": pl.String, "text": pl.String, "reason": pl.String},
            ).write_parquet(path)


@step("shards", version=1)
def world_reshard(spec: WorldSpec, subset: Subset, shards: ShardSet, *, out: Folder) -> ShardSet:
    write_shard(out, "00000000", [i for i in range(NUM - 4) if is_kept(subset.recipe, i)])
    return ShardSet(num_samples=subset.num_samples - 1, num_unique=subset.num_unique - 1, num_shards=1)


@step("checkpoints", version=1)
def world_train(spec: WorldTrainSpec, shards: tuple[ShardSet, ...], *, out: Folder, device: str = "") -> Checkpoint:
    out.write("checkpoint.pt", b"weights")
    noise = np.random.default_rng(spec.seed)
    losses = [4.85 - 0.008 * step + float(noise.normal(0, 0.03)) for step in range(0, 160, 2)]
    lines = [json.dumps({"step": 2 * place, "loss": loss}) for place, loss in enumerate(losses)]
    out.write("history.jsonl", ("\n".join(lines) + "\n").encode())
    return Checkpoint(model=spec.recipe.model, seed=spec.seed, samples_seen=spec.recipe.train_num_samples, steps=160)


@step("evalsets", version=1)
def world_evalsets(spec: WorldSpec, *, out: Folder) -> EvalSets:
    out.write("nothing", b"")
    return EvalSets(suite="tiny", num_tasks=len(TASKS), scale="tiny")


@step("reports", version=1)
def world_report(
    spec: WorldEvalSpec, checkpoint: Checkpoint, evalsets: EvalSets, *, out: Folder, scores: dict[str, float | None]
) -> EvalReport:
    known = [value for value in scores.values() if value is not None]
    average = sum(known) / len(known) if len(known) == len(scores) else None
    tasks = [
        {"key": f"tiny/{name}", "name": name.capitalize(), "main_metric": "acc5", "value": value, "metrics": {"acc5": value}}
        for name, value in scores.items()
    ]
    for name, value in scores.items():
        if value is not None:
            write_predictions(out, name, value)
    lines = [{"key": task["key"], "dataset": task["name"], "metrics": {"main_metric": task["value"]}} for task in tasks]
    out.write("eval_results.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    out.write_json("report.json", {"tasks": tasks, "average": average, "groups": {"Control": scores["digits"]}})
    return EvalReport(suite=spec.suite, suite_version=spec.version, num_tasks=len(tasks), average=average)


def write_predictions(out: Folder, task: str, value: float) -> None:
    """The first images of a task are hit (among the five best), the others are not: as many as its score says."""
    labels = np.arange(NUM_IMAGES, dtype=np.int32) % 20
    ranked = (labels[:, None] + np.arange(1, 6, dtype=np.int32)) % 20
    ranked[: round(value * NUM_IMAGES), 2] = labels[: round(value * NUM_IMAGES)]
    with out.writing(f"predictions/tiny-{task}.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, labels=labels, predicted=ranked[:, 0], ranked=ranked)


@step("reports", version=1)
def true_report(
    spec: WorldEvalSpec, checkpoint: Checkpoint, evalsets: EvalSets, *, out: Folder, scores: dict[str, float | None]
) -> EvalReport:
    """A report of the suite as the evaluation writes it, from predictions that have about these scores."""
    suite = SUITES["tiny"]
    found = [_true_result(task, scores[task.key.removeprefix("tiny/")], out) for task in suite.tasks]
    made = reports.make(suite, found, model="tiny", weights="0" * 64, exactness=EXACT, batch_size=256, device="cpu")
    reports.write(out, made)
    return EvalReport(suite=made.suite, suite_version=made.suite_version, num_tasks=len(found), average=made.average)


def _true_result(task: EvalTask, value: float | None, out: Folder) -> TaskResult:
    """`value` None: the task failed."""
    base = {"key": task.key, "name": task.name, "protocol": task.protocol, "protocol_version": 1, "main_metric": task.metric}
    if value is None:
        return TaskResult(**base, scored=task.is_scored, error="no such test set")  # type: ignore[arg-type]
    hits = round(value * NUM_IMAGES)
    if task.protocol == "retrieval":
        found = np.zeros((NUM_IMAGES, 3), bool)
        found[:hits] = True
        kept = {"image_found": found, "text_found": found, "image_of_text": np.arange(NUM_IMAGES)}
    else:
        labels = np.arange(NUM_IMAGES, dtype=np.int32) % 20
        ranked = (labels[:, None] + np.arange(1, 6, dtype=np.int32)) % 20
        ranked[:hits, 2 if task.metric == "acc5" else 0] = labels[:hits]
        kept = {"labels": labels, "predicted": ranked[:, 0], "ranked": ranked}
    with out.writing(f"predictions/{task.key.replace('/', '-')}.npz") as path, path.open("wb") as file:
        np.savez_compressed(file, **kept)
    metrics = PROTOCOLS[task.protocol].metrics_of(kept, task.metric or "")
    assert abs(float(metrics[task.metric or ""] or 0) - hits / NUM_IMAGES) < 1e-12
    return TaskResult(**base, scored=task.is_scored, value=hits / NUM_IMAGES, metrics=metrics, count=NUM_IMAGES)  # type: ignore[arg-type]


def results(center: float, seed: int, spread: float = 0.004) -> dict[str, float | None]:
    noise = np.random.default_rng([seed, int(center * 1e6)])
    offsets = {"objects": 0.03, "coarse": 0.12, "digits": 0.0}
    shared = float(noise.normal(0, spread))
    drawn = {
        task: 0.1 + shared if task == "digits" else center + offsets.get(task, 0.0) + shared + float(noise.normal(0, 0.003))
        for task in TASKS
    }
    return {task: round(value * NUM_IMAGES) / NUM_IMAGES for task, value in drawn.items()}


def run(
    store: Store,
    recipe: str,
    scores: dict[str, float | None],
    *,
    seed: int = 0,
    pool_seed: int = 0,
    scale_row: Scale | None = None,
    method: str = "",
    version: int = 1,
    suite: str = "tiny",
    device: str = "",
    select: Any = world_subset,
    reshard: Any = None,
    chosen: dict[str, Any] | None = None,
    evaluate: Any = None,
    pool_spec: Any = None,
) -> BoardEntry:
    """One experiment of the world, from pool to entry."""
    pool = (adopted_pool if pool_spec and pool_spec.scale == "adopted" else world_pool)(
        pool_spec or WorldPoolSpec(seed=pool_seed), store=store
    )
    images = world_images(WorldSpec(), pool, store=store)
    embeddings = world_scores(WorldSpec(), pool, images, store=store)
    chosen = FILTERS.get(recipe, {"kind": "threshold", "at_least": CUT}) if chosen is None else chosen
    subset = select(WorldSubsetSpec(recipe=recipe, filter=chosen), pool, embeddings, store=store)
    resharded = (reshard or world_reshard)(WorldSpec(seed=seed), subset, images, store=store)
    checkpoint = world_train(
        WorldTrainSpec(recipe=scale_row or scale("tiny"), seed=seed), (resharded,), store=store, device=device
    )
    sets = world_evalsets(WorldSpec(), store=store)
    report = (evaluate or world_report)(WorldEvalSpec(suite=suite, version=version), checkpoint, sets, store=store, scores=scores)
    return enter(EntrySpec(method=method), report, checkpoint, subset, resharded, store=store)


def true_run(store: Store, recipe: str, scores: dict[str, float | None], **options: Any) -> BoardEntry:
    """As `run`, with a report that the suite's own code computes: what can be submitted to a board."""
    return run(store, recipe, scores, evaluate=true_report, version=2, **options)


CENTERS = {"no_filter": 0.05, "random": 0.056, "clip_score": 0.14, "intersect": 0.142}


def sweep(store: Store, *, seeds: int = 3, select: Any = world_subset) -> None:
    """Four recipes over some seeds; clip_score and its intersection are tied, both far above the unfiltered pool."""
    for recipe, center in CENTERS.items():
        for seed in range(seeds):
            run(store, recipe, results(center, seed), seed=seed, pool_seed=seed, select=select)
