"""A scale is one row: what a row more brings, in a process of its own, before anything else is imported."""

from __future__ import annotations

import subprocess
import sys

CODE = """
from datacomp_core import scales

scales.SCALES["mini"] = scales.Scale(
    name="custom", model="ViT-B-32", batch_size=1024, learning_rate=5e-4, warmup=100, train_num_samples=1_280_000, hub="me/mini"
).model_copy(update={"name": "mini"})
from datacomp_core.pool.commonpool import HubPoolSpec
from deployments.catalog import ROWS
from flows.chain import experiment, plan
from flows.parameters import ExperimentSpec, SweepSpec
from datacomp_core.store import Store
import sys

assert scales.Scale.model_validate(scales.SCALES["mini"].model_dump()).name == "mini"
assert HubPoolSpec(scale="mini").repository == "me/mini"
spec = ExperimentSpec(scale="mini", recipe="clip_score")
assert spec.scoring().train.recipe.train_num_samples == 1_280_000
steps = plan(lambda call: experiment(call, spec), Store.open(sys.argv[1]))
assert [step.kind for step in steps][:2] == ["pools", "shards"] and steps[-1].kind == "entries", steps
assert "mini" in ExperimentSpec.model_json_schema()["properties"]["scale"]["enum"]
rows = {row.deployment: row for row in ROWS}
assert rows["experiment-mini"].scale == "mini" and rows["gpu-step-mini"].machine["gpus"] == 1
assert rows["sweep-mini"].parameters["spec"]["scale"] == "mini"
try:
    ExperimentSpec(scale="nimi", recipe="clip_score")
except ValueError:
    print("refused")
"""


def test_a_row_more_is_a_scale_everywhere(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, f"{tmp_path}/store"], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.stdout.split() == ["refused"], done.stderr[-3000:]
