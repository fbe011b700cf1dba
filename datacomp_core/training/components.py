"""Builds the parts of a training with open_clip's public functions and torch: model, loss, optimizer, scaler, learning rate.

`open_clip_train.main` makes the same ones in the same order; a test compares every number with it. Nothing here depends on data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from datacomp_core.training.arguments import BETA1, RuntimeOptions, beta2_of, eps_of, precision_of
from datacomp_core.training.rank_context import RankContext, seed_everything
from datacomp_core.training.spec import TrainSpec

MODULE = "module."  # before the name of every weight in a checkpoint of several ranks
COCA_WEIGHTS = {"coca_caption_loss_weight": 2.0, "coca_contrastive_loss_weight": 1.0}  # open_clip_train's defaults


@dataclass
class TrainingComponents:
    """`bare` has the weights, `wrapped` is `bare` or DDP around it, `model` is called: `wrapped`, compiled if asked for."""

    bare: Any
    wrapped: Any
    model: Any
    loss: Any
    optimizer: Any
    scaler: Any
    autocast: Callable[[], AbstractContextManager[Any]]
    set_learning_rate: Callable[[int], float]
    transform: Any

    def load(self, state: dict[str, Any], machine: RuntimeOptions) -> None:
        """Continue from a checkpoint of open_clip's form, written with any number of ranks and by any of AdamW's kernels."""
        prefix = MODULE if self.wrapped is not self.bare else ""
        weights = {prefix + name.removeprefix(MODULE): value for name, value in state["state_dict"].items()}
        self.wrapped.load_state_dict(weights)
        self.optimizer.load_state_dict(state["optimizer"])
        choose_kernels(self.optimizer, machine)
        if self.scaler is not None and "scaler" in state:
            self.scaler.load_state_dict(state["scaler"])

    def state(self) -> dict[str, Any]:
        """Return the state as in open_clip_train's checkpoints, without `epoch` and `name`."""
        state = {"state_dict": self.wrapped.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state if self.scaler is None else state | {"scaler": self.scaler.state_dict()}


def build(spec: TrainSpec, machine: RuntimeOptions, place: RankContext) -> TrainingComponents:
    """All parts on the place's device. The weights depend on the seed alone."""
    import open_clip
    import torch
    from open_clip_train.precision import get_autocast

    recipe, precision = spec.recipe, precision_of(spec, machine)
    if place.kind == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as open_clip_train does
        torch.backends.cudnn.set_flags(_benchmark=True, _deterministic=False)
    seed_everything(spec.seed)
    bare, transform, _ = open_clip.create_model_and_transforms(
        recipe.model, precision=precision, device=torch.device(place.device), output_dict=True
    )
    initialise_projection(bare)
    seed_everything(spec.seed + place.rank)
    if machine.checkpoints_gradients:
        bare.set_grad_checkpointing()  # pyright: ignore[reportCallIssue]
    wrapped = distributed(bare, place)
    optimizer = adamw(wrapped.named_parameters(), spec, machine)
    return TrainingComponents(
        bare=bare,
        wrapped=wrapped,
        model=wrapped,
        loss=loss_of(recipe.model, place),
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device=place.kind) if precision == "amp" else None,  # pyright: ignore[reportPrivateImportUsage]
        autocast=get_autocast(precision, device_type=place.kind),
        set_learning_rate=schedule(optimizer, spec),
        transform=transform,
    )


def initialise_projection(model: Any) -> None:
    """Draw the projection of CoCa's text decoder by open_clip's rule, which open_clip 3.3 does not call: it keeps whatever the
    memory contained, so the weights would not depend on the seed alone."""
    decoder = getattr(model, "text_decoder", None)
    if decoder is not None and decoder.text_projection is not None:
        import torch

        torch.nn.init.normal_(decoder.text_projection, std=decoder.width**-0.5)


def distributed(model: Any, place: RankContext) -> Any:
    """DDP over all ranks, with a static graph: every step uses every weight in the same order."""
    if not place.is_distributed:
        return model
    import torch
    from torch.nn.parallel import DistributedDataParallel

    devices = None if place.kind == "cpu" else [torch.device(place.device)]
    return DistributedDataParallel(model, device_ids=devices, static_graph=True)


def loss_of(model: str, place: RankContext) -> Any:
    """open_clip's loss of a model: each rank computes the rows of its own samples, against the features of all ranks."""
    import open_clip

    told = {"model": model, "rank": place.rank, "world_size": place.world_size, **COCA_WEIGHTS}
    switches = {"local_loss": True, "gather_with_grad": True, "distill": False, "siglip": False, "horovod": False}
    return open_clip.create_loss(SimpleNamespace(**told, **switches))


def adamw(named: Iterable[tuple[str, Any]], spec: TrainSpec, machine: RuntimeOptions) -> Any:
    """AdamW in two groups: biases, norms and the logit scale without weight decay, then everything else."""
    import torch

    trained = [(name, weight) for name, weight in named if weight.requires_grad]
    groups = [
        {"params": [weight for name, weight in trained if not decays(name, weight)], "weight_decay": 0.0},
        {"params": [weight for name, weight in trained if decays(name, weight)], "weight_decay": spec.recipe.weight_decay},
    ]
    recipe = spec.recipe
    betas = BETA1, beta2_of(recipe)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=betas, eps=eps_of(recipe), **kernels(machine))


def decays(name: str, weight: Any) -> bool:
    """open_clip_train's rule, by dimension and by parts of the name."""
    return weight.ndim >= 2 and not any(part in name for part in ("bn", "ln", "bias", "logit_scale"))


def schedule(optimizer: Any, spec: TrainSpec) -> Callable[[int], float]:
    """open_clip_train's linear warm-up and cosine decay over all steps: sets the rate of a step and returns it."""
    from open_clip_train.scheduler import cosine_lr

    return cosine_lr(optimizer, spec.recipe.learning_rate, spec.recipe.warmup, spec.steps)


def kernels(machine: RuntimeOptions) -> dict[str, bool]:
    """AdamW's implementation: `foreach` gives the same bits as a loop over the weights, in fewer passes over memory; `fused`
    rounds otherwise and is asked for."""
    fused = machine.optimizer == "fused"
    return {"foreach": not fused, "fused": fused}


def choose_kernels(optimizer: Any, machine: RuntimeOptions) -> None:
    """This run's kernels, over what a checkpoint of other ones brought."""
    for group in optimizer.param_groups:
        group.update(kernels(machine))
        for weight in group["params"]:
            state = optimizer.state.get(weight, {})
            if "step" in state:
                state["step"] = state["step"].to(weight.device if machine.optimizer == "fused" else "cpu")
