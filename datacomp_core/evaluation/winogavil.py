"""WinoGAViL: which candidates go with a cue, scored by scikit-learn's `jaccard_score`, as the reference does it.

Each image is encoded once, not once an instance. On a GPU the reference has features and similarities in fp16, where ties
are likely; they go to the later candidate (the end of an ascending `argsort`).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from datacomp_core.errors import DataError
from datacomp_core.evaluation import hf_cache, metrics
from datacomp_core.evaluation.catalog import EvalTask
from datacomp_core.evaluation.datasets import TestSet
from datacomp_core.evaluation.encode import Encoded, Features
from datacomp_core.evaluation.protocol import Arrays, Metrics, TaskOutcome, require
from datacomp_core.evaluation.tables import ZipSet, open_associations, stem
from datacomp_core.evaluation.zero_shot_model import EvalModel
from datacomp_core.store.folder import Folder


class Winogavil:
    """See the module."""

    version: ClassVar[int] = 1
    half: ClassVar[bool] = True

    @classmethod
    def open(cls, folder: Folder) -> TestSet:
        return hf_cache.open_cached(folder, "winogavil") if hf_cache.is_cached(folder) else open_associations(folder)

    def __init__(self, task: EvalTask, data: ZipSet | hf_cache.CachedSet, model: EvalModel) -> None:
        self.model, self.instances = model, data.instances
        self.row = {stem(name): row for row, name in enumerate(data.names)}
        self.images: list[Features] = []

    def add(self, samples: Encoded) -> None:
        self.images.append(samples.features)

    def finish(self) -> TaskOutcome:
        import torch

        images = torch.from_numpy(np.concatenate(self.images)).to(self.model.clip.device)
        texts = self.model.texts([prompt(instance.cue) for instance in self.instances])
        sizes = np.array([len(instance.candidates) for instance in self.instances])
        chosen, right = (np.zeros((len(sizes), int(sizes.max())), np.bool_) for _ in range(2))
        for place, instance in enumerate(self.instances):
            rows = torch.tensor([self.row[stem(name)] for name in instance.candidates], device=images.device)
            with torch.inference_mode(), self.model.clip.autocast(self.model.precision(half=True)):
                similar = (texts[place, None] @ images[rows].T).squeeze(0).cpu()
            order = np.argsort((similar.float() if similar.dtype == torch.bfloat16 else similar).numpy())
            right[place, : len(rows)] = np.isin(instance.candidates, instance.associations)
            chosen[place, order[-int(right[place].sum()) :]] = True
        scores = metrics.jaccard(chosen, right)
        found = self.metrics_of({"jaccard": scores, "candidates": sizes})
        return TaskOutcome(found, {"jaccard": scores.astype(np.float32), "candidates": sizes.astype(np.int16)})

    @classmethod
    def metrics_of(cls, kept: Arrays, main: str = "") -> Metrics:
        """Mean Jaccard indices from `jaccard` (n,) and the number of `candidates` (n,) of each instance."""
        scores, sizes = require(kept, "jaccard", "f", 1), require(kept, "candidates", "iu", 1)
        if not len(scores) or len(scores) != len(sizes) or scores.min() < 0 or scores.max() > 1 or sizes.min() < 2:
            raise DataError(f"{len(scores)} Jaccard indices and {len(sizes)} numbers of candidates do not fit together")
        scores = scores.astype(np.float64)
        kinds = {
            "avg_jaccard_score": sizes > 0,
            **{f"jaccard_score_{n}": sizes == n for n in (5, 6, 10, 12)},
            "jaccard_score_5-6": sizes <= 6,
            "jaccard_score_10-12": sizes >= 10,
        }
        return {name: float(scores[kind].mean()) if kind.any() else None for name, kind in kinds.items()}


def prompt(cue: str) -> str:
    """The cue in lower case after its article."""
    cue = cue.lower()
    return f"{'An' if cue[0] in 'aeiou' else 'A'} {cue}"
