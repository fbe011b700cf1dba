"""Estimates before the start whether a batch fits a GPU: gradient checkpointing only if needed, then accumulation. Neither
changes loss and gradients. The estimate is rough; if it says "fits" and the GPU runs out of memory, the run continues with the
next option that needs less.
"""

from __future__ import annotations

import subprocess
from typing import Any

from datacomp_core import clip
from datacomp_core.training.arguments import RuntimeOptions, world_batch
from datacomp_core.training.spec import TrainSpec

MAX_TRIES = 3
CONTEXT_BYTES = 2 << 30  # CUDA, cuBLAS and NCCL buffers
STATE_BYTES = 20  # of a parameter: fp32 weight, gradient, two moments, and DDP's bucket
LAYER_BYTES = 36  # kept of a layer, a token and a unit of width in 16 bits (Korthikanti et al. 2022, with fused attention)
CHECKPOINT_BYTES = 2  # the layer's input only
LOSS_COPIES = 6  # of the logits, fp32


def device_bytes() -> int:
    """Memory of the smallest GPU of this machine; 0 where nvidia-smi cannot tell. Asked without starting CUDA."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
        return min(int(line) for line in told.split()) << 20
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0


def memory_options(spec: TrainSpec, machine: RuntimeOptions, available: int, *, accumulation: int = 0) -> list[RuntimeOptions]:
    """`machine` with gradient checkpointing and accumulation set where they are left open (`auto`, 0), to be tried in turn.

    The first is the fastest that should fit `available` bytes. On a CPU, or where nothing is known of GPU or model, there is
    one way, the reference's: accumulation 1, and gradient checkpointing with CUDA.
    """
    if machine.is_cpu or not available or not _towers(spec.recipe.model):
        return [machine.model_copy(update={"accumulation": accumulation or 1})]
    switches = ("off", "on") if machine.checkpointing == "auto" else (machine.checkpointing,)
    batch = world_batch(spec, machine)
    counts = [accumulation] if accumulation else [n for n in range(1, batch + 1) if batch % n == 0]
    choices = [(switch, count) for count in counts for switch in switches]
    fit = [n for n, (switch, count) in enumerate(choices) if bytes_needed(spec, machine, switch, count) <= available]
    kept = choices[(fit or [len(choices) - 1])[0] :][:MAX_TRIES]
    return [machine.model_copy(update={"checkpointing": switch, "accumulation": count}) for switch, count in kept]


def bytes_needed(spec: TrainSpec, machine: RuntimeOptions, checkpointing: str, accumulation: int) -> int:
    """Bytes that one process needs, about; 0 if nothing is known of the model."""
    towers = _towers(spec.recipe.model)
    samples = world_batch(spec, machine) // accumulation
    size = 1 if spec.recipe.precision.startswith("amp") else 2
    kept = LAYER_BYTES if checkpointing == "off" else CHECKPOINT_BYTES
    once = 0 if checkpointing == "off" else LAYER_BYTES  # of the one layer that is being computed again
    activations = sum(tokens * width * (kept * layers + once) for layers, width, tokens in towers)
    parameters = sum(12 * layers * width**2 for layers, width, _ in towers) + 49408 * towers[-1][1] if towers else 0
    logits = LOSS_COPIES * 4 * samples * spec.recipe.batch_size
    return CONTEXT_BYTES + STATE_BYTES * parameters + size * samples * activations + logits if towers else 0


def _towers(model: str) -> list[tuple[int, int, int]]:
    """Layers, width and tokens of a ViT's two towers, the text last; empty for what is none."""
    known: dict[str, Any] = clip.config(model) or {}
    image, text = known.get("vision_cfg", {}), known.get("text_cfg", {})
    side, patch = image.get("image_size", 224), image.get("patch_size")
    if not isinstance(image.get("layers"), int) or not isinstance(side, int) or not patch or "layers" not in text:
        return []
    tokens = (side // patch) ** 2 + 1
    return [(image["layers"], image["width"], tokens), (text["layers"], text["width"], text.get("context_length", 77))]
