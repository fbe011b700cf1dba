"""Defines the settings of a download: img2dataset's, with the defaults of the reference's `download_upstream.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from datacomp_core.artifacts import Spec
from datacomp_core.errors import unknown
from datacomp_core.scales import SCALES


class ImageSpec(Spec):
    """How the images of a pool are fetched, resized and split into shards."""

    image_size: int = Field(default=512, gt=0, description="Pixels that `resize_mode` aims at.")
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = Field(
        default="keep_ratio_largest",
        description="As in img2dataset; keep_ratio_largest brings the longer side to `image_size`.",
    )
    resize: Literal["only_if_bigger", "always"] = Field(
        default="only_if_bigger", description="Whether small images are enlarged."
    )
    encode_format: Literal["jpg", "png", "webp"] = Field(default="jpg", description="How images are stored.")
    encode_quality: int = Field(default=95, ge=0, le=100, description="For jpg and webp; for png the compression, 0 to 9.")
    samples_per_shard: int = Field(default=10_000, gt=0, description="Candidates per shard; the last shard of a part has fewer.")
    retries: int = Field(default=2, ge=0, description="Retries for a failed url.")
    timeout_seconds: int = Field(default=10, gt=0, description="Timeout of one connection or read.")
    faces: Literal["blur", "leave"] = Field(
        default="blur", description="Blur the metadata's `face_bboxes`; disable it only for pools whose images may show faces."
    )
    exif: Literal["keep", "drop"] = Field(default="keep", description="Whether a sample's json contains the image's EXIF.")
    hash_mismatch: Literal["keep", "flag", "drop"] = Field(
        default="keep",
        description="What to do with a body whose sha256 differs from the metadata's. The ledger records it in any case; "
        "most such images were only saved again, so the default keeps them. flag: the sample's json says so too.",
    )
    error_pictures: Literal["keep", "drop"] = Field(
        default="keep",
        description="What to do, after the download, with bodies behind many urls: mostly error images.",
    )
    error_picture_urls: int = Field(default=10, ge=2, description="Number of different urls that make a body an error image.")
    deep_pictures: Literal["as_reference", "correct", "drop"] = Field(
        default="as_reference",
        description="Images with more than 8 bits per channel. as_reference: img2dataset clips them, so that they become "
        "nearly white; correct: scale to 8 bits; drop: remove with a reason. They are always counted.",
    )
    turned_pictures: Literal["as_reference", "correct", "drop"] = Field(
        default="as_reference",
        description="Images with an EXIF rotation. as_reference: store without rotation, as img2dataset does; correct: "
        "rotate, with their face boxes; drop: remove with a reason. They are always counted.",
    )
    max_bytes: int = Field(default=64 << 20, gt=0, description="Maximum size of a body.")
    max_seconds: int = Field(default=60, gt=0, description="Maximum time for one try of a url, including redirects and body.")
    max_pixels: int = Field(
        default=100_000_000, gt=0, description="Maximum number of pixels to decode; the header is read first."
    )
    min_image_size: int = Field(default=0, ge=0, description="Minimum number of pixels of the shorter side.")
    max_image_area: int | None = Field(default=None, gt=0, description="Maximum number of pixels of an image; null: no limit.")
    max_aspect_ratio: float | None = Field(
        default=None, ge=1, description="Maximum ratio of the longest to the shortest side; null: no limit."
    )
    user_agent_token: str | None = Field(default=None, description="Name under which sites may address this download.")
    opt_out_directives: tuple[str, ...] = Field(
        default=("noai", "noimageai", "noindex", "noimageindex"),
        description="X-Robots-Tag directives that keep an image out.",
    )
    min_arrived: float = Field(
        default=0.0, ge=0, le=1, description="Minimum share of the candidates that must arrive, else the step fails."
    )

    @model_validator(mode="after")
    def _png_has_levels(self) -> ImageSpec:
        if self.encode_format == "png" and self.encode_quality > 9:
            raise ValueError(f"encode_quality is {self.encode_quality}, but png has compression levels from 0 to 9")
        return self

    def label(self) -> str:
        return f"{self.image_size}px-{self.encode_format}"

    def columns(self) -> tuple[str, ...]:
        """The metadata columns a download reads, in img2dataset's order; `sha256` is used if it exists."""
        return ("uid", *(("face_bboxes",) if self.faces == "blur" else ()), "text", "url", "sha256")


IMAGES: dict[str, ImageSpec] = {"tiny": ImageSpec(image_size=64, samples_per_shard=256, timeout_seconds=30, exif="drop")}
"""Scales that differ from the reference; every other scale follows the reference."""
BESIDE = ("datacomp_1b", "byod", "custom")
"""Pools that are not a scale."""


def images_of(scale: str) -> ImageSpec:
    """The download of a scale. SpecError names the known ones."""
    if scale not in (*SCALES, *BESIDE):
        raise unknown("scale", scale, (*SCALES, *BESIDE))
    return IMAGES.get(scale, ImageSpec())
