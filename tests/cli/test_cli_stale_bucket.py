"""As test_cli_stale, with inputs and results in a bucket: an object is replaced by another of the same size."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_cli_stale import ROWS, Command, datacomp, made, swapped, world  # noqa: F401  # fixtures
from test_cli_stale import features as write_features

from datacomp_core.store import Folder

pytestmark = [pytest.mark.s3, pytest.mark.slow]
Run = Callable[[str], Any]


def replace(there: Folder, name: str, change: Callable[[bytes], bytes]) -> None:
    data = there.read(name)
    changed = change(data)
    assert (len(changed), changed == data) == (len(data), False)
    there.write(name, changed)


@pytest.fixture
def bucket(world: Path, s3_url: str) -> Folder:  # noqa: F811
    there = Folder(s3_url)
    for path in sorted(world.rglob("*")):
        if path.is_file() and path.relative_to(world).parts[0] in ("metadata", "shards", "features", "sets"):
            there.write(str(path.relative_to(world)), path.read_bytes())
    return there


def refused(problem: str) -> str:
    return problem.replace("\n", " ")


@pytest.fixture
def commands(datacomp: Command, world: Path, bucket: Folder) -> dict[str, Run]:  # noqa: F811
    """Each command, from the bucket into a folder of it: what came out, or the sentence of a refusal."""

    def evaluate(out: str) -> Any:
        places = ("--data", bucket.at("sets"), "--out", bucket.at(out), "--add-tasks", world / "tasks.yaml")
        status, _, problem = datacomp("evaluate", "--model", world / "model", *places, "--json")
        assert status == 0, problem
        task = (bucket / out).read_json("report.json")["tasks"][0]
        with np.load(io.BytesIO((bucket / out).read("predictions/mine-mine.npz"))) as kept:
            return {name: kept[name].tolist() for name in kept.files}, task["data"], task["metrics"]

    def embed(out: str) -> Any:
        places = ("--metadata", bucket.at("metadata"), "--shards", bucket.at("shards"), "--out", bucket.at(out))
        status, _, problem = datacomp("embed", *places, "--encoder", f"mine={world}/model", "--json")
        if status:
            return refused(problem)
        scores = pl.read_parquet(io.BytesIO((bucket / out).read("scores/00000000.parquet"))).rows()
        return scores, (bucket / out).read("features/00000000.npz")

    def choose(out: str) -> Any:
        read = ("--metadata", bucket.at("metadata"), "--features", bucket.at("features"), "--by-position")
        places = (*read, "--keep-scores", bucket.at(out))
        subset = bucket.at("subset.npy")
        status, told, problem = datacomp("filter", *places, "--recipe", "neg_clip_loss", "--out", subset, "--json")
        assert status == 0, problem
        assert json.loads(told)["num_samples"] > 0
        return np.load(io.BytesIO(bucket.read("subset.npy"))).tolist()

    def reshard(out: str) -> Any:
        places = ("--shards", bucket.at("shards"), "--subset", bucket.at("subset.npy"), "--out", bucket.at(out))
        status, _, problem = datacomp("reshard", *places, "--json")
        if status:
            return refused(problem)
        return {name: (bucket / out).read(name) for name in (bucket / out).files(".tar")}

    return {"evaluate": evaluate, "embed": embed, "filter": choose, "reshard": reshard}


def other_features(_: bytes) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        write_features(Path(place), 7)
        return (Path(place) / "00000000.npz").read_bytes()


CASES: dict[str, tuple[str, str, Callable[[bytes], bytes], str]] = {
    "a label": ("evaluate", "sets/mine/test/0.tar", lambda data: data[:512] + b"2" + data[513:], ""),
    "a class name": ("evaluate", "sets/mine/classnames.txt", lambda data: data.replace(b"cat", b"cow"), ""),
    "metadata": (
        "embed",
        "metadata/00000000.parquet",
        lambda data: data.replace(b"thing number 3", b"a photo of dog"),
        "00000000.parquet has changed",
    ),
    "shards": ("embed", "shards/00000000.tar", swapped, "00000000.tar has changed"),
    "features": ("filter", "features/00000000.npz", other_features, ""),
    "tars": ("reshard", "shards/00000000.tar", swapped, "shards_content"),
    "the subset": (
        "reshard",
        "subset.npy",
        lambda data: data[:-16] + bytes(8) + (ROWS + 1).to_bytes(8, "little"),
        "subset_sha256",
    ),
}


@pytest.mark.parametrize("what", list(CASES))
def test_a_replaced_object_is_followed_or_named(commands: dict[str, Run], bucket: Folder, what: str) -> None:
    command, name, change, told = CASES[what]
    run = commands[command]
    if command == "reshard":
        commands["filter"]("kept")
    before = run("out")
    assert not isinstance(before, str), before
    assert run("out") == before, "nothing has changed"
    replace(bucket, name, change)
    again = run("out")
    if told:
        assert isinstance(again, str), "an earlier result was taken for that of the replaced object"
        assert told in again
        if what == "the subset":
            return
        assert run("fresh") != before
    else:
        assert again == run("fresh")
        assert again != before
