"""Computes image scores: shard by shard from the tars, one file per shard, then joined to the metadata by uid. A pool may have
any order in its shards. A later attempt does not read a finished shard again.
"""

from __future__ import annotations

import io
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core import shards
from datacomp_core.parts import scan_tables
from datacomp_core.pictures import pillow_image
from datacomp_core.pool_source import PoolSource
from datacomp_core.sample_members import picture_in
from datacomp_core.scores.base import Column, Score, ScoreContext
from datacomp_core.store import Folder

CAPTION = "txt"
BY_SHARD = "by_shard"
GROUP_ROWS = 8_000_000
AT_ONCE = 256


class ImageScore(Score):
    """A score of one picture (and its caption); rows without a picture, or whose picture cannot be read, have none."""

    needs: ClassVar[frozenset[str]] = frozenset({"images"})
    dtype: ClassVar[type[pl.DataType]] = pl.Float32

    @abstractmethod
    def of_samples(self, samples: Sequence[tuple[Any, str]], model: tuple[str, str] | None, device: str) -> Sequence[Any]:
        """One value for each `(PIL image, caption)`, None where there is none."""

    def prepare(self, context: ScoreContext) -> Folder:
        """Score all shards, then put the values to the parts; the folder where they are."""
        folder = context.source.shards
        assert folder is not None, "scores of images are not computed without shards"
        done = (context.kept / BY_SHARD).files(".parquet")
        todo = [name for name in shards.sample_shards(folder) if f"{name}.parquet" not in done]
        for _ in context.map(
            partial(_score_shard, self, folder, context.kept / BY_SHARD, context.model, context.device), todo, "shards"
        ):
            pass
        placed = (context.shared / "placed").folder
        for group in _groups(context.source, context.names):
            _place(context.source, group, context.kept / BY_SHARD, placed)
        return placed

    def of_part(self, source: PoolSource, part: str, prepared: Folder) -> Column:
        values = scan_tables(prepared, f"{part}.parquet").collect()["value"]
        return values.to_numpy() if values.dtype.is_float() else _with_gaps(values)


def _with_gaps(values: pl.Series) -> npt.NDArray[Any]:
    """Whole numbers with nulls, as a masked array, so that no bit is lost."""
    return np.ma.masked_array(values.fill_null(0).to_numpy(), values.is_null().to_numpy())


def _score_shard(score: ImageScore, folder: Folder, kept: Folder, model: tuple[str, str] | None, device: str, name: str) -> None:
    uids: list[str] = []
    values: list[Any] = []
    for some in _pictures(folder, name):
        uids += [uid for uid, _, _ in some]
        values += score.of_samples([(image, caption) for _, image, caption in some], model, device)
    table = pl.DataFrame({"uid": uids, "value": values}, schema={"uid": pl.String, "value": score.dtype})
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd")
    kept.write(f"{name}.parquet", buffer.getvalue())


def _pictures(folder: Folder, name: str) -> Iterator[list[tuple[str, Any, str]]]:
    """`(uid, image, caption)` of a shard's samples that can be read, some at a time."""
    some: list[tuple[str, Any, str]] = []
    for uid, members in shards.read_samples(folder, shards.index_of(folder, name).drop_nulls("uid").sort("offset")):
        image = _image(picture_in(members))
        if image is not None:
            some.append((uid, image, members.get(CAPTION, b"").decode("utf-8", "replace")))
        if len(some) == AT_ONCE:
            yield some
            some = []
    if some:
        yield some


def _image(data: bytes) -> Any:
    if not data:
        return None
    try:
        with pillow_image(data) as image:
            return image.convert("RGB")
    except Exception:  # Pillow's decoders raise a dozen kinds on bad bytes; such a row has no score
        return None


def _place(source: PoolSource, group: list[str], kept: Folder, placed: Folder) -> None:
    """Write the values of some parts' rows, in their order. Copies of a sample have one value: the smallest, whatever their order
    in the shards.
    """
    wanted = pl.concat([source.read(part, ["uid"]).with_columns(part=pl.lit(part)) for part in group])
    tables = scan_tables(kept, *kept.files(".parquet"))
    found = tables.join(wanted.lazy().select("uid").unique(), on="uid", how="semi").collect(engine="streaming")
    found = found.sort("uid", "value").unique("uid", keep="first", maintain_order=True)
    joined = wanted.join(found, on="uid", how="left", maintain_order="left")
    for (part,), table in joined.partition_by("part", as_dict=True, maintain_order=True).items():
        with placed.writing(f"{part}.parquet") as path:
            table.select("value").write_parquet(path)


def _groups(source: PoolSource, names: Sequence[str]) -> Iterator[list[str]]:
    group: list[str] = []
    held = 0
    for part in names:
        rows = source.num_rows(part)
        if group and held + rows > GROUP_ROWS:
            yield group
            group, held = [], 0
        group.append(part)
        held += rows
    if group:
        yield group
