"""Every sharded step of the chain, on the engine of the settings, in the store of the settings: what each made, as JSON lines.

`python chain.py STEP...`; a line is {"step", "digests": {file: sha256}} or {"step", "error"}. What a driver alone has (files on
its own disk that a filter or an evaluation names) lies below its /tmp.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import sys
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from datacomp_core.artifacts import Artifact, Captioned, Checkpoint, Embeddings, EvalSets, Pool, ShardSet, Spec, Subset
from datacomp_core.filters import Filter
from datacomp_core.parts import SCHEMA
from datacomp_core.settings import settings
from datacomp_core.store import Folder, Store, step

WEB = "http://10.77.0.1:8000"
OPEN_NETWORKS = "10.77.0.0/24"
PARTS, ROWS = 6, 56
SHARD_ROWS = 14
MODEL = "datacomp-tiny"
WORDS = [
    "a",
    "photo",
    "of",
    "the",
    "red",
    "house",
    "by",
    "a",
    "river",
    "with",
    "two",
    "dogs",
    "and",
    "one",
    "old",
    "car",
    "under",
    "blue",
    "sky",
    "near",
    "some",
    "green",
    "trees",
]
TEST_SETS = ("cifar_test", "pets_test")


class Made(Spec):
    """Nothing to choose."""

    scale: str = "tiny"


def uid(row: int) -> str:
    return hashlib.md5(f"cluster {row}".encode()).hexdigest()


@step("pools", version=1)
def made_pool(spec: Made, *, out: Folder) -> Pool:
    """Captions, sizes and scores that depend on the row alone; every third row has a face."""
    for part in range(PARTS):
        rows = range(part * ROWS, (part + 1) * ROWS)
        chances = [np.random.default_rng(row) for row in rows]
        captions = [" ".join(chance.choice(WORDS, int(chance.integers(1, 12)))) for chance in chances]
        table = pl.DataFrame(
            {
                "uid": [uid(row) for row in rows],
                "url": [f"{WEB}/{row}.jpg" for row in rows],
                "text": ["un perro rojo en la casa" if row % 11 == 0 else text for row, text in zip(rows, captions, strict=True)],
                "original_width": [200 + int(chance.integers(0, 900)) for chance in chances],
                "original_height": [200 + int(chance.integers(0, 900)) for chance in chances],
                "clip_b32_similarity_score": [float(chance.random()) for chance in chances],
                "clip_l14_similarity_score": [float(chance.random()) for chance in chances],
                "face_bboxes": [[[0.1, 0.1, 0.6, 0.6]] if row % 3 == 0 else [] for row in rows],
                "sha256": [None] * ROWS,
            },
            schema=SCHEMA,
        )
        with out.writing(f"metadata/{part:08d}.parquet") as path:
            table.write_parquet(path)
    return Pool(scale="tiny", num_samples=PARTS * ROWS, num_parts=PARTS, name="made")


@step("checkpoints", version=1)
def made_checkpoint(spec: Made, *, out: Folder) -> Checkpoint:
    with out.writing("checkpoint.pt") as path:
        _save_weights(path)
    return Checkpoint(model=MODEL, seed=7, samples_seen=0, steps=0, name="random")


def _save_weights(path: Path) -> None:
    import open_clip
    import torch

    from datacomp_core import clip

    torch.manual_seed(7)
    clip.register()
    model: Any = open_clip.create_model(MODEL, load_weights=False)
    torch.save({"state_dict": model.state_dict()}, path)


@step("evalsets", version=1)
def made_sets(spec: Made, *, out: Folder) -> EvalSets:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import made_sets as made

    for number, name in enumerate(TEST_SETS):
        for path, data in made.repository(80 + 8 * number, 4).items():
            out.write(f"{name}/{path}", data)
    return EvalSets(scale="tiny", suite="custom", num_tasks=len(TEST_SETS))


# The steps ------------------------------------------------------------------------------------------------------------


@cache
def store() -> Store:
    return Store.open(settings().store_url)


def workers() -> int:
    return settings().num_workers


def pool() -> Pool:
    return made_pool(Made(), store=store())


def images() -> ShardSet:
    from datacomp_core.pool.download_images import ImageSpec, download_images

    spec = ImageSpec(image_size=64, samples_per_shard=SHARD_ROWS, exif="drop", faces="leave", timeout_seconds=30)
    return download_images(spec, pool(), store=store(), workers=workers(), threads=8, open_networks=OPEN_NETWORKS)


def embedded() -> Embeddings:
    from datacomp_core.embedding.embed import embed
    from datacomp_core.embedding.spec import EmbedSpec

    spec = EmbedSpec(batch_size=16)
    scorers = (made_checkpoint(Made(), store=store()),)
    return embed(spec, pool(), images(), scorers, store=store(), workers=workers(), device=settings().device)


def score(text: str) -> Artifact:
    from datacomp_core.scores import score_of
    from datacomp_core.scores.compute import score_pool

    wanted = score_of(text)
    assert wanted is not None
    with_images = images() if "images" in wanted.needs else None
    with_features = embedded() if "features" in wanted.needs else None
    return score_pool(wanted, pool(), with_features, with_images, None, store=store(), workers=workers())


def centroids() -> str:
    """A file that only the driver has."""
    from datacomp_core.pool_source import PoolSource
    from datacomp_core.selection.kmeans import ClusterSpec, cluster

    path = Path("/tmp/centroids.npy")
    if not path.exists():
        of = PoolSource(store().folder(pool()) / "metadata", features=(store().folder(embedded()) / "features",))
        np.save(path, cluster(ClusterSpec(num_clusters=6, features="tiny", rounds=5, captions="any"), of, workers=workers()))
    return str(path)


def subset(recipe: str, **beside: Any) -> Subset:
    from datacomp_core.recipes.load import load_recipe
    from datacomp_core.selection.select import SubsetSpec, select_subset

    spec = SubsetSpec(recipe=recipe, filter=load_recipe(recipe).filter)
    others = (embedded(), *(score(name) for name in beside.get("scores", ())))
    return select_subset(spec, pool(), others, store=store(), workers=workers())


def chosen() -> Subset:
    return subset("clip_score:score=l14,fraction=0.5")


def columns_only() -> Subset:
    """A filter that needs nothing but metadata."""
    from datacomp_core.recipes.load import load_recipe
    from datacomp_core.selection.select import SubsetSpec, select_subset

    spec = SubsetSpec(recipe="basic_filter", filter=load_recipe("basic_filter").filter)
    return select_subset(spec, pool(), None, store=store(), workers=workers())


def listed() -> str:
    """A list of uids that only the driver has; one uid stands on it twice, one is not of the pool."""
    path = Path("/tmp/list.txt")
    path.write_text("\n".join([uid(row) for row in (*range(0, PARTS * ROWS, 5), 5)] + [uid(10**6)]))
    return str(path)


def selected(asked: Filter) -> Subset:
    """A filter of our own."""
    from datacomp_core.selection.select import SubsetSpec, select_subset

    return select_subset(SubsetSpec(recipe="own", filter=asked), pool(), (embedded(),), store=store(), workers=workers())


def listed_and_distinct() -> Subset:
    """A list before a global filter: its verdict is remembered between the passes."""
    from pydantic import TypeAdapter

    from datacomp_core.filters import AllOf
    from datacomp_core.filters.base import WholeFilter

    both = {"kind": "all", "filters": [{"kind": "listed", "uids": listed()}, {"kind": "distinct", "by": "text"}]}
    asked = TypeAdapter(WholeFilter).validate_python(both)
    assert isinstance(asked, AllOf)
    return selected(asked)


def density() -> Subset:
    from datacomp_core.filters import DensityPrune

    return selected(DensityPrune(centroids=centroids(), features="tiny", left=0.6))


def quota() -> Subset:
    """Concepts in a table that only the driver has."""
    from pydantic import TypeAdapter

    from datacomp_core.filters.base import WholeFilter

    path = Path("/tmp/concepts.jsonl")
    lines = [{"uid": uid(row), "concepts": [f"c{row % 7}", f"d{row % 5}"]} for row in range(0, PARTS * ROWS, 2)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return selected(TypeAdapter(WholeFilter).validate_python({"kind": "concept_quota", "annotations": str(path), "quota": 20}))


def joined() -> Folder:
    """`datacomp filter --metadata --scores --out` with scores in an order of their own."""
    from datacomp_core.driver_files import exchange
    from datacomp_core.filters import TopFraction
    from datacomp_core.pool_source import PoolSource
    from datacomp_core.selection.aligned import aligned
    from datacomp_core.selection.select import SubsetSpec, select
    from datacomp_core.store import scratch

    beside, out = store().root / "plain-scores", store().root / "plain-subset"
    rows = range(PARTS * ROWS)[::-1]
    with beside.writing("all.parquet") as path:
        pl.DataFrame({"uid": [uid(row) for row in rows], "own": [float(row * 37 % 101) for row in rows]}).write_parquet(path)
    given = PoolSource(store().folder(pool()) / "metadata", (beside,))
    with scratch() as local, exchange(out) as shared:
        source, _ = aligned(given, local / "joins", shared.folder / "aligned")
        spec = SubsetSpec(recipe="own", filter=TopFraction(score="own", fraction=0.3))
        select(spec, source.metadata, source.scores, out=out, write="subset", workers=workers())
    return out


def resharded(faces: bool) -> Artifact:
    from datacomp_core.resharding.faces import FaceSpec
    from datacomp_core.resharding.reshard import ReshardSpec, reshard, reshard_faces

    spec = ReshardSpec(samples_per_shard=32, tolerated_missing=0.5)
    if not faces:
        return reshard(spec, chosen(), images(), store=store(), workers=workers())
    return reshard_faces(spec, FaceSpec(treatment="inject"), chosen(), images(), pool(), store=store(), workers=workers())


def mixed() -> Artifact:
    from datacomp_core.resharding.mix import MixSpec, mix

    return mix(MixSpec(weights=(1.5,)), (images(),), store=store(), workers=workers())


def evaluated() -> Artifact:
    from datacomp_core.evaluation.custom import TaskRow
    from datacomp_core.evaluation.evaluate import EvalSpec, evaluate

    rows = tuple(TaskRow(key=f"mine/{name}", folder=name) for name in TEST_SETS)
    spec = EvalSpec(suite="custom", extra_tasks=rows, batch_size=16)
    sets = made_sets(Made(), store=store())
    return evaluate(spec, made_checkpoint(Made(), store=store()), sets, store=store(), device="cpu,cpu", workers=workers())


def captioned(**policy: Any) -> Captioned:
    """Each pair with its own caption or one of a template."""
    from datacomp_core.caption_policy import CaptionPolicy
    from datacomp_core.captions.choose_captions import choose_captions
    from datacomp_core.captions.template import TemplateSpec, template_captions

    made = template_captions(TemplateSpec(template="a picture of {text}"), pool(), (), store=store())
    spec = CaptionPolicy(**policy or {"kind": "replace", "sources": ("template",)})
    return choose_captions(spec, pool(), (made,), (), store=store(), workers=workers())


def template_set() -> str:
    """The captions of a template, as a plain folder of the bucket has them."""
    from datacomp_core.captions.template import TemplateSpec, template_captions

    return template_captions(TemplateSpec(template="a picture of {text}"), pool(), (), store=store()).address


def generated() -> Artifact:
    """Captions of the pictures by a model that each machine fetches from the hub."""
    from datacomp_core.embedding.generate import GenerateSpec, generate_captions

    spec = GenerateSpec.model_validate(_written_by("blip", max_tokens=6))
    return generate_captions(spec, pool(), images(), store=store(), device=settings().device)


def translated() -> Artifact:
    from datacomp_core.captions.translate import TranslateSpec, translate_captions

    spec = TranslateSpec.model_validate(_written_by("t5", max_tokens=5, prompt="red : ", only="all"))
    return translate_captions(spec, pool(), None, store=store(), device=settings().device)


def _written_by(family: str, **more: Any) -> dict[str, Any]:
    import models_hub

    made = models_hub.small_model(family)
    return {"name": family, "model": f"small/{family}", "revision": made.revision, "sha256": made.sha256, "batch_size": 8, **more}


def command(*words: str) -> None:
    """`datacomp WORDS`, in this process."""
    from deployments.cli import main

    if not main.app.registered_commands:
        main.register()
    main.app(list(words), standalone_mode=False)


def command_filter() -> Folder:
    """Captions and a costly filter over a plain folder of the bucket; the subset is written to the driver's own disk."""
    metadata, out = (store().folder(pool()) / "metadata").url, Path("/tmp/plain/subset.npy")
    out.parent.mkdir(exist_ok=True)
    out.unlink(missing_ok=True)
    plan = Path("/tmp/policy.yaml")
    plan.write_text(json.dumps({"captions": [template_set()], "policy": {"first_of": ["template", "raw"]}}))
    command("filter", "--metadata", metadata, "--captions", str(plan), "-r", "text_based", "--out", str(out))
    return Folder(out.parent)


def command_reshard() -> Folder:
    metadata, shards = (store().folder(pool()) / "metadata").url, store().folder(images()).url
    plan, out = Path("/tmp/policy.yaml"), store().root / "plain-shards"
    plan.write_text(json.dumps({"captions": [template_set()], "policy": {"first_of": ["template", "raw"]}}))
    subset = store().folder(chosen()).at("subset.npy")
    given = ("--metadata", metadata, "--captions", str(plan), "--samples-per-shard", "32", "--tolerated-missing", "0.5")
    command("reshard", "--shards", shards, "--subset", subset, "--out", out.url, *given)
    return out


def command_evaluate() -> Folder:
    """A checkpoint of the driver's own disk on test sets in plain folders of the bucket."""
    weights, out = Path("/tmp/weights.pt"), store().root / "plain-report"
    _save_weights(weights)
    tasks = Path("/tmp/tasks.yaml")
    tasks.write_text(json.dumps([{"key": f"mine/{name}", "folder": name} for name in TEST_SETS]))
    sets = store().folder(made_sets(Made(), store=store())).url
    given = ("--suite", "custom", "--add-tasks", str(tasks), "--data", sets, "--out", out.url)
    command("evaluate", "--model", MODEL, "--checkpoint", str(weights), *given)
    return out


DRAW: dict[str, Any] = {"kind": "draw", "weights": {"raw": 1, "template": 1}}


def embedded_captions() -> Artifact:
    from datacomp_core.captions.template import TemplateSpec, template_captions
    from datacomp_core.embedding.captions import CaptionEmbedSpec, embed_captions

    made = template_captions(TemplateSpec(template="a picture of {text}"), pool(), (), store=store())
    scorers = (made_checkpoint(Made(), store=store()),)
    spec = CaptionEmbedSpec(batch_size=16)
    return embed_captions(spec, made, pool(), embedded(), scorers, store=store(), device=settings().device)


def scored_captions() -> Artifact:
    from datacomp_core.scores import score_of
    from datacomp_core.scores.compute import score_captioned

    wanted = score_of("metaclip")
    assert wanted is not None
    return score_captioned(wanted, pool(), None, None, None, captioned(), store=store(), workers=workers())


def captioned_subset() -> Subset:
    from datacomp_core.recipes.load import load_recipe
    from datacomp_core.selection.select import SubsetSpec, select_subset

    spec = SubsetSpec(recipe="text_based", filter=load_recipe("text_based").filter)
    return select_subset(spec, pool(), (captioned(),), store=store(), workers=workers())


def captioned_shards(is_view: bool) -> ShardSet:
    from datacomp_core.caption_policy import CaptionPolicy
    from datacomp_core.resharding.reshard import ReshardSpec, reshard_captions
    from datacomp_core.resharding.view import view_captions

    spec, draw = ReshardSpec(samples_per_shard=32, tolerated_missing=0.5), CaptionPolicy(**DRAW)
    of = captioned(**DRAW)
    if is_view:
        return view_captions(spec, draw, chosen(), images(), of, store=store(), workers=workers())
    return reshard_captions(spec, None, draw, chosen(), (images(),), of, None, store=store(), workers=workers())


def viewed() -> ShardSet:
    from datacomp_core.resharding.reshard import ReshardSpec
    from datacomp_core.resharding.view import view

    return view(ReshardSpec(tolerated_missing=0.5), chosen(), images(), store=store(), workers=workers())


def learned() -> Artifact:
    from datacomp_core.pool.download_columns import COLUMNS, LearnedSpec
    from datacomp_core.pool.download_columns import read_download_columns as learn

    return learn(LearnedSpec(from_images=COLUMNS), pool(), images(), store=store(), workers=workers())


def clean(by: str) -> Artifact:
    from datacomp_core.pool.decontaminate import DecontaminateSpec, decontaminate
    from datacomp_core.pool.similar import SimilaritySpec, decontaminate_by_similarity

    sets = made_sets(Made(), store=store())
    if by == "hash":
        return decontaminate(DecontaminateSpec(distance=16), images(), sets, store=store(), workers=workers())
    return decontaminate_by_similarity(SimilaritySpec(similarity=0.9), embedded(), sets, store=store(), device="cpu")


def imported_table() -> Pool:
    """Urls and captions in a bucket, as somebody else left them there."""
    from datacomp_core.pool.byod import ByodPoolSpec, import_pool

    source = store().root / "given-tables"
    if not source.files():
        for number in range(3):
            rows = [f"{WEB}/{row}.jpg,caption {row} of {number}" for row in range(number * 20, number * 20 + 30)]
            source.write(f"{number}.csv", "\n".join(["url,text", *rows]).encode())
    return import_pool(ByodPoolSpec(source=source.url, rows_per_part=20), store=store(), workers=workers())


def imported_pictures(packed: bool) -> Pool | ShardSet:
    from pictures import picture

    from datacomp_core.pool.image_folder import FolderPoolSpec, import_folder, pack_folder

    source = store().root / "given-pictures"
    if not source.files():
        for number in range(20):
            source.write(f"class {number % 3}/{number}.jpg", picture(number))
    spec = FolderPoolSpec(source=source.url, samples_per_shard=6)
    made = import_folder(spec, store=store(), workers=workers())
    return pack_folder(spec, made, store=store(), workers=workers()) if packed else made


def adopted(shards: bool) -> Pool | ShardSet:
    """Tars without any table or index."""
    from datacomp_core.pool.adopt import AdoptedPoolSpec, adopt_metadata, adopt_shards

    source, ours = store().root / "given-tars", store().folder(images())
    if not source.files():
        for name in ours.files(".tar"):
            source.write(name, ours.read(name))
    spec = AdoptedPoolSpec(source=source.url)
    made = adopt_metadata(spec, store=store(), workers=workers())
    return adopt_shards(spec, made, store=store(), workers=workers()) if shards else made


def trained() -> Checkpoint:
    """On all nodes of the settings."""
    from datacomp_core.scales import scale
    from datacomp_core.training.nodes import this_node
    from datacomp_core.training.spec import TrainSpec
    from datacomp_core.training.train import train

    short = {"name": "custom", "train_num_samples": 256, "num_checkpoints": 2, "warmup": 2}
    spec = TrainSpec(recipe=scale("tiny").model_copy(update=short))
    return train(spec, (images(),), store=store(), layout=this_node(), device=settings().device)


def _embedded_folder() -> Folder:
    """The command's function on plain folders, with weights on the driver's disk."""
    from datacomp_core.clip_sources import FileModel
    from datacomp_core.embedding.embed import embed_folder
    from datacomp_core.embedding.spec import EmbedSpec, Encoder

    weights, out = Path("/tmp/weights.pt"), store().root / "plain-embeddings"
    _save_weights(weights)
    spec = EmbedSpec(encoders=(Encoder(column="clip_own_similarity_score", prefix="own"),), batch_size=16)
    where = (store().folder(pool()) / "metadata").url, store().folder(images()).url, out.url
    embed_folder(spec, (FileModel(MODEL, MODEL, weights),), *where, workers=workers(), device=settings().device)
    return out


STEPS: dict[str, Callable[[], Any]] = {
    "images": images,
    "embed": embedded,
    "embed-plain": _embedded_folder,
    "score-pairs": lambda: score("neg_clip_loss:features=tiny,batch=64,drawings=2"),
    "score-images": lambda: score("perceptual_hash"),
    "score-words": lambda: score("metaclip"),
    "cluster": lambda: Path(centroids()),
    "filter-basic": lambda: subset("basic_filter"),
    "filter-laion": lambda: subset("laion2b"),
    "filter-text": lambda: subset("text_based"),
    "filter-top": chosen,
    "filter-columns": columns_only,
    "filter-clusters": lambda: subset(f"image_based:features=tiny,centroids={centroids()},target={centroids()}"),
    "filter-distinct": lambda: subset("exact_dedup:by=text"),
    "filter-near": lambda: subset("near_dedup:at_most_bits=4", scores=["perceptual_hash"]),
    "filter-soft-cap": lambda: subset("soft_cap:num_samples=300,batch=50"),
    "filter-mix": lambda: subset("mix:fraction=0.4"),
    "filter-sem": lambda: subset(f"sem_dedup:features=tiny,epsilon=0.2,centroids={centroids()}"),
    "filter-sim": lambda: subset(
        "norm_sim_d:features=tiny,fraction=0.8,steps=4,drawings=2", scores=["neg_clip_loss:drawings=2,features=tiny"]
    ),
    "filter-density": density,
    "filter-d2": lambda: subset(f"d2_prune:features=tiny,centroids={centroids()},neighbors=2,left=0.5"),
    "filter-submodular": lambda: subset(f"submodular:features=tiny,target={centroids()},units=64,active=8,left=0.5"),
    "filter-sampling": lambda: subset("text_sampling:num_draws=200"),
    "filter-clusters-sampling": lambda: subset(f"image_cluster_sampling:features=tiny,centroids={centroids()},num_draws=200"),
    "filter-quota": quota,
    "filter-metaclip": lambda: subset("metaclip:t=2", scores=["metaclip"]),
    "filter-clear": lambda: subset(
        "clear_pictures:sharpness=1,brightness=0.1,information=0.1",
        scores=[f"picture_quality:measure={name}" for name in ("sharpness", "brightness", "information")],
    ),
    "filter-listed": lambda: subset(f"listed:uids={listed()}"),
    "filter-listed-distinct": listed_and_distinct,
    "filter-joined": joined,
    "reshard": lambda: resharded(False),
    "reshard-faces": lambda: resharded(True),
    "mix": mixed,
    "view": viewed,
    "captions": captioned,
    "captions-drawn": lambda: captioned(**DRAW),
    "captions-embedded": embedded_captions,
    "captions-scored": scored_captions,
    "captions-filter": captioned_subset,
    "captions-reshard": lambda: captioned_shards(False),
    "captions-view": lambda: captioned_shards(True),
    "command-filter": command_filter,
    "command-reshard": command_reshard,
    "learned": learned,
    "clean": lambda: clean("hash"),
    "clean-similar": lambda: clean("similarity"),
    "import-table": imported_table,
    "import-pictures": lambda: imported_pictures(False),
    "import-packed": lambda: imported_pictures(True),
    "adopt-pool": lambda: adopted(False),
    "adopt-shards": lambda: adopted(True),
    "captions-generated": generated,
    "captions-translated": translated,
    "evaluate": evaluated,
    "command-evaluate": command_evaluate,
}
OTHER_STEPS: dict[str, Callable[[], Any]] = {"train": trained}
"""Only where they are asked for."""
UNSTEADY = (
    "_artifact.json",
    "_manifest.parquet",
    "report.json",
    "eval_results.jsonl",
    "reshard.json",
    "inputs.json",
    "source.parquet",
    "source.json",
)


def digests(made: Any) -> dict[str, str]:
    """sha256 of every file, but of those with times or the store's address in them."""
    if isinstance(made, Path):
        return {made.name: hashlib.sha256(made.read_bytes()).hexdigest()}
    folder = store().folder(made) if isinstance(made, Artifact) else made
    names = [
        name
        for name in folder.files()
        if name.rsplit("/", 1)[-1] not in UNSTEADY and not name.startswith(("tasks/", "imported/"))
    ]
    return {name: hashlib.sha256(_plain(name, folder.read(name))).hexdigest() for name in names}


def _plain(name: str, data: bytes) -> bytes:
    """Without the time of writing that a zip's entries and a download's ledger carry."""
    if name.endswith(".npz"):
        with np.load(io.BytesIO(data)) as arrays:
            return b"".join(key.encode() + arrays[key].tobytes() for key in sorted(arrays.files))
    if name.startswith("ledger/"):
        book = pl.read_parquet(io.BytesIO(data))
        return book.drop([column for column in ("seconds", "at") if column in book.columns]).write_csv().encode()
    return data


def small_is_enough() -> None:
    """Let workers do what is otherwise too little to start a process for."""
    from datacomp_core.evaluation import run
    from datacomp_core.resharding import captions, faces, mix, plan_inputs, reshard
    from datacomp_core.selection import worker_pool

    worker_pool.ROWS_FOR_PROCESSES = 0
    worker_pool.COSTLY_ROWS_FOR_A_PROCESS = worker_pool.COSTLIEST_ROWS_FOR_A_PROCESS = 1
    captions.PARTS_WORTH_A_PROCESS = 1
    faces.PARTS_WORTH_A_PROCESS = plan_inputs.INDICES_WORTH_A_PROCESS = mix.INDICES_WORTH_A_PROCESS = 4
    reshard.SAMPLES_WORTH_A_PROCESS = 8
    run.BYTES_A_WORKER = 1


def main(names: list[str]) -> None:
    small_is_enough()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    for name in names or list(STEPS):
        told: dict[str, Any] = {"step": name}
        try:
            told["digests"] = digests({**STEPS, **OTHER_STEPS}[name]())
        except Exception as problem:
            traceback.print_exc()
            told["error"] = f"{type(problem).__name__}: {problem}"
        print(json.dumps(told), flush=True)  # noqa: T201 - what the test reads


if __name__ == "__main__":
    main(sys.argv[1:])
