"""`datacomp evaluate` as a user calls it: a golden checkpoint from names alone, broken sets, tasks of one's own."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hub_server import LocalHub, serving
from made_sets import pool_images, repository, write
from PIL import Image

from datacomp_core import clip
from datacomp_core.evaluation.catalog import suite
from datacomp_core.settings import settings
from deployments.cli.main import main

MODEL = "datacomp-tiny"
KITTI = suite("datacomp").task("vtab/kitti_closest_vehicle_distance")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def datacomp(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Exit status, standard output and standard error."""
    monkeypatch.setenv("DATACOMP_WORKERS", "1")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["datacomp", *arguments])
        settings.cache_clear()
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(str(ended.value.code)), *capfd.readouterr()

    return call


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with serving() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        yield found


@pytest.fixture(scope="module")
def model() -> Any:
    clip.register()
    import open_clip

    torch.manual_seed(2)
    return open_clip.create_model(MODEL, load_weights=False).eval()


@pytest.fixture(scope="module")
def checkpoint(model: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "epoch_1.pt"
    torch.save({"state_dict": model.state_dict()}, path)
    return str(path)


def by_hand(model: Any) -> float:
    """The accuracy of KITTI's made-up set, with open_clip alone."""
    import open_clip

    _, _, transform = open_clip.create_model_and_transforms(MODEL, load_weights=False)
    with torch.no_grad():
        texts = model.encode_text(open_clip.get_tokenizer(MODEL)([f"a photo of thing {n}." for n in range(4)]), normalize=True)
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in pool_images(KITTI.size or 0)]
        pixels = torch.stack([transform(image) for image in images])  # pyright: ignore
        chosen = (model.encode_image(pixels, normalize=True) @ texts.T).argmax(dim=1).numpy()
    return float((chosen == np.arange(len(chosen)) % 4).mean())


def test_golden_downloads_evaluates_and_compares(datacomp: Command, hub: LocalHub, model: Any, tmp_path: Path) -> None:
    """From nothing but names: weights and data from the hub; the status says whether the numbers are the published ones."""
    import open_clip
    from safetensors.torch import save_file

    hub.repositories[f"datasets/{KITTI.repository}"] = repository(KITTI.size or 0, 4)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    config = {"model_cfg": open_clip.get_model_config(MODEL), "preprocess_cfg": {}}
    hub.repositories["models/some/release"] = {
        "open_clip_config.json": json.dumps(config).encode(),
        "open_clip_model.safetensors": (tmp_path / "w.safetensors").read_bytes(),
    }
    score, row = by_hand(model), tmp_path / "golden.yaml"
    places = ("--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--tasks", KITTI.key, "--json")
    row.write_text(yaml.safe_dump({"model": "hf-hub:some/release", "scores": {KITTI.name: score}}))
    status, told, problem = datacomp("evaluate", "--golden", str(row), *places)
    assert status == 0, problem
    assert [(task["key"], task["here"], task["holds"]) for task in json.loads(told)["golden"]] == [
        (KITTI.key, pytest.approx(score, abs=1.01 / 711), True)  # near ties may fall otherwise in other batches
    ]
    hub.sent.clear()
    row.write_text(yaml.safe_dump({"model": "hf-hub:some/release", "scores": {KITTI.name: score + 0.01}}))
    status, _, problem = datacomp("evaluate", "--golden", str(row), *places)
    assert status == 1
    assert "1 of 1 tasks differ from the published scores: KITTI Vehicle Distance." in problem
    assert not hub.sent, "model and data are there"


def test_broken_sets_are_named_the_others_run_and_the_status_says_so(datacomp: Command, checkpoint: str, tmp_path: Path) -> None:
    write(tmp_path / "data" / KITTI.folder, repository(KITTI.size or 0, 4))
    write(tmp_path / "data" / "wds_vtab-dtd_test", repository(1880, 5) | {"classnames.txt": b"a\nb\nc\n"})
    asked = ["--model", MODEL, "--checkpoint", checkpoint, "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    tasks = ["--tasks", KITTI.key, "--tasks", "vtab/dtd", "--tasks", "mnist"]
    status, _, problem = datacomp("evaluate", *asked, *tasks)
    assert status == 1
    assert "2 of 3 evaluation tasks failed, so there is no average." in problem
    assert "vtab/dtd: " in problem
    assert "has 3 classes and the task has 47" in problem
    assert "mnist: " in problem
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["complete"], report["average"]) == (False, None)
    assert {task["key"]: bool(task["error"]) for task in report["tasks"]} == {"vtab/dtd": True, KITTI.key: False, "mnist": True}
    status, told, _ = datacomp("evaluate", *asked, "--tasks", KITTI.key)
    assert status == 0
    assert "KITTI Vehicle Distance" in told
    assert "Average: none (" in told
    assert "are missing)" in " ".join(told.split())


def test_tasks_of_ones_own_and_modes(datacomp: Command, checkpoint: str, tmp_path: Path) -> None:
    write(tmp_path / "data" / "birds", repository(60, 5))
    rows = tmp_path / "mine.yaml"
    rows.write_text("- {key: mine/birds, name: Birds, folder: birds, classes: 5}\n")
    asked = ["--model", MODEL, "--checkpoint", checkpoint, "--data", str(tmp_path / "data"), "--add-tasks", str(rows)]
    fast = ["--precision", "bf16", "--batch-size", "32", "--deviation", "--few-shot", "2", "--linear-probe"]
    status, told, problem = datacomp("evaluate", *asked, *fast, "--out", str(tmp_path / "out"), "--json")
    assert status == 0, problem
    found = json.loads(told)
    assert (found["suite"], found["mode"], found["average"]) == ("custom", "fast", None)
    (task,) = found["tasks"]
    assert (task["key"], task["count"], task["scored"]) == ("mine/birds", 60, False)
    assert set(task["analysis"]["probes"]) == {"few_shot_2", "linear_probe"}
    (measured,) = found["deviation"]["tasks"]
    exact = json.loads((tmp_path / "out" / "exact" / "report.json").read_text())
    assert (exact["mode"], exact["tasks"][0]["value"]) == ("exact", measured["exact"])
    both = [np.load(tmp_path / "out" / place / "predictions" / "mine-birds.npz")["predicted"] for place in ("", "exact")]
    assert measured["flips"] == (both[0] != both[1]).sum()
    rows.write_text("- {key: mine/birds, folder: birds, protocol: clasification}\n")
    status, _, problem = datacomp("evaluate", *asked, "--out", str(tmp_path / "out"))
    assert status == 2
    assert "task 1:" in problem
    assert "Did you mean 'classification'" in problem


def test_own_tasks_beside_a_suite_have_their_own_average_and_count_as_missing(
    datacomp: Command, checkpoint: str, tmp_path: Path
) -> None:
    """The folder has one set of the suite and two of one's own, of which one is broken: no `--suite` is asked for."""
    write(tmp_path / "data" / KITTI.folder, repository(KITTI.size or 0, 4))
    write(tmp_path / "data" / "birds", repository(60, 5))
    write(tmp_path / "data" / "maps", repository(30, 3))
    rows = tmp_path / "mine.yaml"
    rows.write_text("- {key: mine/birds, name: Birds, folder: birds}\n- {key: mine/maps, folder: maps}\n")
    asked = ["--model", MODEL, "--checkpoint", checkpoint, "--data", str(tmp_path / "data"), "--add-tasks", str(rows)]
    out = tmp_path / "out"
    status, told, problem = datacomp("evaluate", *asked, "--out", str(out), "--json")
    assert status == 0, problem
    assert "39 tasks of the suite datacomp were not evaluated:" in problem
    report = json.loads(told)
    values = {task["key"]: task["value"] for task in report["tasks"]}
    assert list(values) == [KITTI.key, "mine/birds", "mine/maps"]
    assert report["own_average"] == pytest.approx((values["mine/birds"] + values["mine/maps"]) / 2)
    assert (report["average"], report["complete"], len(report["missing"])) == (None, False, 37)
    assert not [key for key in report["missing"] if key.startswith("mine/")]

    (tmp_path / "data" / "maps" / "classnames.txt").write_bytes(b"one\ntwo\n")
    status, told, problem = datacomp("evaluate", *asked, "--out", str(out))
    assert status == 1
    assert "Birds" in told
    assert "KITTI Vehicle Distance" in told
    assert f"Report: {out}" in told
    assert "Average of your own tasks: none (mine/maps is missing)" in told
    assert f"1 of 3 evaluation tasks failed, so there is no average of your own tasks. Report: {out}" in problem
    assert [line.split(": ")[:2] for line in problem.splitlines() if "mine/maps" in line] == [["failed", "mine/maps"]]
    report = json.loads((out / "report.json").read_text())
    assert (report["complete"], report["own_average"], report["missing"][-1]) == (False, None, "mine/maps")

    status, told, problem = datacomp("evaluate", *asked, "--out", str(out), "--tasks", "Birds", "--json")
    assert status == 0, problem
    report = json.loads(told)
    assert ([task["key"] for task in report["tasks"]], report["suite"]) == (["mine/birds"], "custom")
    assert (report["missing"], report["complete"], report["own_average"]) == (["mine/maps"], False, None)
    status, _, problem = datacomp("evaluate", *asked, "--out", str(out), "--tasks", "mine/bird")
    assert status == 2
    assert "Did you mean 'mine/birds'" in problem


def test_a_suites_set_that_a_task_of_ones_own_reads_makes_no_suite(datacomp: Command, checkpoint: str, tmp_path: Path) -> None:
    write(tmp_path / "data" / "wds_cifar10_test", repository(60, 5))
    rows = tmp_path / "mine.yaml"
    rows.write_text("- {key: mine/small, folder: wds_cifar10_test}\n")
    asked = ["--model", MODEL, "--checkpoint", checkpoint, "--data", str(tmp_path / "data"), "--add-tasks", str(rows)]
    status, told, problem = datacomp("evaluate", *asked, "--out", str(tmp_path / "out"), "--json")
    assert status == 0, problem
    report = json.loads(told)
    assert (report["suite"], report["complete"], report["missing"]) == ("custom", True, [])
    assert report["own_average"] == report["tasks"][0]["value"]
