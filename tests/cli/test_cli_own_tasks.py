"""Evaluation tasks and protocols that live outside this tree: a single file in an empty folder, and an installed package."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made_sets import repository, write

from datacomp_core import clip
from datacomp_core.settings import settings
from deployments.cli.main import main

ROOT = Path(__file__).parents[2]
[CODE] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "evaluation.md").read_text(), flags=re.DOTALL)
MODEL = "datacomp-tiny"


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A folder with a test set and a checkpoint, and the options that name them."""
    import open_clip

    clip.register()
    torch.manual_seed(2)
    model = open_clip.create_model(MODEL, load_weights=False)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "epoch_1.pt")
    write(tmp_path / "data" / "birds_test", repository(60, 5))
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.setenv("DATACOMP_WORKERS", "1")
    monkeypatch.chdir(tmp_path)
    return ["evaluate", "--model", MODEL, "--checkpoint", "epoch_1.pt", "--data", "data", "--out", "out", "--json"]


def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["datacomp", *arguments])
    settings.cache_clear()
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    return int(str(ended.value.code)), *capfd.readouterr()


def right(out: Path) -> float:
    """The share of samples whose class is among the best three, from the kept predictions."""
    kept = np.load(out / "predictions" / "mine-birds.npz")
    return float(np.mean([label in best[:3] for label, best in zip(kept["labels"], kept["ranked"].tolist(), strict=True)]))


def test_a_file_in_an_empty_folder_brings_a_task_and_its_protocol(
    asked: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    status, told, problem = call(capfd, monkeypatch, *asked, "--add-tasks", "mine.py")
    assert status == 0, problem
    report = json.loads(told)
    [task] = report["tasks"]
    assert (task["key"], task["protocol"], task["main_metric"], task["count"]) == ("mine/birds", "top3", "acc3", 60)
    assert task["value"] == report["own_average"] == pytest.approx(right(tmp_path / "out"))
    kept = json.loads((tmp_path / "out" / "tasks" / "mine-birds.json").read_text())
    assert re.fullmatch(r"mine\.py#[0-9a-f]{16}", kept["task"]["code"])

    other = CODE.replace("[:, :3]", "[:, :2]").replace('"top3"', '"top2"').replace("mine/birds", "mine/other")
    (tmp_path / "other.py").write_text(other)
    (tmp_path / "rows.yaml").write_text("- {key: mine/again, folder: birds_test, protocol: top2}\n")
    status, told, problem = call(capfd, monkeypatch, *asked, "--add-tasks", "other.py", "--add-tasks", "rows.yaml")
    assert status == 0, problem
    assert {task["key"]: task["value"] for task in json.loads(told)["tasks"]}.keys() == {"mine/other", "mine/again"}

    status, told, problem = call(capfd, monkeypatch, "evaluate", "--list", "--json")
    listed = {row["key"]: row for row in json.loads(told)["tasks"]}
    assert listed["mine/birds"]["of"].startswith("mine.py#")
    assert (listed["imagenet1k"]["of"], listed["mine/birds"]["metric"]) == ("datacomp", "acc3")


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        (CODE.replace('protocol="top3"', 'protocol="top4"'), 2, "Unknown protocol 'top4'. Did you mean 'top3'"),
        (CODE.replace("-> TaskRow:\n    return TaskRow(", "-> dict:\n    return dict("), 2, "returns dict: return a TaskRow"),
        ("x = 1\n", 2, "mine.py does not register an evaluation task"),
        ("1 / 0\n", 2, "mine.py fails to load at line 1: ZeroDivisionError"),
        (CODE.replace(".any(1)", ".any(7)"), 1, "failed at line 14 (in extra): AxisError: axis 7"),
        (CODE.replace("mine/birds", "cifar10"), 2, "The task cifar10 already exists"),
    ],
)
def test_a_wrong_file_is_one_sentence(
    code: str, status: int, says: str, asked: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine.py").write_text(code)
    suite = ["--suite", "datacomp", "--tasks", "cifar10"] if "already" in says else []
    found, _, problem = call(capfd, monkeypatch, *asked, "--add-tasks", "mine.py", *suite)
    assert found == status, problem
    assert says in " ".join(problem.split())
    assert "Traceback" not in problem


def test_an_installed_package_brings_a_task_by_its_entry_point(asked: list[str], tmp_path: Path) -> None:
    site = tmp_path / "site"
    write(
        site,
        {
            "my_package/__init__.py": b"",
            "my_package/tasks.py": CODE.encode(),
            "my_package-1.2.dist-info/METADATA": b"Metadata-Version: 2.1\nName: my-package\nVersion: 1.2\n",
            "my_package-1.2.dist-info/RECORD": b"my_package/__init__.py,,\nmy_package/tasks.py,,\n",
            "my_package-1.2.dist-info/entry_points.txt": b"[datacomp.tasks]\nmine = my_package.tasks\n"
            b"[datacomp.protocols]\nmine = my_package.tasks\n",
        },
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)]), "DATACOMP_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "deployments.cli", *asked, "--tasks", "mine/birds"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    [task] = json.loads(done.stdout)["tasks"]
    assert (task["key"], task["value"]) == ("mine/birds", pytest.approx(right(tmp_path / "out")))
    kept = json.loads((tmp_path / "out" / "tasks" / "mine-birds.json").read_text())
    assert kept["task"]["code"] == "my-package==1.2"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("- {key: mine/birds, foldr: birds_test}", "Unknown field in rows.yaml, task 1: 'foldr'. Did you mean 'folder'?"),
        ("- {key: mine/birds}", "rows.yaml, task 1 has no folder."),
        ("- {key: my birds, folder: birds_test}", "rows.yaml, task 1: the key 'my birds' may contain only letters"),
        ("- birds", "rows.yaml, task 1 is 'birds': write `{key: mine/birds"),
        (
            "- {key: a, folder: b, protocol: clasification}",
            "task 1: Unknown protocol 'clasification'. Did you mean 'classification'?",
        ),
    ],
)
def test_a_wrong_row_is_one_sentence(
    rows: str, says: str, asked: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("rows.yaml").write_text(rows + "\n")
    status, _, problem = call(capfd, monkeypatch, *asked, "--add-tasks", "rows.yaml")
    assert (status, says in problem) == (2, True), problem


def test_an_unknown_task_is_told_with_those_that_could_be_meant(
    asked: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("rows.yaml").write_text("- {key: mine/birds, folder: birds_test}\n")
    status, _, problem = call(capfd, monkeypatch, *asked, "--add-tasks", "rows.yaml", "--tasks", "mine/brids")
    assert (status, problem) == (
        2,
        "error: Unknown evaluation task 'mine/brids'. Did you mean 'mine/birds'? Known: mine/birds.\n",
    )
    status, _, problem = call(capfd, monkeypatch, *asked, "--suite", "datacomp", "--tasks", "imagenet")
    assert (status, problem.count(",")) == (2, 2), problem


def test_a_model_without_weights_and_data_that_is_not_there_are_refused(
    asked: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = asked.index("--checkpoint")
    bare = [*asked[:checkpoint], *asked[checkpoint + 2 :]]
    status, _, problem = call(capfd, monkeypatch, *bare)
    assert (status, problem) == (2, f"error: {MODEL} has no pretrained weights: give them with --checkpoint FILE.\n")
    Path("data").rename("elsewhere")
    Path("rows.yaml").write_text("- {key: mine/birds, folder: birds_test}\n")
    status, _, problem = call(capfd, monkeypatch, *asked, "--add-tasks", "rows.yaml")
    assert (status, "data does not exist: give the folder" in problem) == (1, True), problem


@pytest.mark.parametrize(
    ("row", "options", "words"),
    [
        (
            "{key: mine/a, foldr: a_test}",
            ("--task-data", "data"),
            "error: --add-tasks: Unknown field in rows.yaml, task 1: 'foldr'",
        ),
        ("{key: mine/a, folder: a_test}", ("--task-data", "no"), "error: --add-tasks: No test set exists at"),
        ("{key: mine/a, folder: a_test}", (), "error: --add-tasks: Your own tasks need the folder of their test sets"),
    ],
)
def test_an_error_names_the_option_and_not_the_field(
    asked: list[str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    row: str,
    options: tuple[str, ...],
    words: str,
) -> None:
    (tmp_path / "rows.yaml").write_text(f"- {row}\n")
    status, _, problem = call(capfd, monkeypatch, "plan", "--recipe", "no_filter", "--add-tasks", "rows.yaml", *options)
    assert status == 2
    assert problem.startswith(words)
