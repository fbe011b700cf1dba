"""Defines what to compute for each row of a pool: which encoders, at which precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from datacomp_core import clip
from datacomp_core.artifacts import Spec
from datacomp_core.clip_named import is_configuration, pinned_configuration
from datacomp_core.clip_sources import ON_HUB
from datacomp_core.errors import SpecError
from datacomp_core.file_access import require_allowed
from datacomp_core.pictures import Decoding
from datacomp_core.store.folder import hash_file

PIN = 16
ENDINGS = (".pt", ".pth", ".bin", ".safetensors")


class Encoder(Spec):
    """One CLIP and what it makes: a checkpoint among the inputs, a tag of open_clip, a file, or a model of the hub."""

    pins_files: ClassVar[bool] = True  # a file of weights is known by its content, not by its place
    column: str = Field(
        default="clip_tiny_similarity_score", pattern=r"^[a-z0-9_]+$", description="Name of the score column: the cosine."
    )
    prefix: str = Field(default="tiny", pattern=r"^[a-z0-9_]+$", description="The npz keys are <prefix>_img and <prefix>_txt.")
    model: str = Field(
        default="",
        description="open_clip model name, a configuration file of open_clip (.json, with a file of weights), or "
        "hf-hub:OWNER/NAME@REVISION. Empty: the next checkpoint among the inputs.",
    )
    weights: str = Field(
        default="", description="With a model name of open_clip: its tag of the weights, such as `openai`, or a file of weights."
    )
    flip: Literal["none", "averaged"] = Field(
        default="none",
        description="`averaged`: the score is the mean over the picture and its mirror image (arXiv:2309.15954), so "
        "that words written in a picture count for less; twice the work. The features are of the picture itself.",
    )
    sha256: str = Field(
        default="",
        pattern=r"^([0-9a-f]{64})?$",
        description="sha256 of the weights; filled in for a file and for a model of the hub.",
    )

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, given: Any) -> Any:
        """A file is hashed, and a model of the hub is pinned to its commit, so that the spec says what it is everywhere."""
        if not isinstance(given, dict):
            return given
        model, weights = str(given.get("model") or ""), str(given.get("weights") or "")
        if model.startswith(ON_HUB):
            return _of_hub(given, model)
        if model and weights.endswith(ENDINGS) and "#" not in weights:
            require_allowed(weights)
            path = Path(weights).expanduser().resolve()
            if not path.is_file():
                raise SpecError(f"No weights exist at {weights}: give the path of a checkpoint file, or a tag of open_clip.")
            found = hash_file(path)
            if given.get("sha256") not in (None, "", found):
                raise SpecError(f"{weights} has sha256 {found} and should have {given['sha256']}.")
            named = _configuration(model) if is_configuration(model) else clip.check_model(model)
            return {**given, "model": named, "weights": f"{path}#{found[:PIN]}", "sha256": found}
        return given

    @model_validator(mode="after")
    def _is_whole(self) -> Encoder:
        if self.is_of_hub:
            if self.weights:
                raise ValueError(f"{self.model} already has weights: omit `weights`.")
        elif len({bool(self.model), bool(self.weights), bool(self.sha256)}) > 1:
            raise ValueError(
                "Give model, weights and sha256 together, or none of them to use a checkpoint. "
                "A file of weights and a model of the hub need no sha256."
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `flip` unless images are flipped, so that specs written before the field existed keep their fingerprint."""
        return {name: value for name, value in handler(self).items() if name != "flip" or value != "none"}

    @model_validator(mode="after")
    def _has_weights(self) -> Encoder:
        if is_configuration(self.model) and "#" not in self.weights:
            raise ValueError(
                f"The model {self.model} is a configuration: give its weights as a file (.pt, .bin or .safetensors)."
            )
        return self

    @property
    def is_of_hub(self) -> bool:
        return self.model.startswith(ON_HUB)

    @property
    def file(self) -> str:
        """The place of its file of weights; empty for other kinds."""
        return self.weights.rpartition("#")[0]


def _configuration(model: str) -> str:
    if "#" in model:
        return model
    require_allowed(model)
    return pinned_configuration(model)


def _of_hub(given: dict[str, Any], model: str) -> dict[str, Any]:
    from datacomp_core import clip_hub

    if clip_hub.is_pinned(model) and given.get("sha256"):
        return given
    require_allowed(model)
    found = clip_hub.pin(model)
    if given.get("sha256") not in (None, "", found.sha256):
        raise SpecError(f"The weights of {found.model} have sha256 {found.sha256} and should have {given['sha256']}.")
    return {**given, "model": found.model, "sha256": found.sha256}


class EmbedSpec(Spec):
    """Defines what to compute for each row of the pool. All encoders share one pass over the images."""

    encoders: tuple[Encoder, ...] = Field(default=(Encoder(),), min_length=1, description="The models and their columns.")
    precision: clip.Precision = Field(default="fp32", description="fp32, or autocast to bf16 or fp16.")
    decoding: Decoding = Field(
        default="full",
        description="`fast` resizes RGB images by torch, equal to `full` to rounding (single values by a grey level).",
    )
    batch_size: int = Field(default=256, ge=1, description="Metadata rows encoded together; it affects the last bits.")
    released: Literal["keep", "recompute"] = Field(
        default="keep", description="Scores in the metadata are used unchanged, unless this is `recompute`."
    )

    @model_validator(mode="after")
    def _differ(self) -> EmbedSpec:
        for what in ("column", "prefix"):
            names = [getattr(encoder, what) for encoder in self.encoders]
            if len(set(names)) < len(names):
                raise ValueError(f"Two encoders have the {what} {max(names, key=names.count)!r}: give each its own.")
        return self

    @property
    def num_checkpoints(self) -> int:
        """How many encoders are checkpoints among the inputs."""
        return sum(not encoder.model for encoder in self.encoders)

    def label(self) -> str:
        return "+".join(encoder.prefix for encoder in self.encoders)
