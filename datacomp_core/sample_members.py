"""Decides which member of a sample is its image, which is its caption, and where a member's name is split. Webdataset splits a
name at its first dot, and DataComp's tooling expects `jpg` (or another image), `txt` and `json`. Sets with other names are read
through a mapping, `MemberNames`; the result of `canonical` has the usual names.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from datacomp_core.errors import DataError
from datacomp_core.tar import printable, split_name

PICTURES = ("jpg", "png", "jpeg", "webp", "gif", "bmp", "avif", "jfif", "tif", "tiff")
"""Extensions of images, in order of preference: open_clip's four first."""
CAPTION = "txt"
IN_JSON = "json:"
EMPTY, NOT_UTF8, LONE_SURROGATE = " (empty)", " (not UTF-8)", " (lone surrogate)"
NO_OBJECT = "json (no object)"
MAX_JSON = MAX_CAPTION = 16 << 20


class MemberNames(BaseModel):
    """How the members of a set are named, if unusual. Empty fields mean the usual names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    picture: str = Field(default="", description="The image's extension, such as input.jpg. Empty: jpg, png and others.")
    caption: str = Field(default="", description="The caption's extension, or json:NAME for a field of the json. Empty: txt.")
    cut: Literal["first_dot", "last_dot"] = Field(
        default="first_dot", description="Where a name is split into key and extension; last_dot for keys with dots."
    )

    @field_validator("picture", "caption")
    @classmethod
    def _plain(cls, value: str) -> str:
        return value if value.startswith(IN_JSON) else value.removeprefix(".").lower()

    @property
    def is_usual(self) -> bool:
        return self == USUAL

    def text(self) -> str:
        """Return its form in an index; empty for the usual names."""
        return "" if self.is_usual else self.model_dump_json(exclude_defaults=True)

    @property
    def caption_path(self) -> tuple[str, ...]:
        """The json field of the caption; empty if it is a member."""
        return tuple(self.caption.removeprefix(IN_JSON).split(".")) if self.caption.startswith(IN_JSON) else ()

    def split(self, name: str) -> tuple[str, str]:
        """Return a member's key and extension; ("", "") if it is not part of a sample."""
        key, extension = split_name(name)
        if not key or self.cut == "first_dot":
            return key, extension
        stem, _, last = name.rpartition(".")
        return printable(stem), printable(last.lower())

    def picture_of(self, extensions: Collection[str]) -> str:
        """Return which of a sample's extensions is its image; empty if none is."""
        if self.picture:
            return self.picture if self.picture in extensions else ""
        return next((name for name in PICTURES if name in extensions), "")

    def canonical(self, members: Mapping[str, bytes]) -> dict[str, bytes]:
        """Return the members under the usual names. A member whose name is then taken gets the prefix `other.`."""
        if self.is_usual:
            return dict(members)
        found: dict[str, bytes] = {}
        picture, caption = self.picture_of(members), self.caption or CAPTION
        if picture:
            last = picture.rpartition(".")[2]
            found[last if last in PICTURES else PICTURES[0]] = members[picture]
        if self.caption_path:
            text = at_path(json_object(members.get("json", b"")) or {}, self.caption_path)
            if isinstance(text, str):
                found[CAPTION] = text.encode("utf-8", "replace")
        elif caption in members:
            found[CAPTION] = members[caption]
        for name, content in members.items():
            if name not in (picture, caption):
                found[f"other.{name}" if name in found else name] = content
        return found


USUAL = MemberNames()


@lru_cache(maxsize=64)
def names_of(text: str) -> MemberNames:
    """Parse the result of `MemberNames.text`. DataError if it is invalid."""
    try:
        return MemberNames.model_validate_json(text) if text else USUAL
    except ValidationError as problem:
        raise DataError(f"{text!r} in a shard index does not say how members are named: index the shard again.") from problem


def caption_fault(text: str | bytes) -> str:
    """Return why a caption is not text, as an annotation of its kind; empty if it is."""
    try:
        _ = text.decode() if isinstance(text, bytes) else text.encode()
    except UnicodeDecodeError:
        return NOT_UTF8
    except UnicodeEncodeError:
        return LONE_SURROGATE
    return ""


def json_object(data: bytes) -> dict[str, Any] | None:
    """Return a json member's object; None for anything else."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def at_path(found: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def picture_in(members: Mapping[str, bytes]) -> bytes:
    """Return the image of a sample with the usual names; nothing if it has none."""
    return members.get(USUAL.picture_of(members), b"")
