"""Every protocol against the reference: its own metrics, frozen by `freeze_evaluation.py`, on the same bytes and weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import evaluation_sets as sets
import pytest
import torch

from datacomp_core.evaluation.catalog import suite
from datacomp_core.evaluation.evaluate import EvalSpec, evaluate_folder
from datacomp_core.evaluation.report import Report

FROZEN: dict[str, dict[str, dict[str, Any]]] = json.loads(Path(__file__).with_name("evaluation.json").read_text())
KEYS = sorted(FROZEN["first"])

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evalsets")
    sets.webdatasets(root)
    sets.hub_tables(root)
    return root


@pytest.fixture(scope="module", params=sets.CHECKPOINTS)
def results(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Report]:
    folder = tmp_path_factory.mktemp(request.param)
    torch.set_num_threads(1)
    sets.checkpoint(folder / "checkpoint.pt", request.param)
    spec = EvalSpec(suite="datacomp", tasks=tuple(KEYS), expected="any", batch_size=17)
    made = evaluate_folder(
        model=sets.MODEL, checkpoint=folder / "checkpoint.pt", data=str(data), out=str(folder / "out"), spec=spec, device="cpu"
    )
    return request.param, made


@pytest.mark.parametrize("key", KEYS)
def test_all_metrics_are_the_references(results: tuple[str, Report], key: str) -> None:
    name, made = results
    result = next(task for task in made.tasks if task.key == key)
    frozen = FROZEN[name][key]
    assert set(result.metrics) == set(frozen)
    different = {
        metric: (result.metrics[metric], value)
        for metric, value in frozen.items()
        if result.metrics[metric] != pytest.approx(value, abs=1e-6)
    }
    assert not different
    main = suite("datacomp").task(key).metric
    assert result.value == (None if main is None else pytest.approx(frozen[main], abs=1e-6))


def test_every_protocol_was_compared() -> None:
    assert {suite("datacomp").task(key).protocol for key in KEYS} == {task.protocol for task in suite("datacomp").tasks}
