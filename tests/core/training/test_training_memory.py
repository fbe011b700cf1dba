"""Which way of using a GPU's memory is tried first: nothing given up without need, and always a divisor of the batch."""

import pytest
from training_world import recipe

from datacomp_core.errors import SpecError
from datacomp_core.scales import SCALES
from datacomp_core.training.arguments import RuntimeOptions, device_batch
from datacomp_core.training.memory import bytes_needed, memory_options
from datacomp_core.training.spec import TrainSpec

GB = 1 << 30


def first(scale: str, world_size: int, gigabytes: int, accumulation: int = 0, **machine: str) -> RuntimeOptions:
    spec = TrainSpec(recipe=SCALES[scale])
    given = RuntimeOptions.model_validate({"device": "cuda", "world_size": world_size, **machine})
    return memory_options(spec, given, gigabytes * GB, accumulation=accumulation)[0]


def test_where_nothing_is_known_it_is_the_references_way() -> None:
    for machine in (first("small", 8, 0), first("tiny", 1, 80)):
        assert machine.checkpoints_gradients
        assert machine.accumulation == 1
    [cpu] = memory_options(TrainSpec(recipe=SCALES["small"]), RuntimeOptions(), 0, accumulation=0)
    assert (cpu.checkpoints_gradients, cpu.accumulation) == (False, 1)


def test_gradient_checkpointing_only_where_it_is_needed() -> None:
    assert first("small", 8, 80).checkpointing == "off"
    assert first("small", 1, 40).checkpointing == "on"
    assert first("small", 1, 40).accumulation == 1
    assert first("small", 8, 80, checkpointing="on").checkpointing == "on"
    assert first("xlarge", 512, 80).accumulation == 1


@pytest.mark.parametrize("scale", ["small", "large", "xlarge"])
@pytest.mark.parametrize("gigabytes", [16, 24, 40])
def test_accumulation_is_derived_and_divides(scale: str, gigabytes: int) -> None:
    spec = TrainSpec(recipe=SCALES[scale])
    for world_size in (1, 2, 16):
        machine = first(scale, world_size, gigabytes)
        assert device_batch(spec, machine) * machine.accumulation * world_size == spec.recipe.batch_size
        assert bytes_needed(spec, machine, machine.checkpointing, machine.accumulation) <= gigabytes * GB
    assert first(scale, 1, gigabytes, accumulation=4).accumulation == 4, "what is given stays"


def test_what_is_tried_next_needs_less() -> None:
    spec, machine = TrainSpec(recipe=SCALES["large"]), RuntimeOptions(device="cuda", world_size=16)
    sizes = [bytes_needed(spec, way, way.checkpointing, way.accumulation) for way in memory_options(spec, machine, 80 * GB)]
    assert sizes[0] == max(sizes)
    assert len(set(sizes)) > 1


def test_a_world_that_does_not_divide_is_refused_here_too() -> None:
    with pytest.raises(SpecError, match="do not divide"):
        memory_options(TrainSpec(recipe=recipe(model="ViT-B-32")), RuntimeOptions(device="cuda", world_size=3), 80 * GB)
