"""Kept results that need a model of pictures, `--trust-times`, models that lie on the hub, and pictures of odd formats."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from test_cli_stale import MODEL, Command, datacomp, in_place, made, swapped, world  # noqa: F401  # fixtures

from datacomp_core import clip, shards
from datacomp_core.parts import SCHEMA
from datacomp_core.store import Folder

NOWHERE = "http://127.0.0.1:9"


def written(number: int) -> Image.Image:
    """A picture with words in it, which the detector finds."""
    picture = Image.fromarray(np.random.default_rng(number).integers(90, 120, (96, 224, 3), dtype=np.uint8))
    ImageDraw.Draw(picture).text((20, 30), f"BUY {number} SHOES", fill=(255, 255, 255), font=ImageFont.load_default(26))
    return picture


def saved(picture: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form)
    return buffer.getvalue()


def pool_of(home: Path, pictures: list[bytes]) -> list[str]:
    """metadata/ and shards/ of some pictures; their uids."""
    names = [f"{row:032x}" for row in range(len(pictures))]
    table = pl.DataFrame({"uid": names, "text": [f"thing number {row}" for row in range(len(pictures))]}).with_columns(
        pl.lit(None, dtype=kind).alias(name) for name, kind in SCHEMA.items() if name not in ("uid", "text")
    )
    (home / "metadata").mkdir(parents=True)
    table.select(SCHEMA.names()).write_parquet(home / "metadata/00000000.parquet")
    out = Folder(home / "shards")
    with out.writing("00000000.tar") as path, path.open("wb") as file:
        writer = shards.ShardWriter(file, "00000000")
        for name, data in zip(names, pictures, strict=True):
            writer.add(name, name, {"jpg": data, "txt": b"a caption", "json": b"{}"})
        shards.write_index(out, "00000000", writer.finish())
    return names


# An overwritten checkpoint -------------------------------------------------------------------------------------------


def masked(datacomp: Command, world: Path, kept: Path) -> list[float]:  # noqa: F811
    """The kept scores of words covered, in order of row."""
    places = ("--metadata", world / "words/metadata", "--shards", world / "words/shards", "--keep-scores", kept)
    model = ("--model", MODEL, "--checkpoint", world / "model.pt")
    (world / "best.yaml").write_text("filter: {kind: top_fraction, score: text_masked, fraction: 0.5}")
    status, told, problem = datacomp(
        "filter", *places, *model, "--recipe", world / "best.yaml", "--out", world / "s.npy", "--json"
    )
    assert status == 0, problem
    assert json.loads(told)["num_samples"] > 0
    newest = max(kept.glob("text_masked--*/scores/00000000.parquet"), key=lambda path: path.stat().st_mtime_ns)
    return pl.read_parquet(newest)["text_masked"].to_list()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["in place", "another file"])
def test_a_score_of_pictures_follows_an_overwritten_checkpoint(
    datacomp: Command,  # noqa: F811
    world: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    pool_of(world / "words", [saved(written(number)) for number in range(4)])
    before = masked(datacomp, world, world / "kept")
    assert masked(datacomp, world, world / "kept") == before, "nothing has changed"
    assert len(list((world / "kept").glob("text_masked--*"))) == 1
    if how == "in place":
        other = (world / "other.pt").read_bytes()
        assert len(other) == (world / "model.pt").stat().st_size
        in_place(world / "model.pt", lambda _: other)
    else:
        os.replace(world / "other.pt", world / "model.pt")
    again = masked(datacomp, world, world / "kept")
    assert "text_masked is computed again: checkpoint" in caplog.text
    fresh = masked(datacomp, world, world / "fresh")
    assert again == fresh
    assert not np.allclose(again, before)


# --trust-times -------------------------------------------------------------------------------------------------------


def test_trusted_times_take_what_has_its_size_and_time_and_nothing_else(datacomp: Command, world: Path) -> None:  # noqa: F811
    """The option does what it says for each command, and only when it is given."""
    trusted = ("--trust-times",)
    sets = (
        "--data",
        world / "sets",
        "--add-tasks",
        world / "tasks.yaml",
        "--model",
        world / "model",
        "--out",
        world / "e",
        "--json",
    )
    features = (
        "--metadata",
        world / "metadata",
        "--features",
        world / "features",
        "--by-position",
        "--keep-scores",
        world / "kept",
    )
    chosen = (*features, "--recipe", "neg_clip_loss", "--out", world / "subset.npy", "--json")

    def scores(*more: str) -> list[Any]:
        assert datacomp("filter", *chosen, *more)[0] == 0
        return np.load(world / "subset.npy").tolist()

    def labels(*more: str) -> Any:
        assert datacomp("evaluate", *sets, *more)[0] == 0
        return json.loads((world / "e/report.json").read_text())["tasks"][0]["analysis"]["worst_classes"]

    subset, right = scores(), labels()
    other = world / "others.npz"
    from test_cli_stale import features as write_features

    (world / "f2").mkdir()
    write_features(world / "f2", 7)
    shutil.move(world / "f2/00000000.npz", other)
    in_place(world / "features/00000000.npz", lambda _: other.read_bytes())
    in_place(world / "sets/mine/test/0.tar", lambda data: data[:512] + b"2" + data[513:])
    assert (scores(*trusted), labels(*trusted)) == (subset, right), "size and time are the same, and they are trusted"
    assert scores() != subset
    assert labels() != right
    after = scores(), labels()
    os.utime(world / "features/00000000.npz")
    os.utime(world / "sets/mine/test/0.tar")
    assert (scores(*trusted), labels(*trusted)) == after, "another time: the content is read, and it is as before"


def test_an_embedding_with_trusted_times(datacomp: Command, world: Path) -> None:  # noqa: F811
    call = ("embed", "--metadata", world / "metadata", "--shards", world / "shards", "--encoder", f"mine={world}/model")
    where = ("--out", world / "out", "--json")
    assert datacomp(*call, *where)[0] == 0
    in_place(world / "shards/00000000.tar", lambda data: data.replace(b"thing number 3", b"thing number 5"))
    assert datacomp(*call, *where, "--trust-times")[0] == 0
    status, _, problem = datacomp(*call, *where)
    assert (status, "00000000.tar has changed" in problem.replace("\n", " ")) == (2, True)
    os.utime(world / "shards/00000000.tar")
    status, _, problem = datacomp(*call, *where, "--trust-times")
    assert (status, "00000000.tar has changed" in problem.replace("\n", " ")) == (2, True)


# Models that lie on the hub ------------------------------------------------------------------------------------------


def named_in(world: Path, text: dict[str, str]) -> Path:  # noqa: F811
    """The configuration of the model, with other settings of its text tower."""
    found = json.loads((world / "model/open_clip_config.json").read_text())
    found["model_cfg"]["text_cfg"] |= text
    (world / "named.json").write_text(json.dumps(found))
    return world / "named.json"


HUB: dict[str, tuple[dict[str, str] | str, str]] = {
    "a tokenizer": ({"hf_tokenizer_name": "nobody/knows"}, "reads tokenizer_config.json of nobody/knows, which is not on this"),
    "a tower": (
        {"hf_model_name": "nobody/knows", "hf_proj_type": "mlp"},
        "reads config.json of nobody/knows, which is not on this",
    ),
    "a known tower": ("roberta-ViT-B-32", "roberta-ViT-B-32 reads config.json of roberta-base, which is not on this machine"),
    "a known tokenizer": ("ViT-B-16-SigLIP", "reads tokenizer_config.json of timm/ViT-B-16-SigLIP, which is not on this machine"),
}


@pytest.mark.parametrize("command", ["evaluate", "embed"])
@pytest.mark.parametrize("what", list(HUB))
def test_a_model_with_parts_on_the_hub_is_one_sentence_at_once(
    datacomp: Command,  # noqa: F811
    world: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    command: str,
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    given, told = HUB[what]
    model = given if isinstance(given, str) else str(named_in(world, given))
    if command == "evaluate":
        named = ("--model", model) if isinstance(given, str) else ("--config", model)
        sets = ("--data", world / "sets", "--out", world / "out", "--add-tasks", world / "tasks.yaml")
        status, _, problem = datacomp("evaluate", *named, "--checkpoint", world / "model.pt", *sets)
    else:
        pool = ("--metadata", world / "metadata", "--shards", world / "shards", "--out", world / "out")
        status, _, problem = datacomp("embed", *pool, "--encoder", f"mine={model}@{world}/model.pt")
    sentence = problem.replace("\n", " ")
    assert (status, told in sentence, "hf download" in sentence, "Traceback" in problem) == (1, True, True, False), problem
    assert sum(naps) < 1, "nothing was waited for"


@pytest.mark.parametrize("model", ["hf-hub:nobody/knows", "ViT-B-32/datacomp_xl_s13b_b90k"])
def test_a_released_model_without_a_network_is_one_sentence_at_once(
    datacomp: Command,  # noqa: F811
    world: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    model: str,
) -> None:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    sets = ("--data", world / "sets", "--out", world / "out", "--add-tasks", world / "tasks.yaml")
    status, _, problem = datacomp("evaluate", "--model", model, *sets)
    assert (status, "check the network, or name a mirror in HF_ENDPOINT" in problem.replace("\n", " ")) == (1, True)
    assert sum(naps) < 1, "nothing was waited for"


def test_a_configuration_takes_the_tokenizer_that_it_names(datacomp: Command, world: Path) -> None:  # noqa: F811
    """One in a folder of this machine, beside a configuration that is a file alone: other tokens, so other features."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "thing": 4, "number": 5} | {str(n): 6 + n for n in range(10)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    fast.save_pretrained(world / "tokenizer")
    config = named_in(world, {"hf_tokenizer_name": str(world / "tokenizer")})
    places = ("--metadata", world / "metadata", "--shards", world / "shards", "--out", world / "out")
    status, _, problem = datacomp("embed", *places, "--encoder", f"mine={config}@{world}/model.pt", "--json")
    assert status == 0, problem
    model = clip.load(MODEL, world / "model.pt", "cpu")
    length = int(clip.config_of(MODEL)["text_cfg"].get("context_length", 77))
    with torch.no_grad():
        tokens = fast(["thing number 3"], padding="max_length", max_length=length, return_tensors="pt")["input_ids"]
        want = model.encode_tokens(tokens)[0].numpy()
    with np.load(world / "out/features/00000000.npz") as found:
        np.testing.assert_allclose(found["mine_txt"][3].astype(np.float32), want, atol=2e-3)
    (world / "tokenizer/tokenizer.json").write_text(
        (world / "tokenizer/tokenizer.json").read_text().replace('"number": 5', '"numbers": 5')
    )
    status, _, problem = datacomp("embed", *places, "--encoder", f"mine={config}@{world}/model.pt", "--json")
    assert (status, "tokenizer.json" in problem.replace("\n", " ")) == (2, True), "the tokenizer's files are part of the request"


# Pictures of odd formats ---------------------------------------------------------------------------------------------


def odd_pictures() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Those that can be read and those that cannot, by what they are."""
    picture = Image.fromarray(np.random.default_rng(5).integers(0, 255, (40, 44, 3), dtype=np.uint8))
    good = {
        form: saved(picture, form) for form in ("JPEG", "PNG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
    }
    good["grey with alpha"] = saved(picture.convert("LA"))
    bad = {f"half a {form}": data[: len(data) // 3] for form, data in good.items() if form in ("TIFF", "GIF", "WEBP", "AVIF")}
    bad |= {form: saved(picture, form) for form in ("DDS", "TGA", "PCX", "ICO", "EPS")}  # no format of pictures on the web
    bad["dds of an unknown format"] = bad["DDS"][:80] + struct.pack("<I", 4) + b"ZZZZ" + bad["DDS"][88:]  # NotImplementedError
    bad["ppm without a number"] = b"P6\n40 x\n255\n" + bytes(40)  # ValueError
    bad["psd of no layers"] = b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 40, 44, 8, 3) + bytes(12)
    bad["ftex of an unknown format"] = b"FTEX" + struct.pack("<7I", 1, 44, 40, 1, 1, 0, 100)
    bad["blp of an unknown encoding"] = b"BLP2" + bytes([1, 0, 0, 0, 9, 1, 0, 0]) + struct.pack("<II", 44, 40) + bytes(40)
    bad["gbr of an unknown version"] = struct.pack(">5I", 20, 1, 0, 4, 3) + b"x"
    bad["svg"] = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    bad["nothing"] = b""
    return good, bad


def test_pictures_of_odd_formats_are_counted_and_the_others_are_embedded(datacomp: Command, world: Path) -> None:  # noqa: F811
    good, bad = odd_pictures()
    pool_of(world / "odd", [*good.values(), *bad.values()])
    places = ("--metadata", world / "odd/metadata", "--shards", world / "odd/shards", "--out", world / "odd/out")
    status, told, problem = datacomp("embed", *places, "--encoder", f"mine={world}/model", "--json")
    assert status == 0, problem
    counts = json.loads(told)
    assert (counts["rows"], counts["embedded"], counts["corrupt_image"]) == (len(good) + len(bad), len(good), len(bad))
    scores = pl.read_parquet(world / "odd/out/scores/00000000.parquet")["clip_mine_similarity_score"].to_list()
    assert [score is not None for score in scores] == [True] * len(good) + [False] * len(bad)
    assert "Traceback" not in problem


# A training that was interrupted --------------------------------------------------------------------------------------


def test_an_interrupted_training_goes_on_with_what_it_began_with_and_nothing_else(
    datacomp: Command,  # noqa: F811
    world: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is killed as soon as it has written what it is made from; then one input after the other is changed."""
    call = ["train", "--data", str(world / "shards"), "--out", str(world / "trained")]
    program = str(Path(sys.executable).with_name("datacomp"))
    with subprocess.Popen([program, *call], start_new_session=True, stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + 300
        while not (world / "trained/request.json").is_file() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGKILL)
    assert (world / "trained/request.json").is_file()

    def told(*more: object) -> str:
        status, _, problem = datacomp(*call, *more)
        assert (status, "was started with another" in problem.replace("\n", " ")) == (2, True), problem
        return problem.replace("\n", " ")

    tar, index = world / "shards/00000000.tar", world / "shards/index/00000000.parquet"
    for path, change in ((tar, swapped), (index, lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:])):
        data, stat = path.read_bytes(), path.stat()
        in_place(path, change)
        assert f"{path.name} has changed" in told()
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "another seed" in told("--seed", 1)
    assert "tolerated_corrupt" in told("--tolerated", 0.5)
    assert "data_weights" in told("--weight", 2)
    from datacomp_core.training import train

    other = train.config_of(MODEL) | {"quick_gelu": True}
    monkeypatch.setattr(train, "config_of", lambda _: other)  # a release with another configuration of that name
    assert "model_configuration" in told()
