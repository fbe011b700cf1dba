"""How caption sets lie on the disk: the common ground of those who make captions and those who read them.

`captions/<part>.parquet` has the captions of one metadata part in the order of its rows. A set that knows none for a part has no
file for it.
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
RAW = "raw"
SOURCE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$"
SCHEMA = pl.Schema({"row": pl.Int64, "uid": pl.String, "source": pl.String, "text": pl.String, "score": pl.Float32})


def captions_of(folder: Folder, part: str) -> pl.DataFrame:
    """The captions of one part (SCHEMA), none if the set has no file for it. DataError if the file is damaged."""
    name = f"{CAPTIONS}/{part}.parquet"
    if not folder.exists(name):
        return pl.DataFrame(schema=SCHEMA)
    try:
        return pl.read_parquet(io.BytesIO(folder.read(name))).select(SCHEMA.names()).cast(pl.Schema(SCHEMA))
    except pl.exceptions.PolarsError as problem:
        raise DataError(
            f"{folder.at(name)} is not a file of captions ({str(problem).splitlines()[0]}): make it again."
        ) from problem


def write_captions(folder: Folder, part: str, rows: pl.DataFrame) -> None:
    """Put the captions of a part (SCHEMA) into a set."""
    with folder.writing(f"{CAPTIONS}/{part}.parquet") as path:
        rows.select(SCHEMA.names()).cast(pl.Schema(SCHEMA)).write_parquet(path, compression="zstd")


def summary(made: Captions) -> dict[str, object]:
    """What a folder of captions says of itself where no record does."""
    return made.model_dump(
        mode="json", include={"sources", "model", "score", "num_samples", "num_captions", "num_captioned", "counts"}
    )


def set_in(folder: Folder) -> Captions:
    """The caption set in a plain folder. SpecError if there is none."""
    if not folder.exists(SUMMARY):
        raise SpecError(f"{folder} is not a folder of captions: it has no {SUMMARY}. `datacomp captions import --out` makes one.")
    return Captions.model_validate({**folder.read_json(SUMMARY), "data": folder.url, "name": folder.url})


def own_name(name: str) -> str:
    """The name of a source. SpecError if it is the one of the pool's own captions."""
    if name == RAW:
        raise SpecError(f"{RAW} stands for the pool's own captions: give these another name.")
    return name


def require_sources(wanted: Sequence[str], sets: Sequence[Captions]) -> None:
    """SpecError if a policy names a source that no set has, or two sets have one name for a source."""
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
                f"The policy names the caption source {source!r}, and the given sets have {', '.join(sorted(known)) or 'none'}; "
                f"{RAW} stands for the pool's own captions."
            )
