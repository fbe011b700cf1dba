"""Zero-shot classification as clip_benchmark does it: accuracy@1 (scikit-learn's `accuracy_score`), accuracy@5 (ours, equal to
clip_benchmark's `accuracy`) and mean per-class recall (scikit-learn's `recall_score`, equal to its `balanced_accuracy_score`).

Logits are 100 times the cosine with the classifier, and are ranked on the CPU as in the reference, so that ties fall alike.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from datacomp_core.errors import DataError
from datacomp_core.evaluation import analysis, metrics
from datacomp_core.evaluation.catalog import EvalTask
from datacomp_core.evaluation.datasets import TestSet, open_tars
from datacomp_core.evaluation.encode import Encoded
from datacomp_core.evaluation.protocol import Arrays, Metrics, TaskOutcome, require
from datacomp_core.evaluation.zero_shot_model import EvalModel
from datacomp_core.store.folder import Folder

TOP = 5


class Classification:
    """See the module. Protocols with groups extend `extra`."""

    version: ClassVar[int] = 1
    half: ClassVar[bool] = False
    members: ClassVar[tuple[str, ...]] = ("cls",)

    @classmethod
    def open(cls, folder: Folder) -> TestSet:
        return open_tars(folder, cls.members)

    def __init__(self, task: EvalTask, data: TestSet, model: EvalModel) -> None:
        self.device, self.names = model.clip.device, data.classnames
        self.num_classes = len(data.classnames)
        self.classifier = model.classifier(data.classnames, data.templates)
        self.predicted: list[npt.NDArray[np.int32]] = []
        self.ranked: list[npt.NDArray[np.int32]] = []
        self.labels: list[int] = []
        self.metadata: list[npt.NDArray[Any]] = []
        self.confidence: list[npt.NDArray[np.float32]] = []
        self.loss = 0.0

    def add(self, samples: Encoded) -> None:
        import torch

        self._check(samples)
        labels = torch.tensor(samples.members["cls"])
        with torch.inference_mode():
            features = torch.from_numpy(samples.features).to(self.device)
            logits = (100.0 * features @ self.classifier).float().cpu()
            self.predicted.append(logits.argmax(dim=1).numpy().astype(np.int32))
            self.ranked.append(logits.topk(min(TOP, self.num_classes), 1, True, True)[1].numpy().astype(np.int32))
            self.confidence.append(logits.softmax(dim=1).amax(dim=1).numpy())
            self.loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
        self.labels += samples.members["cls"]
        self.metadata += samples.members.get("npy", [])

    def finish(self) -> TaskOutcome:
        predicted, ranked = np.concatenate(self.predicted), np.concatenate(self.ranked)
        labels, confidence = np.array(self.labels, np.int32), np.concatenate(self.confidence)
        kept: dict[str, npt.NDArray[Any]] = {"labels": labels, "predicted": predicted, "ranked": ranked}
        if self.metadata:
            kept["metadata"] = np.stack(self.metadata)
        told = {
            "calibration": {
                "expected_calibration_error": analysis.calibration_error(confidence, predicted == labels),
                "mean_confidence": float(confidence.mean()),
                "negative_log_likelihood": self.loss / len(labels),
            },
            "worst_classes": analysis.worst_classes(predicted, labels, self.names),
            "confusions": analysis.confusions(predicted, labels, self.names),
        }
        return TaskOutcome(self.metrics_of(kept), {**kept, "confidence": confidence.astype(np.float16)}, told)

    @classmethod
    def metrics_of(cls, kept: Arrays, main: str = "") -> Metrics:
        """All metrics from `labels` (n,), `predicted` (n,) and `ranked` (n, min(5, classes)), the best first."""
        check_classified(kept)
        labels, predicted, ranked = kept["labels"], kept["predicted"], kept["ranked"]
        found: Metrics = {
            "acc1": metrics.accuracy(ranked[:, 0], labels),
            "acc5": metrics.hit_rate(metrics.topk_hits(ranked, labels, TOP)) if ranked.shape[1] >= TOP else None,
            "mean_per_class_recall": metrics.mean_per_class_recall(predicted, labels),
        }
        return {**found, **cls.extra(kept)}

    @classmethod
    def extra(cls, kept: Arrays) -> Metrics:
        """Further metrics of a protocol that extends this one."""
        return {}

    def _check(self, samples: Encoded) -> None:
        for key, label in zip(samples.keys, samples.members["cls"], strict=True):
            if not 0 <= label < self.num_classes:
                raise DataError(f"sample {key}: its label {label} is not one of the {self.num_classes} classes")


def check_classified(kept: Arrays) -> None:
    """Predictions may come from strangers: one label, one class and at most five ranked classes, all different, a sample."""
    labels, predicted, ranked = (
        require(kept, name, "iu", dims) for name, dims in (("labels", 1), ("predicted", 1), ("ranked", 2))
    )
    if not len(labels) or not len(labels) == len(predicted) == len(ranked) or not 1 <= ranked.shape[1] <= TOP:
        raise DataError(
            f"{len(labels)} labels, {len(predicted)} predictions and ranks of shape {ranked.shape} do not fit together"
        )
    if min(int(labels.min()), int(predicted.min()), int(ranked.min())) < 0:
        raise DataError("a class number is below 0")
    ordered = np.sort(ranked, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise DataError("the ranked classes of a sample name one class twice")
