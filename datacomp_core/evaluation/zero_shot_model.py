"""The model as evaluation uses it: the reference's precision for each tower, and zero-shot classifiers that are kept.

The reference's precision is not uniform. On a GPU it encodes the images of classification tasks in fp32, texts under fp16
autocast, and both under fp16 for retrieval and WinoGAViL; on a CPU everything is fp32. `reference` copies that.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from datacomp_core.clip import Clip, Precision
from datacomp_core.errors import DataError
from datacomp_core.image_preprocessing import PixelArray, Pixels
from datacomp_core.pictures import Decoding
from datacomp_core.store.folder import Folder

if TYPE_CHECKING:
    import torch

Mode = Literal["reference", "fp32", "bf16"]
Compile = Literal["no", "yes"]
TEXT_BATCH = 512
CLASSIFIERS = "classifiers"
UNIT = 1e-3
"""How far from 1 the length of a class's weights may be; bf16 rounds more coarsely than this at no place."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exactness:
    """The settings that change the last bits: the precision, whether the image tower is compiled, and how images are resized."""

    precision: Mode = "reference"
    compile: Compile = "no"
    decoding: Decoding = "full"


EXACT = Exactness()


class EvalModel:
    """A CLIP and the classifiers made with it, by their class names and templates, which several tasks share.

    With `kept`, classifiers lie there under the hash of all that they are made of: text tower, precision, names, templates, and
    what `made_of` says of the model beside its weights (configuration, tokenizer, libraries).
    """

    def __init__(
        self,
        clip: Clip,
        exactness: Exactness = EXACT,
        kept: Folder | None = None,
        made_of: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.clip, self.exactness, self.kept = clip, exactness, kept
        self.made_of = dict(made_of)
        self._classifiers: dict[str, torch.Tensor] = {}
        self._tower = ""
        if exactness.compile == "yes":
            tower: Any = clip.model.visual
            tower.compile(dynamic=True)

    def precision(self, *, half: bool) -> Precision:
        """Return the precision of one tower; `half`: the reference runs it under autocast."""
        if self.exactness.precision != "reference":
            return self.exactness.precision
        return "fp16" if half and self.clip.device.startswith("cuda") else "fp32"

    @property
    def pixels(self) -> Pixels:
        """The preparation of images."""
        return replace(self.clip.pixels, decoding=self.exactness.decoding)

    def images(self, pixels: PixelArray, *, half: bool = False) -> torch.Tensor:
        """Normalised features (n, d) on the device."""
        return self.clip.encode_images(pixels, self.precision(half=half))

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Normalised features (n, d), float32 on the device. Each distinct text is encoded once, in large batches."""
        import torch

        unique = list(dict.fromkeys(texts))
        precision = self.precision(half=True)
        pieces = [self.clip.encode_texts(unique[i : i + TEXT_BATCH], precision) for i in range(0, len(unique), TEXT_BATCH)]
        place = {text: row for row, text in enumerate(unique)}
        good = torch.cat([torch.isfinite(piece).all(dim=1) for piece in pieces])
        if not bool(good.all()):
            raise DataError(
                f"The model gives NaN or infinity for the text {unique[int((~good).nonzero()[0])][:200]!r} ({precision})."
            )
        return torch.cat(pieces).float()[torch.tensor([place[text] for text in texts], device=pieces[0].device)]

    def classifier(self, classnames: tuple[str, ...], templates: tuple[str, ...]) -> torch.Tensor:
        """Zero-shot weights (d, classes): the mean of a class's normalised prompts, normalised again."""
        import torch

        kind = self.clip.device.partition(":")[0]
        made_of = [self.tower(), self.precision(half=True), kind, classnames, templates, sorted(self.made_of.items())]
        key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
        if key not in self._classifiers:
            found = self._read(key, len(classnames))
            if found is None:
                prompts = [_filled(template, name) for name in classnames for template in templates]
                with torch.inference_mode():
                    classes = self.texts(prompts).view(len(classnames), len(templates), -1).mean(dim=1)
                    found = (classes / classes.norm(dim=1, keepdim=True)).T.contiguous()
                if not bool(torch.isfinite(found).all()):
                    bad = classnames[int((~torch.isfinite(found).all(dim=0)).nonzero()[0])]
                    raise DataError(
                        f"The prompts of the class {bad!r} cancel each other out, so it has no classifier: change the "
                        "templates or class names."
                    )
                self._write(key, found)
            self._classifiers[key] = found
        return self._classifiers[key]

    def tower(self) -> str:
        """The sha256 over the names, shapes and values of everything in the model but its image tower."""
        if not self._tower:
            digest = hashlib.sha256(self.clip.name.encode())
            for name, value in sorted(self.clip.model.state_dict().items()):
                if not name.startswith(("visual.", "clip.vision_model.", "clip.visual_projection.")):
                    digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
                    digest.update(value.detach().float().cpu().contiguous().numpy().data)
            self._tower = digest.hexdigest()
        return self._tower

    def _read(self, key: str, num_classes: int) -> torch.Tensor | None:
        """The kept classifier: None if there is none, or if what lies there cannot be one (columns of another length than 1)."""
        import torch

        name = f"{CLASSIFIERS}/{key}.npy"
        if self.kept is None or not self.kept.exists(name):
            return None
        try:
            found = np.load(io.BytesIO(self.kept.read(name)), allow_pickle=False)
        except (ValueError, EOFError):
            return None  # not ours; it is made again
        if found.shape != (self.clip.dim, num_classes) or found.dtype.kind != "f":
            return None
        if not np.allclose(np.linalg.norm(found, axis=0), 1, atol=UNIT):  # NaN is not close to anything
            log.warning("%s is damaged; making it again", self.kept.at(name))
            return None
        return torch.from_numpy(found.astype(np.float32)).to(self.clip.device)

    def _write(self, key: str, weights: torch.Tensor) -> None:
        if self.kept is None:
            return
        buffer = io.BytesIO()
        np.save(buffer, weights.float().cpu().numpy(), allow_pickle=False)
        self.kept.write(f"{CLASSIFIERS}/{key}.npy", buffer.getvalue())


def _filled(template: str, name: str) -> str:
    try:
        found = template.format(c=name)
        if found == template.format(c=f"{name}."):
            raise DataError(
                f"The template {template!r} does not contain {{c}}, so every class would have the same prompt: use {{c}} for "
                "the class name."
            )
        return found
    except (AttributeError, KeyError, IndexError, ValueError) as problem:
        raise DataError(
            f"The template {template!r} is malformed: {{c}} is its only placeholder, for the class name."
        ) from problem
