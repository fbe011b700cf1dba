"""What a download is to be: img2dataset's settings, with the defaults of the reference's `download_upstream.py`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from datacomp_core.artifacts import Spec
from datacomp_core.errors import unknown
from datacomp_core.scales import SCALES


class ImageSpec(Spec):
    """How the images of a pool are fetched, resized and cut into shards."""

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
    samples_per_shard: int = Field(default=10_000, gt=0, description="Candidates of a shard; the last one of a part has fewer.")
    retries: int = Field(default=2, ge=0, description="Further tries for a url that failed.")
    timeout_seconds: int = Field(default=10, gt=0, description="For one connection or read.")
    faces: Literal["blur", "leave"] = Field(
        default="blur", description="Blur the metadata's `face_bboxes`; leave only for pools whose images may show faces."
    )
    exif: Literal["keep", "drop"] = Field(default="keep", description="Whether a sample's json carries the picture's EXIF.")
    hash_mismatch: Literal["keep", "flag", "drop"] = Field(
        default="keep",
        description="What to do with a body whose sha256 is not the metadata's. It is in the ledger either way; most such "
        "pictures were only stored again, so the default keeps them. flag: the sample's json says so too.",
    )
    error_pictures: Literal["keep", "drop"] = Field(
        default="keep",
        description="What to do, when all is fetched, with bodies that stand behind many urls: mostly pictures of an error.",
    )
    error_picture_urls: int = Field(default=10, ge=2, description="How many different urls make a body an error picture.")
    deep_pictures: Literal["as_reference", "correct", "drop"] = Field(
        default="as_reference",
        description="Pictures of more than 8 bits a channel. as_reference: img2dataset clips them, so that they come out nearly "
        "white; correct: scaled to 8 bits; drop: left out with a reason. They are counted whichever it is.",
    )
    turned_pictures: Literal["as_reference", "correct", "drop"] = Field(
        default="as_reference",
        description="Pictures that their EXIF orientation turns. as_reference: stored as they lie in the file, as img2dataset "
        "does; correct: turned, with their face boxes; drop: left out with a reason. They are counted whichever it is.",
    )
    max_bytes: int = Field(default=64 << 20, gt=0, description="Largest body that is read.")
    max_seconds: int = Field(default=60, gt=0, description="Longest time for one try of a url, redirects and body included.")
    max_pixels: int = Field(
        default=100_000_000, gt=0, description="Most pixels that are decoded; the header is read before anything is."
    )
    min_image_size: int = Field(default=0, ge=0, description="Pixels that the shorter side must have.")
    max_image_area: int | None = Field(default=None, gt=0, description="Most pixels an image may have; null: any number.")
    max_aspect_ratio: float | None = Field(default=None, ge=1, description="Longest to shortest side at most; null: any.")
    user_agent_token: str | None = Field(default=None, description="Name under which sites may address this download.")
    opt_out_directives: tuple[str, ...] = Field(
        default=("noai", "noimageai", "noindex", "noimageindex"),
        description="X-Robots-Tag directives that keep an image out.",
    )
    min_arrived: float = Field(
        default=0.0, ge=0, le=1, description="Least share of the candidates that must arrive, else the step fails."
    )

    @model_validator(mode="after")
    def _png_has_levels(self) -> ImageSpec:
        if self.encode_format == "png" and self.encode_quality > 9:
            raise ValueError(f"encode_quality is {self.encode_quality}, but png has compression levels from 0 to 9")
        return self

    def label(self) -> str:
        return f"{self.image_size}px-{self.encode_format}"

    def columns(self) -> tuple[str, ...]:
        """The metadata columns a download reads, in img2dataset's order; `sha256` is used if it is there."""
        return ("uid", *(("face_bboxes",) if self.faces == "blur" else ()), "text", "url", "sha256")


IMAGES: dict[str, ImageSpec] = {"tiny": ImageSpec(image_size=64, samples_per_shard=256, timeout_seconds=30, exif="drop")}
"""What is fetched otherwise than the reference fetches; every other scale is as the reference has it."""
BESIDE = ("datacomp_1b", "byod", "custom")
"""Pools that are no scale."""


def images_of(scale: str) -> ImageSpec:
    """The download of a scale. SpecError names the known ones."""
    if scale not in (*SCALES, *BESIDE):
        raise unknown("scale", scale, (*SCALES, *BESIDE))
    return IMAGES.get(scale, ImageSpec())
