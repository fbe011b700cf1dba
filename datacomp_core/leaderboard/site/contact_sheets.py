"""Contact sheets: a few samples as small pictures with caption and reason, read through the index of the pool's shards.

The work is bounded for any pool: a fixed number of cards and of shards to search; samples that were not found are counted.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import polars as pl

from datacomp_core import shards
from datacomp_core.errors import DataError
from datacomp_core.pictures import pillow_image
from datacomp_core.sample_members import picture_in
from datacomp_core.store import Folder

THUMBNAIL = 128
MAX_CARDS = 18
MAX_SHARDS = 200
MAX_CAPTION = 160


@dataclass(frozen=True)
class Wording:
    """One caption of a picture: whose it is, its scores by name, and whether it is the one that the policy gives."""

    source: str
    text: str
    scores: tuple[tuple[str, float], ...] = ()
    is_used: bool = False


@dataclass(frozen=True)
class Card:
    """`image` is a data URI, empty if there is no picture to show; `why_blank` then says why. `wordings`: all its captions."""

    uid: str
    image: str
    caption: str
    reason: str
    score: float | None = None
    why_blank: str = ""
    wordings: tuple[Wording, ...] = ()


def choose(samples: pl.DataFrame, limit: int = MAX_CARDS) -> pl.DataFrame:
    """At most `limit` rows in the table's own order, taking turns between the reasons so that a rare one shows too."""
    if "reason" not in samples.columns:
        return samples.head(limit)
    turn = pl.int_range(pl.len()).over("reason")
    return (
        samples.with_columns(turn.alias("turn"))
        .sort("turn", maintain_order=True)
        .head(limit)
        .drop("turn")
        .sort("reason", maintain_order=True)
    )


def cards(folder: Folder, samples: pl.DataFrame, score: str | None = None) -> list[Card]:
    """A card for every row (`uid`, `text`, and `reason` where there is one). `folder` contains the downloaded shards."""
    pictures = _pictures(folder, samples["uid"].to_list())
    made: list[Card] = []
    for row in samples.iter_rows(named=True):
        image, why = pictures.get(row["uid"], ("", "no picture: it was never downloaded"))
        text = row.get("text") or ""
        value = row.get(score) if score else None
        made.append(
            Card(
                uid=row["uid"],
                image=image,
                caption=text if len(text) <= MAX_CAPTION else text[:MAX_CAPTION] + "…",
                reason=str(row.get("reason") or ""),
                score=None if value is None else float(value),
                why_blank=why,
            )
        )
    return made


def _pictures(folder: Folder, uids: list[str]) -> dict[str, tuple[str, str]]:
    wanted, found = set(uids), dict[str, tuple[str, str]]()
    names = [name.removesuffix(".parquet") for name in (folder / shards.INDEX).files(".parquet")]
    for name in names[:MAX_SHARDS]:
        if wanted == found.keys():
            break
        rows = shards.read_index(folder, name).filter(pl.col("uid").is_in(wanted - found.keys())).sort("offset")
        for uid, members in shards.read_samples(folder, rows):
            found[uid] = _thumbnail(members)
    unseen = ("", f"not searched: not in the first {MAX_SHARDS} of {len(names)} shards")
    return found if len(names) <= MAX_SHARDS else {**dict.fromkeys(wanted, unseen), **found}


def _thumbnail(members: dict[str, bytes]) -> tuple[str, str]:
    data = picture_in(members)
    if not data:
        return "", "no picture in the sample"
    try:
        with pillow_image(data) as image:
            small = image.convert("RGBA" if "transparency" in image.info or image.mode == "RGBA" else "RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
    except Exception:  # Pillow's decoders raise a dozen kinds on odd bytes; such a picture is not shown
        return "", "cannot read the picture"
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", ""


def table(folder: Folder, name: str) -> pl.DataFrame | None:
    """A table of samples, or None if the subset has none."""
    if not folder.exists(name):
        return None
    try:
        return pl.read_parquet(io.BytesIO(folder.read(name)))
    except pl.exceptions.PolarsError as problem:
        raise DataError(f"{folder.at(name)} is not a table of samples ({problem}): select the subset again.") from problem
