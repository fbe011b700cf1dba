"""`datacomp embed` and `datacomp train` on plain folders, as with the original tooling: no store, no experiment."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from conftest import free_port
from PIL import Image

from datacomp_core import clip, shards
from datacomp_core.parts import SCHEMA
from datacomp_core.settings import settings
from datacomp_core.store import Folder
from deployments.cli.main import main

MODEL = "datacomp-tiny"
SAMPLES = 12


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """metadata/, shards/ and weights.pt of a model that was never trained; the last row's image never arrived."""
    import open_clip

    names = [f"{row:032x}" for row in range(SAMPLES)]
    captions = [f"thing number {row}" for row in range(SAMPLES)]
    table = pl.DataFrame({"uid": names, "text": captions}).with_columns(
        pl.lit(None, dtype=kind).alias(name) for name, kind in SCHEMA.items() if name not in ("uid", "text")
    )
    (tmp_path / "metadata").mkdir()
    table.select(SCHEMA.names()).write_parquet(tmp_path / "metadata/00000000.parquet")
    out = Folder(tmp_path / "shards")
    with out.writing("00000000.tar") as path, path.open("wb") as file:
        writer = shards.ShardWriter(file, "00000000")
        for row in range(SAMPLES - 1):
            writer.add(names[row], names[row], {"jpg": picture(row), "txt": captions[row].encode(), "json": b"{}"})
        shards.write_index(out, "00000000", writer.finish())
    torch.manual_seed(3)
    clip.register()
    torch.save({"state_dict": open_clip.create_model(MODEL, load_weights=False).state_dict()}, tmp_path / "weights.pt")
    return tmp_path


def picture(row: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(row).integers(0, 255, (48, 56, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def scores_by_hand(world: Path) -> list[float]:
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(MODEL, load_weights=False)
    model.load_state_dict(torch.load(world / "weights.pt", weights_only=True)["state_dict"])
    pixels: Any = transform
    with torch.no_grad():
        texts = model.eval().encode_text(
            open_clip.get_tokenizer(MODEL)([f"thing number {n}" for n in range(SAMPLES - 1)]), normalize=True
        )
        images = torch.stack([pixels(Image.open(io.BytesIO(picture(row)))) for row in range(SAMPLES - 1)])
        return (model.encode_image(images, normalize=True) * texts).sum(dim=1).tolist()


def test_a_folder_is_embedded_by_a_checkpoint_and_a_second_call_finds_it_done(
    world: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATACOMP_WORKERS", "1")

    def datacomp(encoder: str) -> tuple[int, str, str]:
        places = [f"--{name}={world / name}" for name in ("metadata", "shards", "out")]
        monkeypatch.setattr(sys, "argv", ["datacomp", "embed", *places, f"--encoder={encoder}", "--json"])
        settings.cache_clear()
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(str(ended.value.code)), *capfd.readouterr()

    status, _, problem = datacomp("no encoder")
    assert (status, "'no encoder' is not an encoder: give NAME=MODEL@WEIGHTS" in problem) == (2, True)
    status, _, problem = datacomp(f"mine={MODEL}@{world}/none.pt")
    assert (status, "give the path of a checkpoint file" in problem) == (2, True)
    for _ in range(2):
        status, told, problem = datacomp(f"mine={MODEL}@{world}/weights.pt")
        assert status == 0, problem
        counts = {name: count for name, count in json.loads(told).items() if count}
        assert counts == {"rows": SAMPLES, "embedded": SAMPLES - 1, "never_arrived": 1}
    shutil.copyfile(world / "weights.pt", world / "same.pt")
    assert datacomp(f"mine={MODEL}@{world}/same.pt")[0] == 0
    status, _, problem = datacomp(f"other={MODEL}@{world}/weights.pt")
    assert (status, "was started with another encoders" in problem.replace("\n", " ")) == (2, True)
    scores = pl.read_parquet(world / "out/scores/00000000.parquet")["clip_mine_similarity_score"].to_list()
    assert scores[:-1] == pytest.approx(scores_by_hand(world), abs=1e-5)
    assert scores[-1] is None


@pytest.mark.slow
def test_two_nodes_train_on_a_folder_and_an_interrupted_call_goes_on(world: Path) -> None:
    """The whole recipe of `tiny`. Node 0 is killed in the midst; then both are started again with the same words."""
    out, environment = world / "checkpoint", {**os.environ, "OMP_NUM_THREADS": "1", "DATACOMP_HOME": str(world / "home")}

    def start() -> list[subprocess.Popen[bytes]]:
        command = [str(Path(sys.executable).with_name("datacomp")), "train", "--data", str(world / "shards"), "--out", str(out)]
        command += ["--checkpoint-minutes", "0.05", "--nodes", "2", "--rendezvous", f"127.0.0.1:{free_port()}"]
        return [subprocess.Popen([*command, "--node", str(node)], env=environment, stderr=subprocess.PIPE) for node in (0, 1)]

    first = start()
    deadline = time.monotonic() + 120
    while not list(out.glob("**/epoch_latest.pt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    first[0].send_signal(signal.SIGKILL)
    for node in first:
        node.communicate(timeout=200)
        assert node.returncode
    for node in start():
        _, told = node.communicate(timeout=300)
        assert node.returncode == 0, told.decode()
    record = json.loads((out / "training.json").read_text())
    assert (record["steps"], record["samples_seen"], record["sources"][0]["num_samples"]) == (256, 16384, SAMPLES - 1)
    assert "resuming checkpoint" in (out / "out.log").read_text()
    assert not (out / "resume").exists()
