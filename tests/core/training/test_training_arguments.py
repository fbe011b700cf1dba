"""The argument list of open_clip_train, against what the reference's train.py passes (frozen by running it)."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from training_world import recipe, training

from datacomp_core.errors import SpecError
from datacomp_core.scales import SCALES
from datacomp_core.training.arguments import DIFFERENCES, RuntimeOptions, arguments, device_batch
from datacomp_core.training.spec import TrainSpec
from datacomp_core.training.train import kind_of

GOLDEN = json.loads(Path(__file__).with_name("golden_arguments.json").read_text())


def as_table(given: list[str]) -> dict[str, str]:
    table = {name: "" for name in given if name.startswith("--")}
    table |= {name: value for name, value in pairwise(given) if name.startswith("--") and not value.startswith("--")}
    return table


def ours(case: dict, device: str) -> dict[str, str]:
    options = dict(pairwise(case["options"]))
    machine = RuntimeOptions(device=device, world_size=case["world_size"], accumulation=int(options.get("--accum_freq", 1)))
    spec = TrainSpec(recipe=SCALES[case["scale"]], seed=int(options.get("--seed", 0)))
    return as_table(arguments(spec, machine, data="data/{00000000..00000002}.tar", logs="logs", name="run"))


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['scale']}-{case['world_size']}")
def test_on_gpus_the_list_is_the_references(case: dict) -> None:
    given, reference = ours(case, "cuda"), as_table(case["arguments"])
    assert given.pop("--device") == "cuda"
    assert int(given.pop("--log-every-n-steps")) <= int(reference.pop("--log-every-n-steps"))
    assert given == reference


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['scale']}-{case['world_size']}")
def test_on_a_cpu_only_the_listed_differences_remain(case: dict) -> None:
    given, reference = ours(case, "cpu"), as_table(case["arguments"])
    changed = {name for name in given.keys() | reference.keys() if given.get(name) != reference.get(name)}
    assert changed <= set(DIFFERENCES)
    assert given["--precision"] == "fp32"


def test_open_clip_train_understands_every_scale() -> None:
    from open_clip_train.params import parse_args

    for row in SCALES.values():
        parsed = parse_args(arguments(TrainSpec(recipe=row), RuntimeOptions(), data="x", logs="logs", name="run"))
        assert (parsed.beta1, parsed.lr) == (0.9, row.learning_rate)
        assert parsed.beta2 == (row.beta2 or 0.98), "every model of the scales is a ViT to open_clip, or says its beta2"
        assert parsed.eps == 1e-6


@pytest.mark.parametrize(("scale", "steps"), [("small", 3140), ("medium", 31260), ("large", 156260), ("xlarge", 142060)])
def test_steps_are_part_of_the_recipe(scale: str, steps: int) -> None:
    spec = TrainSpec(recipe=SCALES[scale])
    assert (spec.steps, spec.samples_seen) == (steps, steps * SCALES[scale].batch_size)


def test_a_world_that_does_not_divide_the_batch_is_told_those_that_do() -> None:
    with pytest.raises(SpecError, match=r"3 processes .* batch of 4096 .*: use 1, 2, 4, 8, 16"):
        device_batch(TrainSpec(recipe=SCALES["small"]), RuntimeOptions(world_size=3))
    assert device_batch(TrainSpec(recipe=SCALES["xlarge"]), RuntimeOptions(world_size=11, accumulation=8)) == 1024


def test_the_recipe_of_a_scale_cannot_be_changed() -> None:
    changed = SCALES["small"].model_copy(update={"learning_rate": 1e-3})
    with pytest.raises(ValueError, match=r"'small' is fixed, and learning_rate differ: name your recipe 'custom'"):
        TrainSpec(recipe=changed)
    assert TrainSpec(recipe=changed.model_copy(update={"name": "custom"})).recipe.learning_rate == 1e-3
    with pytest.raises(ValueError, match="above 0"):
        TrainSpec(recipe=recipe(), data_weights=(1.0, 0.0))


def test_weights_are_one_for_each_shard_set() -> None:
    spec = TrainSpec(recipe=recipe(), data_weights=(1.0, 0.5))
    given = as_table(arguments(spec, RuntimeOptions(), data="a::b", logs="l", name="n", num_sources=2))
    assert given["--train-data-upsampling-factors"] == "1::0.5"
    with pytest.raises(SpecError, match="2 data weights for 3 shard sets"):
        arguments(spec, RuntimeOptions(), data="a", logs="l", name="n", num_sources=3)
    assert "--train-data-upsampling-factors" not in arguments(training(), RuntimeOptions(), data="a", logs="l", name="n")


def test_devices_of_embedding_are_for_training_a_kind() -> None:
    """One setting serves both; a process of torchrun gets the device of its own rank."""
    kinds = {"": "", "cpu": "cpu", "cuda:1": "cuda:1", "cpu,cpu": "cpu", "cuda:0,cuda:2": "cuda"}
    assert {device: kind_of(device) for device in kinds} == kinds
