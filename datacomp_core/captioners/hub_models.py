"""Models of transformers: captioners of pictures (BLIP, BLIP-2, Florence-2, GIT, ...) and text-to-text models that translate.

A model is fetched at its commit, without code and without pickles, and used only if its weights have the sha256 of the spec.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datacomp_core import hub
from datacomp_core.captioners.base import WriterSpec
from datacomp_core.checkpoints import require_finite
from datacomp_core.device import check_device
from datacomp_core.errors import DataError, short_text
from datacomp_core.settings import settings
from datacomp_core.store.folder import Folder, hash_file

KINDS = (".json", ".txt", ".model", ".safetensors", ".spm")


def folder_of(spec: WriterSpec) -> Path:
    """The model's files on this machine; fetched if they are not there. DataError if the weights are not those of the spec."""
    kept = Folder(settings().home / "assets" / "captioners" / spec.model / spec.revision)
    if not kept.files(".safetensors"):
        there = hub.snapshot("model", spec.model, spec.revision)
        if not any(file.path.endswith(".safetensors") for file in there.files):
            raise DataError(
                f"{spec.model} at {spec.revision} has no .safetensors weights, and external pickle files are not loaded: use "
                "a revision with .safetensors."
            )
        hub.fetch(there, kept, only=lambda path: path.endswith(KINDS) and "/" not in path)
    if (found := weights_hash(kept.path)) != spec.sha256:
        raise DataError(f"The weights of {spec.model} at {kept} have sha256 {found} and should have {spec.sha256}.")
    return kept.path


def weights_hash(folder: Path) -> str:
    """sha256 of the one file of weights; of several, of the lines that `sha256sum *.safetensors` prints."""
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return hash_file(files[0])
    return hashlib.sha256("".join(f"{hash_file(file)}  {file.name}\n" for file in files).encode()).hexdigest()


class _Model:
    """A model of transformers on a device."""

    def __init__(self, spec: WriterSpec, device: str, kind: str) -> None:
        import torch
        import transformers

        check_device(device)
        self.spec, self.device, self.folder = spec, device, folder_of(spec)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[spec.precision]
        transformers.utils.logging.disable_progress_bar()
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            loaded: Any = getattr(transformers, kind).from_pretrained(
                self.folder, dtype=dtype, output_loading_info=True, use_safetensors=True, **options
            )
            model, told = loaded
            self.prepare: Any = self._prepared(transformers, options)
        except Exception as problem:  # transformers raises a dozen kinds
            raise DataError(f"{spec.model} is not loadable with transformers: {short_text(problem)}") from problem
        if wrong := sorted(str(key) for kind_ in ("missing_keys", "mismatched_keys") for key in told.get(kind_, ())):
            raise DataError(f"The weights of {spec.model} lack {len(wrong)} of its values, such as {wrong[0]}.")
        require_finite(model, spec.model)
        self.dtype, self.model = dtype, model.to(device).eval()

    def _prepared(self, transformers: Any, options: dict[str, Any]) -> Any:
        raise NotImplementedError

    def generated(self, inputs: Any, seed: int, **more: Any) -> Any:
        """Token rows of every text that was asked for."""
        import torch

        spec = self.spec
        draw: dict[str, Any] = {"do_sample": False}
        if spec.temperature:
            draw = {"do_sample": True, "temperature": spec.temperature, "top_p": spec.top_p, "top_k": 0}
        inputs = {
            name: value.to(self.device, self.dtype) if value.is_floating_point() else value.to(self.device)
            for name, value in inputs.items()
        }
        torch.manual_seed(seed)
        with torch.inference_mode():
            return self.model.generate(
                **inputs, max_new_tokens=spec.max_tokens, num_beams=1, num_return_sequences=spec.num_captions, **draw, **more
            )

    def grouped(self, texts: list[str]) -> list[list[str]]:
        count = self.spec.num_captions
        plain = [text.strip() for text in texts]
        return [plain[first : first + count] for first in range(0, len(plain), count)]


class PictureModel(_Model):
    """Writes captions of pictures."""

    def __init__(self, spec: WriterSpec, device: str) -> None:
        super().__init__(spec, device, "AutoModelForImageTextToText")

    def _prepared(self, transformers: Any, options: dict[str, Any]) -> Any:
        return transformers.AutoProcessor.from_pretrained(self.folder, **options)

    def write(self, asked: Sequence[Any], seed: int) -> list[list[str]]:
        prompts = {"text": [self.spec.prompt] * len(asked)} if self.spec.prompt or self._wants_text() else {}
        inputs = self.prepare(images=list(asked), return_tensors="pt", padding=True, **prompts)
        rows = self.generated(inputs, seed)
        texts = self.prepare.batch_decode(rows, skip_special_tokens=True)
        if self.spec.prompt and not self.model.config.is_encoder_decoder:
            texts = [text.strip().removeprefix(self.spec.prompt.strip()) for text in texts]
        return self.grouped(texts)

    def _wants_text(self) -> bool:
        """BLIP writes without a prompt; the others take an empty one."""
        return self.model.config.model_type not in ("blip", "git")


class TextModel(_Model):
    """Translates texts."""

    def __init__(self, spec: WriterSpec, device: str) -> None:
        super().__init__(spec, device, "AutoModelForSeq2SeqLM")

    def _prepared(self, transformers: Any, options: dict[str, Any]) -> Any:
        return transformers.AutoTokenizer.from_pretrained(self.folder, **options)

    def write(self, asked: Sequence[Any], seed: int) -> list[list[str]]:
        language = getattr(self.spec, "target_language", "")
        more: dict[str, Any] = {}
        if source := getattr(self.spec, "source_language", ""):
            self.prepare.src_lang = source
        if language:
            more["forced_bos_token_id"] = self.prepare.convert_tokens_to_ids(language)
        texts = [f"{self.spec.prompt}{text}" for text in asked]
        inputs = self.prepare(texts, return_tensors="pt", padding=True, truncation=True)
        return self.grouped(self.prepare.batch_decode(self.generated(inputs, seed, **more), skip_special_tokens=True))
