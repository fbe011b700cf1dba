"""Sets in the forms that users of the reference have on disk: table and archive, rows of `datasets`, its downloads."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from datacomp_core.evaluation.custom import TaskRow
from datacomp_core.evaluation.evaluate import EvalSpec, FailedTasksError, evaluate_folder, suite_in
from datacomp_core.evaluation.own_sets import bring_own_sets
from datacomp_core.evaluation.report import Report
from datacomp_core.store import Folder, Store
from flows.own_tasks import OwnTasks

FLICKR, WINO = "retrieval/flickr_1k_test_image_text_retrieval", "misc/winogavil"
NAMES = {FLICKR: "flickr_1k_test_image_text_retrieval", WINO: "winogavil"}
PICTURES = {f"p{n}.jpg": n for n in range(12)}
CAPTIONS = [[f"a picture of number {n}", f"number {n}, again"] for n in range(12)]
INSTANCES = [
    ("bread", [f"p{n}" for n in range(10)], ["p1", "p3"]),
    ("apple", [f"p{n}" for n in range(2, 12)], ["p4", "p11"]),
    ("sea", [f"p{n}" for n in range(5)], ["p0"]),
]


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def csv_of(task: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    if task == FLICKR:
        writer.writerow(["raw", "sentids", "split", "filename", "img_id"])
        writer.writerows(
            [json.dumps(own), "[]", "test", name, n] for (name, n), own in zip(PICTURES.items(), CAPTIONS, strict=True)
        )
    else:
        writer.writerow(["cue", "candidates", "associations"])
        writer.writerows([cue, str(candidates), str(right)] for cue, candidates, right in INSTANCES)
    return text.getvalue().encode()


def zip_of() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, seed in PICTURES.items():
            archive.writestr(f"images/{name}", picture(seed))
    return buffer.getvalue()


def as_on_the_hub(data: Path) -> None:
    for task, name in NAMES.items():
        (data / name).mkdir(parents=True)
        (data / name / "table.csv").write_bytes(csv_of(task))
        (data / name / "images.zip").write_bytes(zip_of())


def as_rows(data: Path, *, whole: bool) -> None:
    """What `datasets` builds: rows with the pictures' bytes, or with the paths of what it extracted."""
    cache = data / "hf_cache"
    extracted = cache / "downloads/extracted/0abc/images"
    extracted.mkdir(parents=True)
    for name, seed in PICTURES.items():
        (extracted / name).write_bytes(picture(seed))

    def shown(name: str) -> dict[str, Any]:
        path = extracted / name
        return {"bytes": path.read_bytes(), "path": name} if whole else {"bytes": None, "path": str(path)}

    rows: dict[str, list[dict[str, Any]]] = {
        FLICKR: [{"image": shown(name), "caption": own, "filename": name} for name, own in zip(PICTURES, CAPTIONS, strict=True)],
        WINO: [
            {"candidates": c, "cue": cue, "associations": right, "candidate_images": [shown(f"{name}.jpg") for name in c]}
            for cue, c, right in INSTANCES
        ],
    }
    for task, found in rows.items():
        home = cache / f"nlphuji___{NAMES[task]}/TEST/1.1.0/0123abcd"
        home.mkdir(parents=True)
        table = pa.Table.from_pylist(found)
        with pa.ipc.new_stream(str(home / f"{NAMES[task]}-test.arrow"), table.schema) as stream:
            stream.write_table(table)
        (home / "dataset_info.json").write_text("{}")


def as_downloads(data: Path) -> None:
    home = data / "hf_cache/downloads"
    home.mkdir(parents=True)
    for number, (task, name) in enumerate(NAMES.items()):
        for kind, content in (("csv", csv_of(task)), ("zip", zip_of())):
            stem = f"{number}{kind}ab.cd"
            (home / stem).write_bytes(content)
            url = f"https://hub/datasets/nlphuji/{name}/resolve/main/x.{kind}"
            (home / f"{stem}.json").write_text(json.dumps({"url": url, "etag": '"e"'}))
        (home / f"{number}script.py.json").write_text(json.dumps({"url": f"https://hub/nlphuji/{name}.py", "etag": None}))


def in_cache(data: Path, form: str) -> None:
    """The sets in one of the forms that the cache has."""
    if form == "downloads":
        as_downloads(data)
    else:
        as_rows(data, whole=form == "bytes")


def scores(data: Path, out: Path, **how: Any) -> tuple[dict[str, dict[str, float | None]], Report]:
    spec = EvalSpec(**{"suite": "datacomp", "tasks": (FLICKR, WINO), "expected": "any", **how})
    torch.manual_seed(0)  # the model's weights are drawn
    made = evaluate_folder(model="datacomp-tiny", data=str(data), out=str(out), spec=spec)
    return {task.key: task.metrics for task in made.tasks}, made


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float | None]]:
    home = tmp_path_factory.mktemp("hub")
    as_on_the_hub(home / "data")
    return scores(home / "data", home / "out")[0]


@pytest.mark.parametrize("form", ["paths", "bytes", "downloads"])
def test_every_form_gives_the_scores_of_table_and_archive(form: str, expected: dict[str, Any], tmp_path: Path) -> None:
    in_cache(tmp_path / "data", form)
    assert suite_in(Folder(tmp_path / "data")) == "datacomp"
    shutil.move(tmp_path / "data", tmp_path / "moved")
    found, _ = scores(tmp_path / "moved", tmp_path / "out")
    assert found == expected


@pytest.mark.parametrize("form", ["paths", "bytes", "downloads"])
def test_sets_of_the_cache_are_copied_into_the_store_whole(form: str, expected: dict[str, Any], tmp_path: Path) -> None:
    """The pictures of a set lie beside its folder, and the cache is gone when the copy is evaluated."""
    in_cache(tmp_path / "data", form)
    rows = tuple(
        TaskRow(key=f"mine/{protocol}", folder=f"hf_cache/nlphuji___{NAMES[task]}", protocol=protocol)
        for task, protocol in ((FLICKR, "retrieval"), (WINO, "winogavil"))
    )
    store, spec = Store.open(str(tmp_path / "store")), OwnTasks(tasks=rows, data=str(tmp_path / "data")).evalsets()
    made = bring_own_sets(spec, store=store)
    assert OwnTasks(tasks=rows, data=str(tmp_path / "data")).evalsets() == spec
    shutil.rmtree(tmp_path / "data")
    found, _ = scores(store.folder(made).path, tmp_path / "out", suite="custom", tasks=(), extra_tasks=rows)
    assert found == {"mine/retrieval": expected[FLICKR], "mine/winogavil": expected[WINO]}


def test_a_set_of_the_cache_needs_its_protocol(tmp_path: Path) -> None:
    as_rows(tmp_path, whole=True)
    row = TaskRow(key="mine/flickr", folder=f"hf_cache/nlphuji___{NAMES[FLICKR]}")
    with pytest.raises(ValidationError, match="is a set in the cache of `datasets`: add `protocol: retrieval or winogavil`"):
        OwnTasks(tasks=(row,), data=str(tmp_path))


def test_own_tasks_name_a_set_of_the_cache(expected: dict[str, Any], tmp_path: Path) -> None:
    as_rows(tmp_path, whole=False)
    row = TaskRow(key="mine/flickr", folder=f"hf_cache/nlphuji___{NAMES[FLICKR]}", protocol="retrieval")
    found, made = scores(tmp_path, tmp_path / "out", suite="custom", tasks=(), extra_tasks=(row,))
    assert found["mine/flickr"] == expected[FLICKR]
    assert made.own_average == expected[FLICKR]["mean_recall@1"]


def test_a_changed_picture_is_evaluated_again_and_a_missing_one_is_told(tmp_path: Path) -> None:
    as_rows(tmp_path, whole=False)
    before, _ = scores(tmp_path, tmp_path / "out", tasks=(FLICKR,))
    pictures = sorted((tmp_path / "hf_cache/downloads/extracted/0abc/images").iterdir())
    for path, other in zip(pictures, reversed(pictures), strict=True):
        path.with_suffix(".new").write_bytes(other.read_bytes())
    for path in pictures:
        path.with_suffix(".new").rename(path)
    after, _ = scores(tmp_path, tmp_path / "out", tasks=(FLICKR,))
    assert after != before
    pictures[3].unlink()
    with pytest.raises(FailedTasksError, match=rf"{FLICKR}: .*{pictures[3].name}"):
        scores(tmp_path, tmp_path / "out", tasks=(FLICKR,))
