"""Any one input of a command is changed in place, with its size and time kept, and the command is run again in the same folder.

What comes out must be what a fresh folder gives; or the folder is refused and the message names what has changed.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from datacomp_core import clip, shards
from datacomp_core.parts import SCHEMA
from datacomp_core.settings import settings
from datacomp_core.store import Folder
from deployments.cli.main import main

MODEL = "datacomp-tiny"
ROWS = 8
CLASSES = ("dog", "cat", "boat")
Command = Callable[..., tuple[int, str, str]]


def in_place(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file's bytes but not its size and time."""
    before, data = path.stat(), path.read_bytes()
    changed = change(data)
    assert changed != data
    path.write_bytes(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (48, 56, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def folder_of_open_clip(home: Path, seed: int) -> None:
    """As open_clip writes a model for the hub."""
    import open_clip
    from safetensors.torch import save_file

    home.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    weights = open_clip.create_model(MODEL, load_weights=False).state_dict()
    prepared = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {"model_cfg": open_clip.get_model_config(MODEL), "preprocess_cfg": prepared}
    (home / "open_clip_config.json").write_text(json.dumps(config))
    save_file({key: value.contiguous() for key, value in weights.items()}, home / "open_clip_model.safetensors")
    torch.save({"state_dict": weights}, home.parent / f"{home.name}.pt")


def write_set(home: Path) -> None:
    (home / "test").mkdir(parents=True)
    (home / "classnames.txt").write_text("\n".join(CLASSES))
    (home / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na {c}\n")
    (home / "test/nshards.txt").write_text("1")
    with tarfile.open(home / "test/0.tar", "w") as tar:
        for number in range(ROWS):
            for extension, data in (("cls", str(number % len(CLASSES)).encode()), ("jpg", jpeg(100 + number))):
                info = tarfile.TarInfo(f"s{number:04d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_world(tmp_path_factory.mktemp("made"))


def made_world(home: Path) -> Path:
    """metadata/, shards/, features/, sets/, tasks.yaml and two models of one architecture."""
    torch.set_num_threads(1)
    clip.register()
    for seed, name in enumerate(("model", "other")):
        folder_of_open_clip(home / name, seed)
    write_set(home / "sets/mine")
    (home / "tasks.yaml").write_text("- {key: mine/mine, folder: mine}\n")
    names, captions = [f"{row:032x}" for row in range(ROWS)], [f"thing number {row}" for row in range(ROWS)]
    table = pl.DataFrame({"uid": names, "text": captions}).with_columns(
        pl.lit(None, dtype=kind).alias(name) for name, kind in SCHEMA.items() if name not in ("uid", "text")
    )
    (home / "metadata").mkdir()
    table.select(SCHEMA.names()).write_parquet(home / "metadata/00000000.parquet", compression="uncompressed", statistics=False)
    out = Folder(home / "shards")
    with out.writing("00000000.tar") as path, path.open("wb") as file:
        writer = shards.ShardWriter(file, "00000000")
        for row in range(ROWS):
            writer.add(names[row], names[row], {"jpg": jpeg(row), "txt": captions[row].encode(), "json": b"{}"})
        shards.write_index(out, "00000000", writer.finish())
    (home / "features").mkdir()
    features(home / "features", 0)
    return home


def features(home: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    made = {side: random.normal(size=(ROWS, 8)).astype(np.float16) for side in ("l14_img", "l14_txt")}
    np.savez(home / "00000000.npz", **made)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "world"))


@pytest.fixture
def datacomp(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    monkeypatch.setenv("DATACOMP_WORKERS", "1")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["datacomp", *map(str, arguments)])
        settings.cache_clear()
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(str(ended.value.code)), *capfd.readouterr()

    yield call
    settings.cache_clear()


def evaluate(datacomp: Command, world: Path, out: Path, *, model: str = "folder") -> Any:
    chosen = ("--model", world / "model") if model == "folder" else ("--model", MODEL, "--checkpoint", world / "model.pt")
    places = ("--data", world / "sets", "--out", out, "--add-tasks", world / "tasks.yaml")
    status, _, problem = datacomp("evaluate", *chosen, *places, "--json")
    assert status == 0, problem
    report = json.loads((out / "report.json").read_text())
    lines = [
        {key: value for key, value in task.items() if key != "seconds"} for task in report["tasks"]
    ]  # a clock is no number of the model's
    with np.load(out / "predictions/mine-mine.npz") as kept:
        return lines, {name: kept[name].tolist() for name in kept.files}


def embed(datacomp: Command, world: Path, out: Path) -> Any:
    places = ("--metadata", world / "metadata", "--shards", world / "shards", "--out", out)
    status, told, problem = datacomp("embed", *places, "--encoder", f"mine={world}/model", "--json")
    if status:
        assert status == 2
        return problem.replace("\n", " ")
    scores = pl.read_parquet(out / "scores/00000000.parquet").rows()
    return scores, (out / "features/00000000.npz").read_bytes(), told


def filtered(datacomp: Command, world: Path, out: Path) -> Any:
    places = ("--metadata", world / "metadata", "--features", world / "features", "--by-position", "--keep-scores", out)
    status, _told, problem = datacomp("filter", *places, "--recipe", "neg_clip_loss", "--out", world / "subset.npy", "--json")
    assert status == 0, problem
    return np.load(world / "subset.npy").tolist()


def settings_of(world: Path, change: Callable[[Any], None]) -> None:
    path = world / "model/open_clip_config.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


CHANGES: dict[str, Callable[[Path], None]] = {
    "weights": lambda world: shutil.copyfile(
        world / "other/open_clip_model.safetensors", world / "model/open_clip_model.safetensors"
    ),
    "mean": lambda world: settings_of(world, lambda found: found["preprocess_cfg"].update(mean=[0.1, 0.9, 0.2])),
    "resizing": lambda world: settings_of(world, lambda found: found["preprocess_cfg"].update(resize_mode="squash")),
    "activation": lambda world: settings_of(world, lambda found: found["model_cfg"].update(quick_gelu=True)),
    "tokenizer": lambda world: settings_of(
        world, lambda found: found["model_cfg"]["text_cfg"].update(tokenizer_kwargs={"clean": "canonicalize"})
    ),
}
SETS: dict[str, Callable[[Path], None]] = {
    "a label": lambda world: in_place(world / "sets/mine/test/0.tar", lambda data: data[:512] + b"2" + data[513:]),
    "a class name": lambda world: in_place(world / "sets/mine/classnames.txt", lambda data: data.replace(b"cat", b"cow")),
    "a template": lambda world: in_place(
        world / "sets/mine/zeroshot_classification_templates.txt", lambda data: data.replace(b"photo", b"paint")
    ),
}
POOL: dict[str, Callable[[Path], None]] = {
    "metadata": lambda world: in_place(
        world / "metadata/00000000.parquet", lambda data: data.replace(b"thing number 3", b"a photo of dog")
    ),
    "shards": lambda world: in_place(world / "shards/00000000.tar", swapped),
}
SLOW = pytest.mark.slow


def swapped(data: bytes) -> bytes:
    """The tar with the pixels of one picture changed: a byte in the midst of its scan."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        info = next(member for member in tar if member.name.endswith(".jpg"))
    place = info.offset_data + info.size // 2
    return data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :]


def quick(names: dict[str, Any], *fast: str) -> list[Any]:
    """All of them, those that are not `fast` in `make test-all` only."""
    return [pytest.param(name, marks=() if name in fast else (SLOW,), id=name) for name in names]


@pytest.mark.parametrize("what", quick(CHANGES | SETS, "mean", "a label"))
def test_evaluation_follows_every_input(datacomp: Command, world: Path, what: str) -> None:
    before = evaluate(datacomp, world, world / "out")
    (CHANGES | SETS)[what](world)
    again, fresh = evaluate(datacomp, world, world / "out"), evaluate(datacomp, world, world / "fresh")
    assert again == fresh
    assert again != before


@pytest.mark.parametrize("what", quick(CHANGES | POOL, "tokenizer", "shards"))
def test_embedding_is_refused_with_the_name_of_what_has_changed(datacomp: Command, world: Path, what: str) -> None:
    before = embed(datacomp, world, world / "out")
    assert embed(datacomp, world, world / "out") == before, "nothing has changed"
    (CHANGES | POOL)[what](world)
    told = embed(datacomp, world, world / "out")
    named = {"weights": "weights", "metadata": "00000000.parquet has changed", "shards": "00000000.tar has changed"}
    assert "was started with another" in told
    assert named.get(what, "open_clip_config.json") in told
    fresh = embed(datacomp, world, world / "fresh")
    assert not isinstance(fresh, str), "the changed input itself is good"


def test_two_encoders_of_one_architecture_are_known_by_their_own_weights(datacomp: Command, world: Path) -> None:
    places = ("--metadata", world / "metadata", "--shards", world / "shards", "--out", world / "out")
    encoders = [f"a={MODEL}@{world}/model.pt", f"b={MODEL}@{world}/other.pt"]
    both = [part for one in encoders for part in ("--encoder", one)]
    assert datacomp("embed", *places, *both)[0] == 0
    shutil.copyfile(world / "other.pt", world / "model.pt")
    status, _, problem = datacomp("embed", *places, *both)
    assert (status, "models (a (weights))" in problem.replace("\n", " ")) == (2, True)


@pytest.mark.parametrize("what", ["in place", "another folder"])
def test_kept_scores_follow_their_features(datacomp: Command, world: Path, what: str) -> None:
    before = filtered(datacomp, world, world / "kept")
    path = world / "features/00000000.npz"
    stat = path.stat()
    if what == "another folder":
        shutil.move(world / "features", world / "first")
        (world / "features").mkdir()
    features(world / "features", 7)
    assert path.stat().st_size == stat.st_size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = filtered(datacomp, world, world / "kept")
    assert again == filtered(datacomp, world, world / "fresh")
    assert again != before


def resharded(datacomp: Command, world: Path, out: Path) -> Any:
    status, _told, problem = datacomp(
        "reshard", "--shards", world / "shards", "--subset", world / "subset.npy", "--out", out, "--json"
    )
    return problem.replace("\n", " ") if status else {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


@pytest.mark.parametrize("what", ["shards", "subset"])
def test_a_reshard_is_refused_with_the_name_of_what_has_changed(datacomp: Command, world: Path, what: str) -> None:
    filtered(datacomp, world, world / "kept")
    before = resharded(datacomp, world, world / "out")
    assert resharded(datacomp, world, world / "out") == before, "nothing has changed"
    if what == "shards":
        POOL["shards"](world)
    else:
        in_place(world / "subset.npy", lambda data: data[:-16] + bytes(8) + (ROWS + 1).to_bytes(8, "little"))
    told = resharded(datacomp, world, world / "out")
    assert isinstance(told, str), "the earlier shards were taken for those of the changed input"
    assert {"shards": "shards_content", "subset": "subset_sha256"}[what] in told
    if what == "shards":
        fresh = resharded(datacomp, world, world / "fresh")
        assert not isinstance(fresh, str)
        assert fresh != before


def test_features_whose_norm_overflows_are_no_features(datacomp: Command, world: Path) -> None:
    """float32 divides such a vector by infinity: all of it is 0, and its cosine with everything would be 0."""
    from safetensors.torch import load_file, save_file

    path = world / "model/open_clip_model.safetensors"
    weights = load_file(path)
    weights["text_projection"][:, 3] *= 1e37
    save_file(weights, path)
    scores, features, told = embed(datacomp, world, world / "out")
    assert json.loads(told)["not_finite"] == ROWS
    assert {score for _, score in scores} == {None}
    assert np.isnan(np.load(io.BytesIO(features))["mine_txt"]).all()


def test_device_that_is_not_there_is_one_sentence(datacomp: Command, world: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    sets = ("--data", world / "sets", "--out", world / "out", "--add-tasks", world / "tasks.yaml")
    status, _, problem = datacomp("evaluate", "--model", world / "model", *sets, "--device", "cuda")
    assert (status, "torch finds no CUDA device" in problem.replace("\n", " ")) == (2, True)
    assert "Traceback" not in problem


# What a command wrote earlier is not whole any more ------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["features/00000000.npz", "tally/00000000.json", "scores/00000000.parquet"])
def test_a_file_of_an_embedding_that_is_gone_is_made_again(datacomp: Command, world: Path, lost: str) -> None:
    before = embed(datacomp, world, world / "out")
    (world / "out" / lost).unlink()
    assert embed(datacomp, world, world / "out") == before


def test_an_embedding_without_its_record_is_not_taken(datacomp: Command, world: Path) -> None:
    embed(datacomp, world, world / "out")
    (world / "out/request.json").unlink()
    CHANGES["weights"](world)
    told = embed(datacomp, world, world / "out")
    assert "scores/ and no request.json" in told


def test_a_shard_of_a_reshard_that_is_gone_is_written_again(datacomp: Command, world: Path) -> None:
    filtered(datacomp, world, world / "kept")
    before = resharded(datacomp, world, world / "out")
    for lost in ("00000000.tar", "index/00000000.parquet"):
        (world / "out" / lost).unlink()
        assert resharded(datacomp, world, world / "out") == before
        assert (world / "out" / lost).is_file()


@pytest.mark.parametrize("cut", ["00000000.tar", "index/00000000.parquet", "00000000_stats.json"])
@pytest.mark.parametrize("left", [0, 700])
def test_a_file_of_a_reshard_that_was_cut_short_is_written_again(datacomp: Command, world: Path, cut: str, left: int) -> None:
    filtered(datacomp, world, world / "kept")
    before = resharded(datacomp, world, world / "out")
    whole = (world / "out" / cut).read_bytes()
    if left >= len(whole):
        return
    os.truncate(world / "out" / cut, left)
    assert resharded(datacomp, world, world / "out") == before
    assert (world / "out" / cut).read_bytes() == whole


def test_lost_predictions_and_damaged_classifiers_are_made_again(datacomp: Command, world: Path) -> None:
    before = evaluate(datacomp, world, world / "out")
    (world / "out/predictions/mine-mine.npz").unlink()
    assert evaluate(datacomp, world, world / "out") == before
    (kept,) = (world / "out/classifiers").glob("*.npy")
    right = np.load(kept)
    for damaged in (np.full_like(right, np.nan), right * 2, right[:, :2], right[:1]):
        np.save(kept, damaged)
        (world / "out/tasks/mine-mine.json").unlink()
        assert evaluate(datacomp, world, world / "out") == before
        np.testing.assert_array_equal(np.load(kept), right)


# Columns of odd types ------------------------------------------------------------------------------------------------


def with_columns(world: Path, **columns: pl.Series) -> None:
    path = world / "metadata/00000000.parquet"
    pl.read_parquet(path).with_columns(**columns).write_parquet(path)


def test_an_embedding_reads_columns_of_one_meaning(datacomp: Command, world: Path) -> None:
    before = embed(datacomp, world, world / "out")
    table = pl.read_parquet(world / "metadata/00000000.parquet")
    uids = [bytes.fromhex(one) for one in table["uid"]]
    texts = [one.encode() for one in table["text"]]
    with_columns(world, uid=pl.Series(uids), text=pl.Series(texts))
    assert embed(datacomp, world, world / "bytes") == before
    with_columns(world, uid=table["uid"].cast(pl.Categorical), text=table["text"].cast(pl.Categorical))
    assert embed(datacomp, world, world / "encoded") == before


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("text", list(range(ROWS)), "contains Int64, not text"),
        ("text", [["a"]] * ROWS, "contains List(String), not text"),
        ("uid", list(range(ROWS)), "contains Int64, not uids: write 32 hex digits"),
    ],
)
def test_an_embedding_refuses_other_columns(datacomp: Command, world: Path, name: str, values: list[Any], told: str) -> None:
    with_columns(world, **{name: pl.Series(values)})
    places = ("--metadata", world / "metadata", "--shards", world / "shards", "--out", world / "out")
    status, _, problem = datacomp("embed", *places, "--encoder", f"mine={world}/model", "--json")
    assert (status, told in problem.replace("\n", " "), "Traceback" in problem) == (1, True, False), problem


@pytest.mark.parametrize("device", ["cuda:*", ",", "cpu,,cpu", "gpu"])
@pytest.mark.parametrize("command", ["embed", "evaluate"])
def test_a_device_that_cannot_be_meant_is_one_sentence(datacomp: Command, world: Path, command: str, device: str) -> None:
    if torch.cuda.is_available() and device == "cuda:*":
        pytest.skip("this machine has a CUDA device")
    if command == "embed":
        given = ("--metadata", world / "metadata", "--shards", world / "shards", "--encoder", f"mine={world}/model")
    else:
        given = ("--model", world / "model", "--data", world / "sets", "--add-tasks", world / "tasks.yaml")
    status, _, problem = datacomp(command, *given, "--out", world / "out", "--device", device)
    assert (status, "evice" in problem, "Traceback" in problem) == (2, True, False), problem
