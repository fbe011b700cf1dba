"""Scores a pair relative to others: CLIP score minus what other captions and images would score. Source: Wang et al. 2024
(arXiv:2405.19547), negCLIPLoss, computed as in their `vas2.py`: in random batches of one part, averaged over several drawings.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from datacomp_core.device import default_device
from datacomp_core.errors import DataError
from datacomp_core.pool_source import PoolSource
from datacomp_core.scores.base import Score, register
from datacomp_core.vectors.files import Vectors, unit

AT_ONCE = 2048


@register("neg_clip_loss")
class NegClipLoss(Score):
    """s_i - (tau / 2) (log sum_j exp(f_i g_j / tau) + log sum_j exp(f_j g_i / tau)), the mean over `drawings` batches of i."""

    on_gpu = True
    paper = "Wang et al. 2024, negCLIPLoss (arXiv:2405.19547)"
    needs = frozenset({"features"})
    features: str = Field(default="l14", pattern=r"^[a-z0-9_]+$", description="Name of the embeddings: <features>_img and _txt.")
    temperature: float = Field(default=0.01, gt=0, allow_inf_nan=False, description="tau of the model (0.07 for DFN's).")
    batch: int = Field(default=32_768, ge=2, description="Pairs that are compared with each other, all of one part.")
    drawings: int = Field(default=10, ge=1, description="Number of redrawn batches; 5 are enough according to the paper.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the batches.")

    def feature_keys(self) -> tuple[str, ...]:
        return f"{self.features}_img", f"{self.features}_txt"

    def of_part(self, source: PoolSource, part: str, prepared: Any) -> npt.NDArray[np.float32]:
        images, texts = (source.whole(part, key) for key in self.feature_keys())
        if images.shape != texts.shape:
            image, text = self.feature_keys()
            raise DataError(
                f"The features of part {part} are not pairs: {image} has {images.shape[1]} dimensions and {text} "
                f"{texts.shape[1]}. Make or fetch them again."
            )
        rows = np.flatnonzero(np.isfinite(images).all(axis=1) & np.isfinite(texts).all(axis=1))
        scores = np.full(len(images), np.nan, np.float32)
        total = np.zeros(len(rows))
        for drawing in range(self.drawings):
            for some in batches(len(rows), self.batch, f"{part}-{self.seed}-{drawing}"):
                total[some] += self._of_batch(*(unit(side[rows[some]].astype(np.float32)) for side in (images, texts)))
        scores[rows] = total / self.drawings
        return scores

    def _of_batch(self, images: Vectors, texts: Vectors) -> npt.NDArray[np.float64]:
        tau = self.temperature
        towers = (log_sum_exp(images, texts, tau) + log_sum_exp(texts, images, tau)) / 2
        return np.einsum("nd,nd->n", images, texts, dtype=np.float64) - tau * towers


def batches(rows: int, size: int, key: str) -> list[npt.NDArray[np.int64]]:
    """A random partition into batches of `size`; a rest joins the last one, since small batches score higher."""
    chance = np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"))
    order = chance.permutation(rows)
    return np.split(order, [size * number for number in range(1, max(rows // size, 1))])


def log_sum_exp(ours: Vectors, theirs: Vectors, tau: float) -> npt.NDArray[np.float64]:
    """log sum_j exp(ours_i theirs_j / tau) for each i, in blocks of rows."""
    device = default_device()
    if device.startswith("cuda"):
        return _on_gpu(ours, theirs, tau, device)
    found = np.empty(len(ours))
    for start in range(0, len(ours), AT_ONCE):
        logits = ours[start : start + AT_ONCE] @ theirs.T
        logits *= np.float32(1 / tau)
        top = logits.max(1, keepdims=True)
        logits -= top
        found[start : start + AT_ONCE] = np.log(np.exp(logits, out=logits).sum(1, dtype=np.float64)) + top[:, 0]
    return found


def _on_gpu(ours: Vectors, theirs: Vectors, tau: float, device: str) -> npt.NDArray[np.float64]:
    import torch

    torch.set_float32_matmul_precision("highest")  # no TF32
    there = torch.from_numpy(theirs).to(device).T
    blocks = (torch.from_numpy(ours[start : start + AT_ONCE]).to(device) for start in range(0, len(ours), AT_ONCE))
    found = [torch.logsumexp((block @ there / tau).double(), dim=1).cpu().numpy() for block in blocks]
    return np.concatenate([np.empty(0), *found])
