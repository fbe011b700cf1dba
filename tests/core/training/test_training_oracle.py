"""Our loop against unmodified open_clip_train on the same batches: losses, gradients, groups, rates and weights, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
from conftest import free_port
from oracle import SIDES, Case, write_models
from training_world import recipe

from datacomp_core.scales import SCALES
from datacomp_core.training.arguments import RuntimeOptions, arguments, beta2_of, eps_of, log_every, precision_of
from datacomp_core.training.spec import TrainSpec

HERE = Path(__file__).parent
START = """
import runpy, sys
sys.modules.update(dict.fromkeys(("timm", "transformers", "wandb")))  # no model here needs their seconds of import
sys.argv, sys.path[0] = sys.argv[1:], sys.argv[1].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ALL = [Case(*values) for values in product((*SIDES, "datacomp-tiny"), (1, 2), ("off", "on"))]
QUICK = [Case("ViT-B-32", 2, "on"), Case("datacomp-tiny", 1, "off"), Case("ViT-L-14", 1, "on")]
SCALED = [Case("ViT-B-16", accumulation, "off", precision) for accumulation in (1, 2) for precision in ("amp", "amp_bfloat16")]


def compared(cases: list[Case], world_size: int, out: Path) -> None:
    """Run the cases in one process a rank; each rank tells of each case that is equal."""
    write_models(out / "models")
    told = {"WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    ports = json.dumps([free_port() for _ in cases])
    command = [sys.executable, "-c", START, str(HERE / "oracle.py"), json.dumps(cases), ports, str(world_size), str(out)]
    ranks = [
        subprocess.Popen(
            command,
            env={**os.environ, **told, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=(out / f"stderr{rank}").open("wb"),
        )
        for rank in range(world_size)
    ]
    try:
        for rank, process in enumerate(ranks):
            said = process.communicate(timeout=3600)[0].decode()
            assert said.count("EQUAL") == len(cases), (said, (out / f"stderr{rank}").read_text()[-3000:])
    finally:
        for process in ranks:
            process.kill()


def test_a_step_is_open_clip_trains(tmp_path: Path) -> None:
    compared(QUICK, 1, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world_size", [1, 2])
def test_every_model_accumulation_and_checkpointing_is_open_clip_trains(world_size: int, tmp_path: Path) -> None:
    compared(ALL, world_size, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("world_size", [1, 2])
def test_mixed_precision_with_and_without_a_scaler_is_open_clip_trains(world_size: int, tmp_path: Path) -> None:
    compared(SCALED, world_size, tmp_path)


@pytest.mark.parametrize("row", SCALES.values(), ids=SCALES.keys())
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_loops_numbers_are_those_of_the_argument_list(row: object, device: str) -> None:
    from open_clip_train.params import parse_args

    spec, machine = TrainSpec.model_validate({"recipe": row}), RuntimeOptions(device=device)
    parsed = parse_args(arguments(spec, machine, data="x", logs="logs", name="run"))
    assert (parsed.beta2, parsed.eps, parsed.wd) == (beta2_of(spec.recipe), eps_of(spec.recipe), spec.recipe.weight_decay)
    assert (parsed.precision, parsed.log_every_n_steps) == (precision_of(spec, machine), log_every(spec))
    assert (parsed.lr, parsed.warmup, parsed.lr_scheduler) == (spec.recipe.learning_rate, spec.recipe.warmup, "cosine")
    assert (parsed.local_loss, parsed.gather_with_grad, parsed.ddp_static_graph) == (True, True, True)
    assert (parsed.grad_clip_norm, parsed.opt, parsed.skip_scheduler) == (None, "adamw", False)
    assert parsed.grad_checkpointing == machine.checkpoints_gradients


@pytest.mark.parametrize("model", ["ViT-B-32", "datacomp-tiny", "RN50"])
def test_betas_and_eps_that_no_recipe_names_are_open_clip_trains(model: str) -> None:
    from open_clip_train.params import get_default_params

    row, theirs = recipe(model=model, beta2=None, eps=None), get_default_params(model)
    assert (beta2_of(row), eps_of(row)) == (theirs["beta2"], theirs["eps"])


def test_reports_have_every_number_that_open_clip_train_reports() -> None:
    """The names are read from the dictionary in its source, of which no function can be called alone."""
    import re
    from importlib.util import find_spec

    from datacomp_core.training.hooks import Logged

    found = find_spec("open_clip_train")
    assert found is not None
    assert found.origin is not None
    [body] = re.findall(r"log_data = \{(\s+\"data_time.*?)\}", Path(found.origin).with_name("train.py").read_text(), re.DOTALL)
    logged = Logged(0, {"loss": 1.0}, 14.0, 1e-3, 100.0, 0.1, 0.2, {})
    scalars = logged.scalars(world_size=4)
    assert {f"train/{name}" for name in (*re.findall(r'"(\w+)":', body), "loss")} == scalars.keys()
    assert scalars["train/samples_per_second_per_gpu"] == 25.0


COCA = {
    "embed_dim": 48,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 16,
        "layers": 1,
        "width": 64,
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {
        "context_length": 12,
        "vocab_size": 400,
        "width": 48,
        "heads": 2,
        "layers": 1,
        "embed_cls": True,
        "output_tokens": True,
    },
    "multimodal_cfg": {"context_length": 12, "vocab_size": 400, "width": 48, "heads": 2, "layers": 1, "attn_pooler_heads": 2},
}


def test_no_weight_of_a_captioner_is_what_the_memory_contained(tmp_path: Path) -> None:
    """torch fills memory that nobody has initialised with NaN here. open_clip leaves one weight of CoCa so."""
    import open_clip
    import torch

    from datacomp_core.training.components import build
    from datacomp_core.training.rank_context import RankContext

    (tmp_path / "coca_reduced.json").write_text(json.dumps(COCA))
    open_clip.add_model_config(tmp_path)
    torch.use_deterministic_algorithms(True)
    try:
        assert any(weight.isnan().any() for weight in open_clip.create_model("coca_reduced").parameters())
        spec = TrainSpec(recipe=recipe(model="coca_reduced"), seed=3)
        made = [build(spec, RuntimeOptions(), RankContext("cpu")).bare.state_dict() for _ in range(2)]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(value, made[1][name]) for name, value in made[0].items())
    assert all(weight.isfinite().all() for weight in made[0].values())
