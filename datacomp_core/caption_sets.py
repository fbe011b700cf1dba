"""Defines the files of a caption set, shared by code that writes and reads captions. `captions/<part>.parquet` has the
captions of one metadata part in the order of its rows. A set without captions for a part has no file for it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import polars as pl

from datacomp_core.artifacts import Captions
from datacomp_core.errors import DataError, SpecError
from datacomp_core.store import Folder

CAPTIONS = "captions"
DRAWS = "draws"
SUMMARY = "captions.json"
OVERLAY = "captions"
"""For a view: `captions/<shard>.parquet` has one row per sample of the index, null where the sample keeps its own caption."""
OVERLAY_SCHEMA = {"captions": pl.List(pl.Struct({"source": pl.String, "text": pl.String}))}
RAW = "raw"
SOURCE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$"
SCHEMA = pl.Schema({"row": pl.Int64, "uid": pl.String, "source": pl.String, "text": pl.String})


def captions_of(folder: Folder, part: str, scores: Sequence[str] = ()) -> pl.DataFrame:
    """Return the captions of one part (SCHEMA) and columns of scores, null where the set has no such score. None if the set
    has no file for the part. DataError if the file is damaged.
    """
    name = f"{CAPTIONS}/{part}.parquet"
    if not folder.exists(name):
        return pl.DataFrame(schema={**SCHEMA, **dict.fromkeys(scores, pl.Float32)})
    try:
        table = pl.read_parquet(io.BytesIO(folder.read(name)))
        columns = [pl.col(name).cast(kind) for name, kind in SCHEMA.items()]
        columns += [(pl.col(name) if name in table.columns else pl.lit(None)).cast(pl.Float32).alias(name) for name in scores]
        return table.select(columns)
    except pl.exceptions.PolarsError as problem:
        raise DataError(
            f"{folder.at(name)} is not a file of captions ({str(problem).splitlines()[0]}): make it again."
        ) from problem


def captions_for(folder: Folder, part: str, uids: pl.Series, scores: Sequence[str] = ()) -> pl.DataFrame:
    """`captions_of` for a pool whose rows of this part have these uids. DataError if a caption's uid differs from the uid of
    its row: the set then belongs to another pool, or the pool has changed.
    """
    found = captions_of(folder, part, scores)
    if found.height and (most := int(found["row"].max() or 0)) >= len(uids):  # pyright: ignore[reportArgumentType]
        raise DataError(
            f"{folder} has a caption of row {most:,} of part {part}, which has only {len(uids):,} rows: it belongs to "
            "another pool, or the pool has changed. Make captions for this pool."
        )
    wrong = found.filter(found["uid"].str.to_lowercase() != uids.gather(found["row"]).str.to_lowercase())
    if wrong.height:
        raise DataError(
            f"{wrong.height:,} of {found.height:,} captions of part {part} in {folder} have other uids than the pool's rows "
            f"(the first of {wrong['uid'][0]}, and row {wrong['row'][0]:,} is {uids[int(wrong['row'][0])]}): it belongs to "
            "another pool, or the pool has changed. Make captions for this pool."
        )
    return found


def require_parts(folder: Folder, names: Sequence[str], of: object) -> None:
    """DataError if a set has captions of a part that the metadata lacks: they would be silently ignored."""
    own = {name.removesuffix(".parquet") for name in (folder / CAPTIONS).files(".parquet")}
    if other := sorted(own - set(names)):
        raise DataError(f"{folder} has captions of part {other[0]}, which {of} does not have: use a caption set of this pool.")


def write_captions(folder: Folder, part: str, rows: pl.DataFrame, scores: Sequence[str] = ()) -> None:
    """Put the captions of a part (SCHEMA) with some columns of scores into a set."""
    columns = [*(pl.col(name).cast(kind) for name, kind in SCHEMA.items()), *(pl.col(name).cast(pl.Float32) for name in scores)]
    with folder.writing(f"{CAPTIONS}/{part}.parquet") as path:
        rows.select(columns).write_parquet(path, compression="zstd")


def summary(made: Captions) -> dict[str, object]:
    """Description of a caption folder that has no record."""
    return made.model_dump(
        mode="json", include={"sources", "model", "scores", "num_samples", "num_captions", "num_captioned", "counts"}
    )


def set_in(folder: Folder) -> Captions:
    """Return the caption set in a plain folder. SpecError if there is none."""
    if not folder.exists(SUMMARY):
        raise SpecError(
            f"{folder} is not a folder of captions: it has no {SUMMARY}. Make one with `datacomp captions import --out`."
        )
    return Captions.model_validate({**folder.read_json(SUMMARY), "data": folder.url, "name": folder.url})


def json_keys(sources: Sequence[str]) -> list[str]:
    """Return the fields of a sample's json that contain its captions from these sources: `caption_a`, `caption_a_2`,
    `caption_b`."""
    seen: dict[str, int] = {}
    made: list[str] = []
    for source in sources:
        seen[source] = seen.get(source, 0) + 1
        made.append(f"caption_{source}" if seen[source] == 1 else f"caption_{source}_{seen[source]}")
    return made


def own_name(name: str) -> str:
    """Check the name of a source. SpecError if it is reserved for the pool's own captions."""
    if name == RAW:
        raise SpecError(f"The name {RAW} is reserved for the pool's own captions: give these another name.")
    return name


def require_sources(wanted: Sequence[str], sets: Sequence[Captions]) -> None:
    """SpecError if a policy names an unknown source, or two sets have a source of the same name."""
    known: dict[str, str] = {}
    for one in sets:
        for source in one.sources:
            if source in known or source == RAW:
                other = known.get(source, "the pool's own captions")
                raise SpecError(
                    f"The source {source!r} is in {one.name or one.address} and in {other}: import one of them under another "
                    "--name."
                )
            known[source] = one.name or one.address
    for source in wanted:
        if source != RAW and source not in known:
            raise SpecError(
                f"The policy names the caption source {source!r}, but the given sets have {', '.join(sorted(known)) or 'none'}; "
                f"{RAW} means the pool's own captions."
            )
