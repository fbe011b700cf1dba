"""Rows that look like a test image: the cosines are those of brute force, and planted copies are found."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from images_world import jpeg
from PIL import Image

from datacomp_core import clip, uid
from datacomp_core.artifacts import Checkpoint, Embeddings, EvalSets, Spec
from datacomp_core.errors import DataError
from datacomp_core.pool.similar import SimilaritySpec, decontaminate_by_similarity
from datacomp_core.store import Folder, Store, step

MODEL = "datacomp-tiny"
TESTS = (3, 7, 100)
UNSEEN = 11


class MadeUp(Spec):
    scale: str = "tiny"


@step("checkpoints", version=1)
def scorer(spec: MadeUp, *, out: Folder) -> Checkpoint:
    import open_clip

    torch.manual_seed(7)
    clip.register()
    model: Any = open_clip.create_model(MODEL, load_weights=False)
    with out.writing("checkpoint.pt") as path:
        torch.save({"state_dict": model.state_dict()}, path)
    return Checkpoint(model=MODEL, seed=7, samples_seen=0, steps=0, name="random")


def features(store: Store, images: list[bytes]) -> np.ndarray:
    with store.folder(scorer(MadeUp(), store=store)).open("checkpoint.pt") as file:
        model = clip.load(MODEL, file, "cpu")
    return np.concatenate([model.encode_images(model.pixels(Image.open(io.BytesIO(one)))[None]).numpy() for one in images])


@step("embeddings", version=1)
def embedded(spec: MadeUp, scorer: Checkpoint, *, out: Folder, store: Store) -> Embeddings:
    """Twenty pictures in two parts; one never arrived."""
    found = features(store, [jpeg(number) for number in range(20)])
    found[UNSEEN] = np.nan
    for part, rows in (("a", range(12)), ("b", range(12, 20))):
        with out.writing(f"scores/{part}.parquet") as path:
            pl.DataFrame({"uid": [name(row) for row in rows]}).write_parquet(path)
        with out.writing(f"features/{part}.npz") as path, path.open("wb") as file:
            np.savez(file, tiny_img=found[rows].astype(np.float16), tiny_txt=found[rows].astype(np.float16))
    return Embeddings(model=MODEL, columns=(), num_samples=20, num_embedded=19)


def name(row: int) -> str:
    return hashlib.md5(str(row).encode()).hexdigest()


@pytest.fixture
def world(tmp_path: Path) -> tuple[Store, Embeddings, EvalSets]:
    store = Store.open(str(tmp_path))
    place = tmp_path / "sets/wds_some_test/test"
    place.mkdir(parents=True)
    with tarfile.open(place / "0.tar", "w") as archive:
        for key, data in [*((f"s{number}.jpg", jpeg(number)) for number in TESTS), ("broken.jpg", b"none")]:
            member = tarfile.TarInfo(key)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    sets = EvalSets(scale="tiny", data="sets", fingerprint="a" * 64, suite="tiny", num_tasks=1)
    return store, embedded(MadeUp(), scorer(MadeUp(), store=store), store=store), sets


def test_what_looks_like_a_test_image_is_told_and_left_out(world: tuple[Store, Embeddings, EvalSets]) -> None:
    store, embeddings, sets = world
    pool, tests = features(store, [jpeg(number) for number in range(20)]), features(store, [jpeg(number) for number in TESTS])
    cosines = pool @ tests.T
    order = np.sort(cosines.max(1))
    limit = float(order[12] + order[13]) / 2  # seven of twenty lie over it
    made = decontaminate_by_similarity(SimilaritySpec(similarity=limit), embeddings, sets, store=store, device="cpu")
    wanted = {row for row in range(20) if cosines[row].max() >= limit and row != UNSEEN}
    assert {3, 7} <= wanted
    hits = pl.read_parquet(store.folder(made).path / "hits.parquet")
    assert dict(hits.select("uid", "test_key").iter_rows()) == {name(row): f"s{TESTS[cosines[row].argmax()]}" for row in wanted}
    np.testing.assert_allclose(hits["similarity"], [cosines[row].max() for row in sorted(wanted)], atol=2e-3)
    assert set(hits["part"]) <= {"a", "b"}
    clean = set(range(20)) - wanted - {UNSEEN}
    kept = np.load(store.folder(made).path / "subset.npy")
    assert sorted(uid.unpack(kept)) == sorted(map(name, clean))
    assert (store.folder(made).path / "subset.npy").read_bytes() == uid.subset_bytes(kept)
    assert made.counts == {"clean": len(clean), "like_a_test_image": len(wanted), "without_features": 1, "test_images": 3}


def test_embeddings_whose_model_is_gone_cannot_be_compared(world: tuple[Store, Embeddings, EvalSets]) -> None:
    store, embeddings, sets = world
    lost = embeddings.model_copy(update={"address": "embeddings/none/such--0"})
    with pytest.raises(DataError, match="is not in the store: embed the pool again"):
        decontaminate_by_similarity(SimilaritySpec(), lost, sets, store=store, device="cpu")
