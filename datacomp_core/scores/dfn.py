"""A data filtering network on embeddings: scores pairs with a small model trained on trusted pairs.
Source: Fang et al. 2024, Data Filtering Networks (arXiv:2309.17425).

There a CLIP is trained on trusted pairs and its cosine is the score. Here the towers are a released CLIP's, frozen, and what is
trained on top of them is a linear map a side, by the same contrastive loss; it takes minutes and no pictures. To train the
towers themselves, train a CLIP on the trusted set and embed the pool with it: that is what the `tiny` scale's scorer is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datacomp_core.pool_source import PoolSource
from datacomp_core.scores.base import Score, ScoreContext, register
from datacomp_core.vectors.files import Vectors, VectorsName, matched, unit

TEMPERATURE = 0.07


class Heads(NamedTuple):
    """One linear map a side, (d, d)."""

    images: Vectors
    texts: Vectors


@register("dfn")
class Dfn(Score):
    """Cosine of image and caption after the maps that were trained on trusted pairs."""

    paper = "Fang et al. 2024, Data Filtering Networks (arXiv:2309.17425), on frozen towers"
    needs = frozenset({"features"})
    trusted_images: VectorsName = Field(description="Image embeddings of trusted pairs, row by row with the texts: a file.")
    trusted_texts: VectorsName = Field(description="Their text embeddings: a file.")
    features: str = Field(default="l14", pattern=r"^[a-z0-9_]+$", description="Name of the embeddings: <features>_img and _txt.")
    epochs: int = Field(default=10, ge=1, description="Passes over the trusted pairs.")
    batch: int = Field(default=4096, ge=2, description="Pairs per batch.")
    learning_rate: float = Field(default=1e-3, gt=0, description="Of AdamW.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the order of the pairs.")

    def feature_keys(self) -> tuple[str, ...]:
        return f"{self.features}_img", f"{self.features}_txt"

    def prepare(self, context: ScoreContext) -> Heads:
        """Train the two maps."""
        first = next(context.source.embeddings(context.names[0], self.feature_keys()[0], 1))
        images = unit(matched(self.trusted_images, first.shape[1]))
        texts = unit(matched(self.trusted_texts, first.shape[1]))
        return self.trained(images, texts)

    def of_part(self, source: PoolSource, part: str, prepared: Heads) -> npt.NDArray[np.float32]:
        sides = (source.embeddings(part, key) for key in self.feature_keys())
        found = [np.empty(0, np.float32)]
        for images, texts in zip(*sides, strict=True):
            found.append(np.einsum("nd,nd->n", unit(images @ prepared.images), unit(texts @ prepared.texts)))
        return np.concatenate(found)

    def trained(self, images: Vectors, texts: Vectors) -> Heads:
        """Maps that start as the identity, so that before any training the score is the CLIP score. Deterministic."""
        import torch

        torch.manual_seed(self.seed)
        sides: Any = [torch.eye(images.shape[1], requires_grad=True) for _ in range(2)]
        optimizer = torch.optim.AdamW(sides, lr=self.learning_rate)
        given = (torch.from_numpy(images), torch.from_numpy(texts))
        chance = np.random.default_rng(self.seed)
        for _ in range(self.epochs):
            order = chance.permutation(len(images))
            for start in range(0, len(order), self.batch):
                some = torch.from_numpy(order[start : start + self.batch])
                if len(some) < 2:
                    continue
                optimizer.zero_grad()
                left, right = (
                    torch.nn.functional.normalize(side[some] @ map_, dim=1) for side, map_ in zip(given, sides, strict=True)
                )
                contrastive(left @ right.T).backward()
                optimizer.step()
        return Heads(*(side.detach().numpy() for side in sides))


def contrastive(cosines: Any) -> Any:
    """CLIP's loss of a batch: each row and each column should name its own."""
    import torch

    own = torch.arange(len(cosines))
    loss = torch.nn.functional.cross_entropy
    return (loss(cosines / TEMPERATURE, own) + loss(cosines.T / TEMPERATURE, own)) / 2
