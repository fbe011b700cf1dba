"""Linear probe and few-shot classification on the features of a zero-shot pass, with no image read twice.

The hub's sets have a test split only, so that both draw their training images from it, by class and by seed: few-shot
trains on k images a class and is scored on all others; the linear probe trains on each half and is scored on the other.
These numbers compare models with one another; they are not those of papers that train on the training split.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datacomp_core.evaluation.encode import Features
from datacomp_core.evaluation.metrics import Ints

DRAWS = 3
PENALTY = 1e-6  # of the squared weights, beside the mean loss; features have length 1
STEPS = 100


@dataclass(frozen=True)
class Probes:
    """The requested probes: the numbers of images per class, and whether to use half of the set."""

    few_shot: tuple[int, ...] = ()
    linear: bool = False

    def __bool__(self) -> bool:
        return self.linear or bool(self.few_shot)


def probe(probes: Probes, features: Features, labels: Ints, device: str) -> dict[str, Any]:
    """Accuracies in plain JSON: `few_shot_<k>` with mean and standard deviation over DRAWS draws, `linear_probe`.

    None where no image is left to test on, because no class has two. Where classes have too few images for k and one to test
    on, `few_shot_<k>` has how many (`short_classes`) and the fewest that one was trained on (`fewest`).
    """
    found: dict[str, Any] = {}
    if probes.linear:
        halves = split(labels, np.random.default_rng(0), None)
        if halves.all():  # no class has two images
            found["linear_probe"] = None
        else:
            hits = sum(_right(features, labels, train, ~train, device) for train in (halves, ~halves))
            found["linear_probe"] = hits / len(labels)
    for shots in probes.few_shot:
        scores: list[float] = []
        for draw in range(DRAWS):
            train = split(labels, np.random.default_rng((shots, draw)), shots)
            if not train.all():
                scores.append(_right(features, labels, train, ~train, device) / int((~train).sum()))
        found[f"few_shot_{shots}"] = None
        if scores:
            found[f"few_shot_{shots}"] = {"mean": float(np.mean(scores)), "std": float(np.std(scores)), "draws": len(scores)}
            sizes = np.bincount(labels)
            short = sizes[(sizes > 0) & (sizes <= shots)]
            if len(short):
                found[f"few_shot_{shots}"] |= {"short_classes": len(short), "fewest": int(max(short.min() - 1, 1))}
    return found


def split(labels: Ints, random: np.random.Generator, shots: int | None) -> npt.NDArray[np.bool_]:
    """A mask (n,) of the samples to train on: `shots` of each class (all but one if it has fewer), or half of each."""
    order = random.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    sizes = np.bincount(labels)
    rank = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    wanted = -(-sizes // 2) if shots is None else np.minimum(shots, np.maximum(sizes - 1, 1))
    mask = np.zeros(len(labels), np.bool_)
    mask[order] = rank < wanted[labels[order]]
    return mask


def _right(features: Features, labels: Ints, train: npt.NDArray[np.bool_], test: npt.NDArray[np.bool_], device: str) -> int:
    """How many of `test` a multinomial logistic regression on `train` gets right: full batches, L-BFGS, from zero."""
    import torch

    if not test.any():
        return 0
    classes, target = np.unique(labels[train], return_inverse=True)
    x = torch.from_numpy(features[train]).to(device)
    y = torch.from_numpy(target.astype(np.int64)).to(device)
    weight = torch.zeros(features.shape[1], len(classes), device=device, requires_grad=True)
    bias = torch.zeros(len(classes), device=device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_change=1e-7)

    def loss() -> Any:
        solver.zero_grad()
        value = torch.nn.functional.cross_entropy(x @ weight + bias, y) + PENALTY * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    with torch.inference_mode():
        chosen = (torch.from_numpy(features[test]).to(device) @ weight + bias).argmax(dim=1).cpu().numpy()
    return int((classes[chosen] == labels[test]).sum())
