"""Finds rows of a pool that resemble a test image: the largest cosine with any test image's features, with faiss. `embed` made
the pool's features; the same model, from the record, encodes the test images. It finds what a perceptual hash misses (crops,
mirror images, rotations, drawn-over images), as far as the model ignores them. With a low threshold it also matches other
images of the same object.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from datacomp_core import clip, uid
from datacomp_core.artifacts import Checkpoint, Embeddings, EvalSets, HoldoutCount, Spec, Subset
from datacomp_core.clip_named import model_of
from datacomp_core.device import default_device
from datacomp_core.errors import DataError
from datacomp_core.image_preprocessing import PixelArray
from datacomp_core.parts import SCORES, part_names
from datacomp_core.pictures import pillow_image
from datacomp_core.pool.eval_images import images_of
from datacomp_core.pool.unique_uids import UidRanges, num_buckets, write_subset
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.store import Folder, Store, step

FEATURES = "features"
HITS = "hits.parquet"
SCHEMA = pl.Schema({"uid": pl.String, "part": pl.String, "test_set": pl.String, "test_key": pl.String, "similarity": pl.Float32})
IMAGES_AT_ONCE = 64
ROWS_AT_ONCE = 8192
Vectors = npt.NDArray[np.float32]


class SimilaritySpec(Spec):
    """How similar an image may be to a test image, by the model that embedded it."""

    similarity: float = Field(
        default=0.95,
        gt=-1,
        le=1,
        description="Cosine of two images' features from which they count as the same. It depends on the model: see "
        "hits.parquet.",
    )

    def label(self) -> str:
        return f"dissimilar{self.similarity:g}"


@step("subsets", version=1)
def decontaminate_by_similarity(
    spec: SimilaritySpec,
    embeddings: Embeddings,
    evalsets: EvalSets,
    *,
    out: Folder,
    store: Store,
    device: str = "",
    progress: Progress = NO_PROGRESS,
) -> Subset:
    """`subset.npy`: the uids that do not resemble a test image; `hits.parquet`: the others, each with its nearest test image.
    The test images' features are kept in memory, the pool's are read one part at a time. Rows without features are skipped and
    counted. DataError if the model of the embeddings is missing, or the test sets have no images.
    """
    import faiss

    names, vectors = _test_features(store, embeddings, evalsets, device)
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)  # pyright: ignore[reportCallIssue]
    folder = store.folder(embeddings)
    parts = part_names(folder / SCORES)
    progress.start(len(parts), "parts")
    unseen, tables = 0, [pl.DataFrame(schema=SCHEMA)]
    with UidRanges(num_buckets(embeddings.num_samples)) as clean:
        for part in parts:
            uids = pl.read_parquet(io.BytesIO((folder / SCORES).read(f"{part}.parquet")), columns=["uid"])["uid"]
            best, nearest = _searched(index, _features(folder, part))
            unseen += int(np.isnan(best).sum())
            hit = best >= spec.similarity
            clean.add(uid.pack(uids.filter(pl.Series(best < spec.similarity))))
            tables.append(_table(uids.filter(pl.Series(hit)), part, [names[at] for at in nearest[hit]], best[hit]))
            progress.advance()
        rows, unique = write_subset(out, clean.slices())
    hits = pl.concat(tables)
    with out.writing(HITS) as path:
        hits.write_parquet(path)
    counts = {
        "clean": rows,
        HoldoutCount.LIKE_A_TEST_IMAGE.value: hits.height,
        "without_features": unseen,
        HoldoutCount.TEST_IMAGES.value: len(names),
    }
    return Subset(scale=embeddings.scale, recipe=spec.label(), num_samples=rows, num_unique=unique, counts=counts)


def _test_features(
    store: Store, embeddings: Embeddings, evalsets: EvalSets, device: str
) -> tuple[list[tuple[str, str]], Vectors]:
    """Return test set and key of every decodable test image, and their features from the embeddings' model."""
    model = _model(store, embeddings, device)
    names: list[tuple[str, str]] = []
    found: list[Vectors] = []
    images = images_of(store.folder(evalsets))
    while some := list(islice(images, IMAGES_AT_ONCE)):
        pixels: list[PixelArray] = []
        for name, data in some:
            try:
                with pillow_image(data) as image:
                    pixels.append(model.pixels(image))
            except Exception:  # a broken image may raise anything; such a test image cannot match a sample
                continue
            names.append(name)
        if pixels:
            found.append(model.encode_images(np.stack(pixels)).float().cpu().numpy())
    if not names:
        raise DataError(f"{store.folder(evalsets)} has no test images: give a folder of webdataset test sets.")
    return names, np.concatenate(found)


def _model(store: Store, embeddings: Embeddings, device: str) -> clip.Clip:
    """Return the first encoder of the embeddings."""
    record = store.record(embeddings.address)
    encoders = [spec["encoders"] for spec in (record.spec.values() if record else ()) if spec.get("encoders")]
    first = encoders[0][0] if encoders else {}
    if first.get("model"):
        source = model_of(str(first["model"]), str(first.get("weights", "")), str(first["sha256"]))
        return source.load(device or default_device())
    given = (record.inputs.get("scorers") or record.inputs.get("scorer")) if record else None
    made = store.record(given[0]["address"]) if given else None
    if made is None:
        raise DataError(f"The model that made {embeddings.address} is not in the store: embed the pool again.")
    checkpoint = store.artifact(Checkpoint, made)
    with store.folder(checkpoint).open("checkpoint.pt") as file:
        return clip.load(checkpoint.model, file, device or default_device())


def _features(folder: Folder, part: str) -> npt.NDArray[Any]:
    with folder.open(f"{FEATURES}/{part}.npz") as file, np.load(file) as arrays:
        name = next(name for name in arrays.files if name.endswith("_img"))
        return arrays[name]


def _searched(index: Any, features: npt.NDArray[Any]) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """Return the largest cosine of each row with a test image, NaN where it has no features, and that test image."""
    best, nearest = np.full(len(features), np.nan, np.float32), np.zeros(len(features), np.int64)
    for rows in _blocks(len(features)):
        some = features[rows].astype(np.float32)
        there = np.isfinite(some).all(1)
        some = some[there]
        some /= np.linalg.norm(some, axis=1, keepdims=True)
        values, places = index.search(np.ascontiguousarray(some), 1)
        best[rows][there], nearest[rows][there] = values[:, 0], places[:, 0]
    return best, nearest


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, ROWS_AT_ONCE):
        yield slice(start, min(start + ROWS_AT_ONCE, count))


def _table(uids: pl.Series, part: str, names: list[tuple[str, str]], similarity: Vectors) -> pl.DataFrame:
    columns: dict[str, Any] = {
        "uid": uids,
        "part": [part] * len(uids),
        "test_set": [name for name, _ in names],
        "test_key": [key for _, key in names],
        "similarity": similarity,
    }
    return pl.DataFrame(columns, schema=SCHEMA)
