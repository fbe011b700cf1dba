"""Image-text retrieval as clip_benchmark does it: its `recall_at_k` both ways over one matrix of fp32 scores on the CPU.

The set is a webdataset with captions, or a table and an archive as on the hub. A query counts if at least one of its partners
is among the first k; all captions of an image are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from datacomp_core.errors import DataError
from datacomp_core.evaluation import hf_cache, metrics
from datacomp_core.evaluation.catalog import EvalTask
from datacomp_core.evaluation.datasets import SPLIT, TestSet, open_tars
from datacomp_core.evaluation.encode import Encoded, Features
from datacomp_core.evaluation.protocol import Arrays, Metrics, TaskOutcome, require
from datacomp_core.evaluation.tables import open_captions
from datacomp_core.evaluation.zero_shot_model import EvalModel
from datacomp_core.store.folder import Folder

if TYPE_CHECKING:
    import torch

KS = (1, 5, 10)
QUERIES = 1024  # ranked together


class Retrieval:
    """See the module."""

    version: ClassVar[int] = 1
    half: ClassVar[bool] = True

    @classmethod
    def open(cls, folder: Folder) -> TestSet:
        if folder.exists(f"{SPLIT}/nshards.txt"):
            return open_tars(folder, ("txt",), classes=False)
        return hf_cache.open_cached(folder, "retrieval") if hf_cache.is_cached(folder) else open_captions(folder)

    def __init__(self, task: EvalTask, data: TestSet, model: EvalModel) -> None:
        self.model, self.main = model, task.metric or ""
        self.images: list[Features] = []
        self.captions: list[list[str]] = []

    def add(self, samples: Encoded) -> None:
        for key, captions in zip(samples.keys, samples.members["txt"], strict=True):
            if not captions:
                raise DataError(f"sample {key}: it has no caption")
        self.images.append(samples.features)
        self.captions += samples.members["txt"]

    def finish(self) -> TaskOutcome:
        import torch

        images = torch.from_numpy(np.concatenate(self.images))
        texts = self.model.texts([text for captions in self.captions for text in captions]).cpu().float()
        image_of = torch.tensor([row for row, captions in enumerate(self.captions) for _ in captions])
        by_text, by_image = recalled(texts @ images.T, image_of)
        kept = {"image_found": by_text, "text_found": by_image, "image_of_text": image_of.numpy()}
        return TaskOutcome(self.metrics_of(kept, self.main), kept)

    @classmethod
    def metrics_of(cls, kept: Arrays, main: str = "") -> Metrics:
        """Recalls from `image_found` (texts, 3), `text_found` (images, 3), whether by k of KS, and `image_of_text` (texts,)."""
        by_text, by_image = require(kept, "image_found", "b", 2), require(kept, "text_found", "b", 2)
        image_of = require(kept, "image_of_text", "iu", 1)
        _check_found(by_text, by_image, image_of)
        found: Metrics = {}
        for place, k in enumerate(KS):
            found[f"image_retrieval_recall@{k}"] = float(by_text[:, place].mean())
            found[f"text_retrieval_recall@{k}"] = float(by_image[:, place].mean())
        for k in (1, 5) if main == "mean_recall@5" else (1,):
            sides = (found[f"text_retrieval_recall@{k}"], found[f"image_retrieval_recall@{k}"])
            found[f"mean_recall@{k}"] = 0.5 * sum(side or 0.0 for side in sides)
        return found


def recalled(scores: torch.Tensor, image_of: torch.Tensor) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """For each text, and for each image, whether a partner is among the first k of KS: (texts, 3) and (images, 3).

    `scores` (texts, images); `image_of` (texts,) is each text's image.
    """
    metrics.require_samples(scores.numel(), "recall")
    by_text = _hits(scores, lambda row, ranked: image_of[row, None] == ranked)
    return by_text, _hits(scores.T, lambda row, ranked: image_of[ranked] == row[:, None])


def _hits(scores: torch.Tensor, partner: Any) -> npt.NDArray[np.bool_]:
    """For each query (row) and each k of KS whether a partner is among the first k. Ties fall as in the reference's topk."""
    import torch

    found: list[torch.Tensor] = []
    for start in range(0, len(scores), QUERIES):
        rows = torch.arange(start, min(start + QUERIES, len(scores)))
        some = scores[start : start + QUERIES]
        best = [torch.topk(some, min(k, some.shape[1]), dim=1) for k in KS]
        found.append(torch.stack([metrics.recall_hits(top, partner(rows, places)) for top, places in best], dim=1))
    return torch.cat(found).numpy()


def _check_found(by_text: npt.NDArray[Any], by_image: npt.NDArray[Any], image_of: npt.NDArray[Any]) -> None:
    """Predictions may come from strangers: every image has a text, and who is found among one is found among five."""
    shapes = by_text.shape[1:], by_image.shape[1:]
    if shapes != ((len(KS),), (len(KS),)) or not len(by_image) or len(by_text) != len(image_of):
        raise DataError(f"{len(image_of)} texts and findings of shapes {by_text.shape} and {by_image.shape} do not fit together")
    if not np.array_equal(np.unique(image_of), np.arange(len(by_image))):
        raise DataError("an image has no text, or a text has no image")
    if any((found[:, :-1] & ~found[:, 1:]).any() for found in (by_text, by_image)):
        raise DataError("something is found among the first few and not among more of them")
