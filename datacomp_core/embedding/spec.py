"""What to compute for each row of a pool: by which encoders, how precisely."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from datacomp_core import clip
from datacomp_core.artifacts import Spec


class Encoder(Spec):
    """One CLIP and the names of what it makes: a checkpoint among the inputs, or weights that open_clip knows by tag."""

    column: str = Field(
        default="clip_tiny_similarity_score", pattern=r"^[a-z0-9_]+$", description="Name of the score column: the cosine."
    )
    prefix: str = Field(default="tiny", pattern=r"^[a-z0-9_]+$", description="The npz keys are <prefix>_img and <prefix>_txt.")
    model: str = Field(default="", description="open_clip model name. Empty: the next checkpoint among the inputs.")
    weights: str = Field(default="", description="With `model`: open_clip's tag of its weights, such as `openai`.")
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$", description="With `weights`: of their file.")

    @model_validator(mode="after")
    def _is_whole(self) -> Encoder:
        if len({bool(self.model), bool(self.weights), bool(self.sha256)}) > 1:
            raise ValueError("Model, weights and sha256 are given together, or none of them: then a checkpoint is taken.")
        return self


class EmbedSpec(Spec):
    """What to compute for each row of the pool. All encoders share one pass over the images."""

    encoders: tuple[Encoder, ...] = Field(default=(Encoder(),), min_length=1, description="The models and what they make.")
    precision: clip.Precision = Field(default="fp32", description="fp32, or autocast to bf16 or fp16.")
    batch_size: int = Field(default=256, ge=1, description="Metadata rows encoded together; it moves the last bits.")
    released: Literal["keep", "recompute"] = Field(
        default="keep", description="Scores that the metadata brings are used as they are, unless it says `recompute`."
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
