"""The model as evaluation uses it: the reference's precision for each tower, and zero-shot classifiers that are kept.

The reference's precision is not uniform. On a GPU it encodes the images of classification tasks in fp32, texts under fp16
autocast, and both under fp16 for retrieval and WinoGAViL; on a CPU everything is fp32. `reference` copies that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from datacomp_core.clip import Clip, PixelArray, Precision
from datacomp_core.errors import DataError

if TYPE_CHECKING:
    import torch

Mode = Literal["reference", "fp32", "bf16"]
TEXT_BATCH = 512


class EvalModel:
    """A CLIP and the classifiers made with it: several tasks share class names and templates (the ImageNet family)."""

    def __init__(self, clip: Clip, mode: Mode = "reference") -> None:
        self.clip = clip
        self.mode: Mode = mode
        self._classifiers: dict[tuple[tuple[str, ...], tuple[str, ...]], torch.Tensor] = {}

    def precision(self, *, half: bool) -> Precision:
        """What one tower runs in; `half`: the reference runs it under autocast."""
        if self.mode != "reference":
            return self.mode
        return "fp16" if half and self.clip.device.startswith("cuda") else "fp32"

    def images(self, pixels: PixelArray, *, half: bool = False) -> torch.Tensor:
        """Normalised features (n, d) on the device."""
        return self.clip.encode_images(pixels, self.precision(half=half))

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Normalised features (n, d) on the device. Each distinct text is encoded once, in large batches."""
        import torch

        unique = list(dict.fromkeys(texts))
        precision = self.precision(half=True)
        pieces = [self.clip.encode_texts(unique[i : i + TEXT_BATCH], precision) for i in range(0, len(unique), TEXT_BATCH)]
        place = {text: row for row, text in enumerate(unique)}
        return torch.cat(pieces)[torch.tensor([place[text] for text in texts], device=pieces[0].device)]

    def classifier(self, classnames: tuple[str, ...], templates: tuple[str, ...]) -> torch.Tensor:
        """Zero-shot weights (d, classes): the mean of a class's normalised prompts, normalised again."""
        import torch

        key = (classnames, templates)
        if key not in self._classifiers:
            prompts = [_filled(template, name) for name in classnames for template in templates]
            with torch.inference_mode():
                classes = self.texts(prompts).view(len(classnames), len(templates), -1).mean(dim=1)
                self._classifiers[key] = (classes / classes.norm(dim=1, keepdim=True)).T.contiguous()
        return self._classifiers[key]


def _filled(template: str, name: str) -> str:
    try:
        return template.format(c=name)
    except (KeyError, IndexError, ValueError) as problem:
        raise DataError(f"The template {template!r} cannot be filled: only {{c}} stands for the class name.") from problem
