"""The evaluation sets as clip_benchmark reads them, and the trusted shards as webdataset readers do."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from datacomp_core.pool.tiny import TinyEvalSpec, TrustedSpec, build_tiny_evalsets, build_trusted
from datacomp_core.pool.tiny_captions import TRUSTED_TEMPLATES
from datacomp_core.pool.tiny_holdout import holdout
from datacomp_core.shards import INDEX_SCHEMA
from datacomp_core.store import Folder, Store

TASKS = ("objects", "objects_3d", "coarse", "flags", "clipart", "digits")


@pytest.fixture(scope="module")
def evalsets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(Folder(tmp_path_factory.mktemp("sets")))
    made = build_tiny_evalsets(TinyEvalSpec(), store=store)
    assert (made.suite, made.num_tasks) == ("tiny", 7)
    return store.folder(made).path


def read(folder: Path) -> tuple[list[tuple[Image.Image, object]], list[str] | None, list[str] | None]:
    from clip_benchmark.datasets.builder import build_wds_dataset

    data = build_wds_dataset("tiny", lambda image: image.copy(), data_dir=str(folder))
    return list(data), data.classes, data.templates


@pytest.mark.parametrize("task", TASKS)
def test_clip_benchmark_reads_the_classification_sets(evalsets: Path, task: str) -> None:
    samples, classes, templates = read(evalsets / f"wds_tiny-{task}_test")
    assert classes
    assert templates
    assert len(set(classes)) == len(classes)
    assert all("x" in template.format(c="x") for template in templates)
    labels = [label for _, label in samples]
    assert {type(label) for label in labels} == {int}
    assert set(labels) == set(range(len(classes)))
    assert all(image.mode == "RGB" for image, _ in samples)
    expected = 500 if task == "digits" else len(holdout().tasks[task])
    assert len(samples) == expected


def test_labels_name_what_is_drawn(evalsets: Path) -> None:
    samples, classes, _ = read(evalsets / "wds_tiny-objects_test")
    assert classes
    names = {Image.open(io.BytesIO(d.image)).convert("RGB").tobytes(): d.name for d in holdout().tasks["objects"]}
    for image, label in samples:
        assert names[image.tobytes()] == classes[int(str(label))]


def test_clip_benchmark_reads_the_retrieval_set(evalsets: Path) -> None:
    samples, classes, _ = read(evalsets / "wds_tiny-retrieval_test")
    assert classes is None
    assert len(samples) == 400
    assert all(isinstance(texts, list) and len(texts) == 2 and all(texts) for _, texts in samples)


def test_the_trusted_shards_and_their_index(tmp_path: Path) -> None:
    store = Store(Folder(tmp_path))
    made = build_trusted(TrustedSpec(num_shards=3), store=store)
    folder = store.folder(made).path
    uids: list[str] = []
    sizes: list[int] = []
    for shard in sorted(folder.glob("*.tar")):
        index = pl.read_parquet(folder / "index" / f"{shard.stem}.parquet")
        assert index.schema == INDEX_SCHEMA
        data = shard.read_bytes()
        sizes.append(len(index))
        for row in index.iter_rows(named=True):
            part = data[row["offset"] : row["offset"] + row["length"]]
            with tarfile.open(fileobj=io.BytesIO(part + b"\0" * 1024)) as archive:  # the range alone is a whole tar
                members = {name.partition(".")[2]: archive.extractfile(name) for name in archive.getnames()}
                content = {suffix: file.read() for suffix, file in members.items() if file}
            assert set(content) == {"webp", "txt", "json"}
            assert json.loads(content["json"])["uid"] == row["uid"]
            assert Image.open(io.BytesIO(content["webp"])).mode == "RGB"
            uids.append(row["uid"])
    assert len(uids) == made.num_samples
    assert len(set(uids)) == made.num_unique
    assert max(sizes) - min(sizes) <= 1


def test_open_clips_reader_sees_every_trusted_pair(tmp_path: Path) -> None:
    import webdataset as wds

    store = Store(Folder(tmp_path))
    made = build_trusted(TrustedSpec(captions_per_drawing=1, num_shards=2), store=store)
    urls = sorted(str(path) for path in store.folder(made).path.glob("*.tar"))
    data = (
        wds.WebDataset(urls, shardshuffle=False)
        .decode("pil")
        .rename(image="jpg;png;jpeg;webp", text="txt")
        .to_tuple("image", "text")
    )
    pairs = list(data)
    assert len(pairs) == made.num_samples
    openings = tuple(template.partition("{")[0] for template in TRUSTED_TEMPLATES if not template.startswith("{"))
    assert sum(text.startswith(openings) for _, text in pairs) > len(pairs) / 2
