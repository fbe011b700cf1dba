"""open_clip's CoCa as a captioner. Its own `generate` needs a class that transformers 5 removed, so tokens are drawn here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datacomp_core import clip
from datacomp_core.captioners.base import WriterSpec
from datacomp_core.checkpoints import require_finite
from datacomp_core.device import check_device
from datacomp_core.errors import SpecError, short_text
from datacomp_core.pretrained_weights import weights

START, END = 49406, 49407


class Coca:
    """A CoCa on a device."""

    def __init__(self, spec: WriterSpec, device: str) -> None:
        import torch

        check_device(device)
        self.spec, self.device = spec, device
        self.model, self.transform = _loaded(spec)
        self.dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[spec.precision]
        self.model = self.model.to(device=device, dtype=self.dtype).eval()

    def write(self, asked: Sequence[Any], seed: int) -> list[list[str]]:
        import open_clip
        import torch

        chance = torch.Generator().manual_seed(seed)
        pixels = torch.stack([self.transform(image) for image in asked]).to(self.device, self.dtype)
        pixels = pixels.repeat_interleave(self.spec.num_captions, 0)
        with torch.inference_mode():
            texts = [open_clip.decode(row) for row in self._tokens(pixels, chance)]
        plain = [text.split("<end_of_text>")[0].replace("<start_of_text>", "").strip() for text in texts]
        count = self.spec.num_captions
        return [plain[first : first + count] for first in range(0, len(plain), count)]

    def _tokens(self, pixels: Any, chance: Any) -> Any:
        """Token rows, (n, length), each from the start token to the end token or the longest length."""
        import open_clip
        import torch

        length = min(self.spec.max_tokens, int(self.model.context_length) - 1)
        latent, embeddings = self.model._encode_image(pixels)  # pyright: ignore[reportPrivateUsage] # as its own `generate` does
        begin = [START, *open_clip.tokenize([self.spec.prompt])[0].tolist()[1:]] if self.spec.prompt else [START]
        begin = begin[: begin.index(END)] if END in begin else begin
        tokens = torch.tensor([begin] * len(pixels), device=self.device)
        ended = torch.zeros(len(pixels), dtype=torch.bool, device=self.device)
        while tokens.shape[1] <= length and not bool(ended.all()):
            found = self.model(None, tokens, image_latent=latent, image_embs=embeddings, output_labels=False)
            drawn = _drawn(found["logits"][:, -1].float().cpu(), self.spec, chance).to(self.device)
            drawn[ended] = END
            ended |= drawn == END
            tokens = torch.cat([tokens, drawn[:, None]], 1)
        return tokens.cpu()


def _drawn(logits: Any, spec: WriterSpec, chance: Any) -> Any:
    """The next token of each row, (n,)."""
    import torch

    logits[:, START] = -torch.inf
    if not spec.temperature:
        return logits.argmax(1)
    shares = torch.softmax(logits / spec.temperature, 1)
    ordered, places = shares.sort(1, descending=True)
    before = ordered.cumsum(1) - ordered
    ordered[before >= spec.top_p] = 0
    return places.gather(1, torch.multinomial(ordered, 1, generator=chance))[:, 0]


def _loaded(spec: WriterSpec) -> tuple[Any, Any]:
    import open_clip

    name = clip.check_model(spec.model)
    config: Any = open_clip.get_model_config(name) or {}
    if "multimodal_cfg" not in config:
        raise SpecError(f"{spec.model} of open_clip does not write captions: use a CoCa model, such as coca_ViT-B-32.")
    path = weights(name, spec.weights, spec.sha256)
    try:
        model, _, transform = open_clip.create_model_and_transforms(name, pretrained=str(path), weights_only=True)
    except Exception as problem:  # open_clip and torch raise a dozen kinds
        raise SpecError(f"{path} does not fit {spec.model}: {short_text(problem)}") from problem
    require_finite(model, str(path))
    return model, transform
