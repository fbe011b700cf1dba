"""Defines a captioner: a pinned model, and every setting that changes what it writes.

A captioner receives several pictures (or texts) together and writes `num_captions` texts for each. Its random draws depend on
the seed and on which rows are in the call, so that a resumed run writes the same texts on any number of devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field, field_validator, model_validator

from datacomp_core import caption_sets
from datacomp_core.artifacts import Spec
from datacomp_core.errors import SpecError


class Captioner(Protocol):
    """A loaded model."""

    def write(self, asked: Sequence[Any], seed: int) -> list[list[str]]:
        """Texts for each picture (PIL, RGB) or text, in their order."""
        ...


class WriterSpec(Spec):
    """A model that writes texts, and how it samples."""

    on_gpu: ClassVar[bool] = True
    name: str = Field(min_length=1, max_length=60, pattern=caption_sets.SOURCE_PATTERN, description="Name of the source.")
    library: Literal["open_clip", "transformers", "server"] = Field(
        default="transformers",
        description="open_clip: a CoCa model. transformers: a model of the hub. server: a model behind an API of vLLM's "
        "(OpenAI's) shape, whose address is the setting DATACOMP_CAPTION_SERVER.",
    )
    model: str = Field(
        min_length=1, description="open_clip's name, such as coca_ViT-B-32; OWNER/NAME of the hub; a server's name."
    )
    weights: str = Field(default="", description="open_clip: the tag of the weights, such as laion2b_s13b_b90k.")
    revision: str = Field(default="", pattern=r"^([0-9a-f]{40})?$", description="transformers: the commit of the model.")
    sha256: str = Field(
        default="",
        pattern=r"^([0-9a-f]{64})?$",
        description="sha256 of the weights' file; with several files, of the output of `sha256sum *.safetensors`. Required "
        "except for a server.",
    )
    prompt: str = Field(default="", max_length=4000, description="The question to the model, or the beginning of its text.")
    num_captions: int = Field(
        default=1, ge=1, le=64, description="Number of texts for each row; more than one needs a temperature."
    )
    max_tokens: int = Field(default=40, ge=1, le=4096, description="Maximum length of a text in tokens of the model.")
    temperature: float = Field(default=0.0, ge=0, le=5, description="0: always the most likely token; above 0: random sampling.")
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Sample among the most likely tokens that have this total probability."
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="Of the model's weights and sums.")
    seed: int = Field(default=0, ge=0, description="Seed of the sampling.")
    batch_size: int = Field(default=32, ge=1, description="Number of rows in one batch; it affects the last bits.")

    @field_validator("name")
    @classmethod
    def _not_raw(cls, name: str) -> str:
        return caption_sets.own_name(name)

    @model_validator(mode="after")
    def _is_pinned(self) -> WriterSpec:
        needed = {"open_clip": ("weights", "sha256"), "transformers": ("revision", "sha256"), "server": ()}[self.library]
        if missing := [name for name in needed if not getattr(self, name)]:
            raise SpecError(f"A model of {self.library} must be pinned: give {' and '.join(missing)} of {self.model}.")
        if self.num_captions > 1 and not self.temperature:
            raise SpecError("Several texts for one row would be equal without sampling: give a temperature above 0.")
        return self

    def label(self) -> str:
        return self.name

    @property
    def title(self) -> str:
        """The model as a board names it."""
        return f"{self.model} {self.weights or self.revision[:12]}".strip()


def load(spec: WriterSpec, device: str, *, of: Literal["pictures", "texts"], server: str = "") -> Captioner:
    """Load the model on a device. SpecError if it is unknown, StoreError if it cannot be fetched, DataError if it differs."""
    if spec.library == "open_clip":
        from datacomp_core.captioners.coca import Coca

        if of == "texts":
            raise SpecError("open_clip has no model that translates: choose a model of transformers, or a server.")
        return Coca(spec, device)
    if spec.library == "server":
        from datacomp_core.captioners.chat_api import ChatApiCaptioner

        return ChatApiCaptioner(spec, server)
    from datacomp_core.captioners.hub_models import PictureModel, TextModel

    return (PictureModel if of == "pictures" else TextModel)(spec, device)


def batch_seed(seed: int, part: str, first: int) -> int:
    """The seed, of 63 bits, of a batch of rows of a part that begins at row `first`: no two batches of a pool share draws."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(f"{seed} {first} {part}".encode(), digest_size=8).digest(), "big") >> 1
