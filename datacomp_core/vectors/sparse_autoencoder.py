"""Trains a k-sparse autoencoder of embeddings: few of many learned directions describe an image. Uses a GPU if there is one.

Source: Makhzani and Frey 2014 (arXiv:1312.5663), as Gao et al. 2024 (arXiv:2406.04093) train it: the k largest units are active,
the decoder starts as the encoder's transpose and its columns keep length 1. No term revives dead units.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from datacomp_core.device import default_device
from datacomp_core.vectors.files import Vectors

Codes = npt.NDArray[np.int32]
AT_ONCE = 4096
NONE = -1


class Autoencoder(NamedTuple):
    """`center` (d,), `encoder` (d, units), `bias` (units,), and how many units are active. It pickles."""

    center: Vectors
    encoder: Vectors
    bias: Vectors
    active: int

    def codes(self, rows: Vectors) -> Codes:
        """The active units of each row (n, d) in increasing order, (n, active); -1 where fewer than that are positive."""
        import torch

        device = default_device()
        encoder, bias = (torch.from_numpy(one).to(device) for one in (self.encoder, self.bias))
        found = [np.empty((0, self.active), np.int32)]
        for start in range(0, len(rows), AT_ONCE):
            some = torch.from_numpy(rows[start : start + AT_ONCE] - self.center).to(device)
            top = torch.topk(some @ encoder + bias, self.active, dim=1)
            units = torch.where(top.values > 0, top.indices, NONE)
            found.append(np.sort(units.cpu().numpy().astype(np.int32), axis=1))
        return np.concatenate(found)


def train(
    rows: Vectors, units: int, active: int, *, epochs: int = 2, batch: int = 1024, learning_rate: float = 1e-3, seed: int = 0
) -> Autoencoder:
    """Learn from rows (n, d) of length 1; deterministic on one machine."""
    import torch

    device = default_device()
    generator = torch.Generator().manual_seed(seed)
    first = torch.nn.functional.normalize(torch.randn(units, rows.shape[1], generator=generator), dim=1).to(device)
    center = torch.from_numpy(rows.mean(0)).to(device)
    learned: list[Any] = [
        one.requires_grad_() for one in (center, first.T.clone(), torch.zeros(units, device=device), first.clone())
    ]
    optimizer = torch.optim.Adam(learned, lr=learning_rate)
    chance = np.random.default_rng(seed)
    for _ in range(epochs):
        order = chance.permutation(len(rows))
        for start in range(0, len(order), batch):
            some = torch.from_numpy(rows[order[start : start + batch]]).to(device)
            optimizer.zero_grad()
            _loss(some, learned, active).backward()
            optimizer.step()
            with torch.no_grad():
                learned[3].div_(learned[3].norm(dim=1, keepdim=True).clamp_min(1e-8))
    center, encoder, bias, _ = (one.detach().cpu().numpy() for one in learned)
    return Autoencoder(center, np.ascontiguousarray(encoder), bias, active)


def _loss(some: Any, learned: list[Any], active: int) -> Any:
    """Return the mean squared error of a batch reconstructed from its active units."""
    import torch

    center, encoder, bias, decoder = learned
    top = torch.topk((some - center) @ encoder + bias, active, dim=1)
    made = torch.nn.functional.embedding_bag(top.indices, decoder, per_sample_weights=torch.relu(top.values), mode="sum")
    return (made + center - some).square().sum(1).mean()
