"""The chain of a competition's scale, from a server of the hub's shape and a web of pictures to shards."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hub_server import serving
from PIL import Image

from datacomp_core import clip
from datacomp_core.artifacts import ShardSet, Subset
from datacomp_core.embedding.spec import EmbedSpec
from datacomp_core.errors import DataError
from datacomp_core.parts import SCHEMA
from datacomp_core.pool.download_images import download_images
from datacomp_core.pool.image_folder import FolderPoolSpec
from datacomp_core.settings import settings
from datacomp_core.uid import uid_of
from flows.chain import STAGES
from flows.parameters import ExperimentSpec
from tasks import pool as pooling
from tasks.run_step import store

ROWS, PARTS = 40, 2
WEIGHTS = "open_clip_model.safetensors"


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002


@contextmanager
def web(folder: Path) -> Generator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def candidates(address: str) -> pl.DataFrame:
    """Rows of DataComp's schema with a score each, all of them different."""
    urls = [f"{address}/{number}.jpg" for number in range(ROWS)]
    texts = [f"a caption of picture number {number}" for number in range(ROWS)]
    columns: dict[str, list[Any]] = {name: [None] * ROWS for name in SCHEMA}
    columns |= {"uid": [uid_of(*pair) for pair in zip(urls, texts, strict=True)], "url": urls, "text": texts}
    columns["clip_l14_similarity_score"] = [float(x) for x in np.random.default_rng(0).permutation(ROWS) / ROWS]
    columns["face_bboxes"] = [[] for _ in urls]
    return pl.DataFrame(columns, schema=SCHEMA)


def test_from_the_hub_to_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATACOMP_STORE", str(tmp_path / "store"))
    settings.cache_clear()
    (tmp_path / "web").mkdir()
    for number in range(ROWS):
        Image.new("RGB", (60, 40), (6 * number, 0, 99)).save(tmp_path / f"web/{number}.jpg")
    with web(tmp_path / "web") as address, serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        rows = candidates(address)
        hub.repositories["datasets/mlfoundations/datacomp_small"] = {
            f"{part:032x}.parquet": _parquet(rows[part * ROWS // PARTS : (part + 1) * ROWS // PARTS]) for part in range(PARTS)
        }

        def call(task: Any, /, *identity: Any, **_: Any) -> Any:
            if task is pooling.download_images:  # the web of this test is on loopback, which is never reached by default
                return download_images(*identity, store=store(), open_networks="127.0.0.0/8")
            return task.fn(*identity)

        spec = ExperimentSpec.model_validate({"scale": "small", "recipe": "clip_score:score=l14,fraction=0.3"})
        shards: ShardSet = STAGES["reshard"](call, spec)
        best = rows.sort("clip_l14_similarity_score", descending=True).head(int(0.3 * ROWS) + 1)  # the reference's n + 1
        written = np.load(io.BytesIO(store().folder(shards).read("sample_ids.npy")))
        assert {f"{int(high):016x}{int(low):016x}" for high, low in written.tolist()} == set(best["uid"])
        subset: Subset = STAGES["filter"](call, spec)
        assert (subset.scale, shards.scale, subset.num_samples) == ("small", "small", len(best))
        record = store().record(shards.address)
        assert record is not None
        assert record.inputs["shards"][0]["address"].startswith("shards/small/")


def test_a_public_scorer_of_the_hub_scores_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dfn_public` needs no `--embed`: its model is pinned, fetched, and the best 15 % by its own cosine are kept."""
    monkeypatch.setenv("DATACOMP_STORE", str(tmp_path / "store"))
    settings.cache_clear()
    pictures(tmp_path / "web")
    model_of_the_hub(tmp_path / "model")
    with web(tmp_path / "web") as address, serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        rows = candidates(address)
        hub.repositories["datasets/mlfoundations/datacomp_small"] = {f"{0:032x}.parquet": _parquet(rows)}
        hub.repositories["models/apple/DFN-public"] = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}

        def call(task: Any, /, *identity: Any, **_: Any) -> Any:
            if task is pooling.download_images:
                return download_images(*identity, store=store(), open_networks="127.0.0.0/8")
            return task.fn(*identity)

        spec = ExperimentSpec.model_validate({"scale": "small", "recipe": "dfn_public"})
        [encoder] = spec.embed.encoders
        assert encoder.model == f"hf-hub:apple/DFN-public@{hub.commit('models/apple/DFN-public')}"
        assert encoder.sha256 == hashlib.sha256((tmp_path / f"model/{WEIGHTS}").read_bytes()).hexdigest()
        assert ExperimentSpec.model_validate_json(spec.model_dump_json()) == spec
        assert ExperimentSpec(scale="small", recipe="clip_score").embed == EmbedSpec(), "others do not ask the hub"
        subset: Subset = STAGES["filter"](call, spec)
        written = np.load(io.BytesIO(store().folder(subset).read("subset.npy")))
        [embedded] = store().records("embeddings")
        assert embedded.spec["spec"]["encoders"][0]["sha256"] == encoder.sha256

    scores = cosines(tmp_path / "model", rows.select("uid", "text"))
    best = sorted(scores, key=lambda uid: -scores[uid])[: int(0.15 * ROWS)]
    assert {f"{int(high):016x}{int(low):016x}" for high, low in written.tolist()} == set(best)


def test_an_own_pool_is_scored_by_the_models_of_the_released_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`clip_score_b32` at `small` over a folder of pictures needs no `--embed`; a pool that brings its scores asks no hub."""
    monkeypatch.setenv("DATACOMP_STORE", str(tmp_path / "store"))
    settings.cache_clear()
    pictures(tmp_path / "own")
    (tmp_path / "own/captions.csv").write_text(
        "file_name,text\n" + "".join(f"{number}.jpg,a caption of picture number {number}\n" for number in range(ROWS))
    )
    model_of_the_hub(tmp_path / "model")

    def call(task: Any, /, *identity: Any, **_: Any) -> Any:
        return task.fn(*identity)

    pool = pooling.import_folder.fn(FolderPoolSpec(source=str(tmp_path / "own"), captions="captions.csv"))
    asked = {"scale": "small", "pool": pool.address}
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        for column in ("b32", "l14"):
            with pytest.raises(DataError, match=rf"no clip_{column}_similarity_score.*timm/.*--embed {column}="):
                ExperimentSpec.model_validate({**asked, "recipe": f"clip_score:score={column}"})
        b32, l14 = "timm/vit_base_patch32_clip_224.openai", "timm/vit_large_patch14_clip_224.openai"
        for name in (b32, l14):
            hub.repositories[f"models/{name}"] = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
        spec = ExperimentSpec.model_validate({**asked, "recipe": "clip_score_b32"})
        [encoder] = spec.embed.encoders
        assert (encoder.column, encoder.prefix) == ("clip_b32_similarity_score", "b32")
        assert encoder.model == f"hf-hub:{b32}@{hub.commit(f'models/{b32}')}"
        assert ExperimentSpec.model_validate_json(spec.model_dump_json()) == spec
        wants = {
            "image_based": ["l14"],
            "laion2b": ["b32"],
            "image_based_intersect_clip_score:score=b32": ["b32", "l14"],
            "neg_clip_loss": ["l14"],
            "basic_filter": ["tiny"],
        }
        for recipe, prefixes in wants.items():
            found = ExperimentSpec.model_validate({**asked, "recipe": recipe})
            assert [one.prefix for one in found.embed.encoders] == prefixes, recipe
        mine = {"encoders": [{"column": "clip_b32_similarity_score", "prefix": "b32"}]}
        given = ExperimentSpec.model_validate({**asked, "recipe": "clip_score_b32", "embed": mine, "scorers": ["checkpoints/x"]})
        assert [one.model for one in given.embed.encoders] == [""], "what is named by hand stands"
        subset: Subset = STAGES["filter"](call, spec)
        written = np.load(io.BytesIO(store().folder(subset).read("subset.npy")))
    metadata = pl.read_parquet(f"{store().folder(pool)}/metadata/*.parquet")
    scores = cosines(tmp_path / "model", metadata.select("uid", "text"))
    best = sorted(scores, key=lambda uid: -scores[uid])[: int(0.3 * ROWS)]
    assert {f"{int(high):016x}{int(low):016x}" for high, low in written.tolist()} >= set(best)
    assert len(written) - len(best) in (0, 1), "the reference's n + 1"


def pictures(folder: Path) -> None:
    folder.mkdir()
    for number in range(ROWS):
        noise = np.random.default_rng(number).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.jpg")


def model_of_the_hub(folder: Path) -> None:
    """A small CLIP as open_clip pushes it."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    clip.register()
    torch.manual_seed(3)
    model = open_clip.create_model("datacomp-tiny", load_weights=False)
    config = {"model_cfg": open_clip.get_model_config("datacomp-tiny"), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)


def cosines(model: Path, rows: pl.DataFrame) -> dict[str, float]:
    """By uid, by open_clip's own functions on the pictures of the one download in the store."""
    import open_clip
    import torch

    images = _arrived()
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{model}")
    theirs.eval()
    tokenize, prepare = open_clip.get_tokenizer("datacomp-tiny"), transform
    scores: dict[str, float] = {}
    with torch.no_grad():
        for uid, text in rows.iter_rows():
            left = theirs.encode_image(prepare(images[uid])[None], normalize=True)[0]  # type: ignore[operator]
            right = theirs.encode_text(tokenize([text]), normalize=True)[0]  # type: ignore[operator]
            scores[uid] = float(left @ right)
    return scores


def _arrived() -> dict[str, Image.Image]:
    """The pictures of the one download in the store, as they lie in its tars."""
    [record] = [record for record in store().records("shards") if "subset" not in record.inputs]
    folder = store().folder(store().artifact(ShardSet, record))
    found: dict[str, Image.Image] = {}
    for name in [name for name in folder.files() if name.endswith(".tar")]:
        with tarfile.open(fileobj=io.BytesIO(folder.read(name))) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]
        for key in {name.rpartition(".")[0] for name in files}:
            uid = json.loads(files[f"{key}.json"])["uid"]
            [picture] = [
                data for name, data in files.items() if name.startswith(f"{key}.") and not name.endswith((".txt", ".json"))
            ]
            found[uid] = Image.open(io.BytesIO(picture)).convert("RGB")
    return found


def _parquet(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()
