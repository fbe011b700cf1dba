"""The compute scales as rows: what is fixed in the competition. One dial.

Values: the reference's `scale_configs.py` and the paper's Table 14; `tiny` is ours, sized for a laptop's CPU.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field

from datacomp_core.artifacts import Spec
from datacomp_core.errors import unknown

CUSTOM = "custom"
"""The name of a custom recipe."""


def _known(name: str) -> str:
    rows: dict[str, Scale] | None = globals().get("SCALES")  # not there yet while the rows themselves are made
    if rows is not None and name not in (*rows, CUSTOM):
        raise unknown("scale", name, (*rows, CUSTOM))
    return name


def _names(schema: dict[str, Any]) -> None:
    """A form offers the names that there are."""
    schema["enum"] = [*SCALES, CUSTOM]


TrainDecoding = Literal["full", "scaled", "fast", "cuda"]
RANKED_DECODINGS: tuple[TrainDecoding, ...] = ("full", "fast")
"""The decodings allowed for a ranked training: their scores are equal within the noise of seeds (docs/training.md)."""

ScaleName = Annotated[str, AfterValidator(_known), Field(json_schema_extra=_names)]
"""A row of the table below, or `custom`: a new scale is one row there and stands nowhere else."""


class Scale(Spec):
    """One row: the pool, and the fixed training recipe. The board does not rank `custom`."""

    name: ScaleName
    model: str = Field(description="open_clip model name, or one of ours in datacomp_core/models/.")
    batch_size: int = Field(description="Global batch, in samples.")
    learning_rate: float
    warmup: int = Field(description="Linear warm-up, in optimizer steps.")
    beta2: float | None = Field(
        default=None, description="AdamW's beta2; null uses open_clip's default by model name (.98 for ViT)."
    )
    eps: float | None = Field(
        default=None, description="AdamW's eps; null uses open_clip's default by model name (1e-6 for ViT)."
    )
    weight_decay: float = Field(default=0.2, description="open_clip's default.")
    train_num_samples: int = Field(description="Samples seen; from `small` on also the size of the pool.")
    num_checkpoints: int = Field(default=5, description="Number of epochs of open_clip in the run; each ends with a checkpoint.")
    loader_workers: int = Field(
        default=4, description="The reference's worker count, to whose multiple steps per epoch are rounded up."
    )
    precision: Literal["amp", "amp_bfloat16", "fp32"] = Field(
        default="amp", description="The reference's slurm_train.sh: amp, and amp_bfloat16 at xlarge."
    )
    decoding: TrainDecoding = Field(
        default="full",
        description="`fast` resizes by torch, equal to `full` to rounding (single values by a grey level). `scaled` lets libjpeg "
        "halve large images while it decodes, and `cuda` decodes on the GPU: other pixels.",
    )
    suite: str = Field(default="datacomp", description="The evaluation suite that scores it.")
    hub: str | None = Field(default=None, description="Hub data set with the pool's metadata.")


SCALES: dict[str, Scale] = {
    row.name: row
    for row in (
        Scale(
            name="tiny",
            model="datacomp-tiny",
            batch_size=64,
            learning_rate=2e-3,
            warmup=30,
            beta2=0.98,
            eps=1e-6,
            weight_decay=0.1,
            train_num_samples=16_384,
            num_checkpoints=4,
            loader_workers=1,
            precision="fp32",
            suite="tiny",
        ),
        Scale(name="debug", model="ViT-B-32", batch_size=1024, learning_rate=1e-4, warmup=500, train_num_samples=128_000),
        Scale(
            name="small",
            model="ViT-B-32",
            batch_size=4096,
            learning_rate=5e-4,
            warmup=500,
            train_num_samples=12_800_000,
            hub="mlfoundations/datacomp_small",
        ),
        Scale(
            name="medium",
            model="ViT-B-32",
            batch_size=4096,
            learning_rate=5e-4,
            warmup=500,
            train_num_samples=128_000_000,
            hub="mlfoundations/datacomp_medium",
        ),
        Scale(
            name="large",
            model="ViT-B-16",
            batch_size=8192,
            learning_rate=5e-4,
            warmup=500,
            train_num_samples=1_280_000_000,
            hub="mlfoundations/datacomp_large",
        ),
        Scale(
            name="xlarge",
            model="ViT-L-14",
            batch_size=90112,
            learning_rate=1e-3,
            warmup=10000,
            beta2=0.95,
            train_num_samples=12_800_000_000,
            precision="amp_bfloat16",
            hub="mlfoundations/datacomp_xlarge",
        ),
    )
}


def scale(name: str) -> Scale:
    """The row of a scale. SpecError names the known ones."""
    if name not in SCALES:
        raise unknown("scale", name, SCALES)
    return SCALES[name]


def with_decoding(row: Scale, decoding: str) -> Scale:
    """The recipe of a scale with this decoding: named `custom` if no ranked training may use it. SpecError if it is unknown."""
    if decoding == row.decoding:
        return row
    if decoding not in get_args(TrainDecoding):
        raise unknown("decoding", decoding, get_args(TrainDecoding))
    name = row.name if decoding in RANKED_DECODINGS else CUSTOM
    return row.model_copy(update={"decoding": decoding, "name": name})
