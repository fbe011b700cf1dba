"""Writes everything known about a sample as one table: a parquet file, or a data set folder of the `datasets` library. Rows
are written in blocks of some thousand, with their images if requested, so that memory does not grow with the sample. Files are
written atomically.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.caption_sets import captions_of
from datacomp_core.errors import DatacompError, SpecError
from datacomp_core.explore.clusters import NONE
from datacomp_core.explore.sample import OWN
from datacomp_core.progress import Progress
from datacomp_core.store import Folder
from deployments.explore.explorer import Explorer
from deployments.explore.facet_counts import FacetCounts

PICTURES = ("bytes", "references", "none")
FORMS = ("parquet", "huggingface")
ROWS_AT_ONCE = 4096
ROWS_A_FILE = {"bytes": 50_000, "references": 2_000_000, "none": 2_000_000}
WHERE = ("shard", "key", "offset", "length")
ADDED = ("captions", "image", "tars", *WHERE)
NAMES = {"double": "float64", "float": "float32", "halffloat": "float16"}
"""Names of arrow types in the `datasets` library."""
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---

# {name}

{rows:,} pairs of {pool:,}, written by `datacomp export`. Columns `kept_*`, `times_*` and `reason_*` say what each
method does with a pair; `cluster`, `x` and `y` are its position on the map.
"""


def write_export(explorer: Explorer, out: str, *, only: str, pictures: str, form: str, progress: Progress) -> dict[str, Any]:
    """Write the table; return counts to display. SpecError for an unknown choice, or a folder that is not empty."""
    for given, known, option in ((pictures, PICTURES, "--pictures"), (form, FORMS, "--format")):
        if given not in known:
            raise SpecError(f"{option} {given!r} is unknown: use one of {', '.join(known)}.")
    if pictures != "none" and explorer.origin.shards is None:
        raise SpecError(
            "The images cannot be exported because the shards of this pool are unknown: give --shards, or --pictures none."
        )
    rows = _chosen(explorer, only)
    verdicts, untold = _verdicts(explorer)
    files = _files(out, form, len(rows), ROWS_A_FILE[pictures])
    progress.start(len(rows), "rows")
    without = 0
    for number, (folder, name) in enumerate(files):
        some = np.array_split(rows, len(files))[number]
        with folder.writing(name) as path:
            without += _write(explorer, some, verdicts, pictures, path, progress)
    if form == "huggingface":
        card = CARD.format(name=explorer.origin.name, rows=len(rows), pool=explorer.sample.num_pool)
        Folder(out).write("README.md", card.encode())
    told: dict[str, Any] = {"out": out, "rows": len(rows), "pool": explorer.sample.num_pool, "files": len(files)}
    if pictures != "none":
        told["without_picture"] = without
    return told | ({"reasons_not_known": untold} if untold else {})


def _chosen(explorer: Explorer, only: str) -> npt.NDArray[np.int64]:
    """Return the rows of the sample to write."""
    if not only:
        return np.arange(explorer.sample.num_rows)
    names = [method.name for method in explorer.origin.methods]
    if only not in names:
        raise SpecError(f"--only {only!r} is not a method shown here: use one of {', '.join(names) or 'none'}.")
    rows = np.flatnonzero(explorer.times[names.index(only)] > 0)
    if not len(rows):
        raise SpecError(f"{only} keeps none of the {explorer.sample.num_rows:,} sampled rows: take a larger --sample.")
    return rows


def _verdicts(explorer: Explorer) -> tuple[pl.DataFrame, list[str]]:
    """Return columns of the whole sample: cluster, place, and what each method does; and why the reasons of some methods are
    unknown."""
    numbers = explorer.clusters.astype(np.int32)
    known = numbers != NONE
    names = pl.Series([*explorer.cluster_names, None], dtype=pl.String)
    columns: dict[str, Any] = {
        "cluster": pl.Series(numbers).set(pl.Series(~known), None),
        "cluster_name": names.gather(np.where(known, numbers, len(names) - 1)),
        "x": pl.Series(np.array(explorer.places[:, 0])).fill_nan(None),
        "y": pl.Series(np.array(explorer.places[:, 1])).fill_nan(None),
    }
    judging, untold = FacetCounts(explorer), list[str]()
    for number, method in enumerate(explorer.origin.methods):
        name = re.sub(r"[^A-Za-z0-9_]+", "_", method.name).strip("_")
        name = name if f"kept_{name}" not in columns else f"{name}_{number}"
        columns[f"kept_{name}"] = explorer.times[number] > 0
        columns[f"times_{name}"] = explorer.times[number]
        try:
            codes, words = judging.reasons(number)
            columns[f"reason_{name}"] = pl.Series([None, *words[1:]], dtype=pl.String).gather(codes.astype(np.int64))
        except DatacompError as problem:
            untold.append(str(problem))
    return pl.DataFrame(columns), untold


def _files(out: str, form: str, rows: int, most: int) -> list[tuple[Folder, str]]:
    if form == "parquet":
        folder, _, name = out.rpartition("/")
        if not name.endswith(".parquet"):
            raise SpecError(f"--out {out} does not end in .parquet: name a file, or ask for a folder with --format huggingface.")
        return [(Folder(folder or "."), name)]
    if Folder(out).files():
        raise SpecError(
            f"{out} already contains files: give an empty folder, so that no files of an earlier export remain in it."
        )
    count = max(1, -(-rows // most))
    return [(Folder(out), f"data/train-{number:05d}-of-{count:05d}.parquet") for number in range(count)]


def _write(
    explorer: Explorer, rows: npt.NDArray[np.int64], verdicts: pl.DataFrame, pictures: str, path: Path, progress: Progress
) -> int:
    """Write one file; return how many of its rows have no image."""
    import pyarrow.parquet as pq

    writer: Any = None
    without = 0
    for table in _tables(explorer, rows, verdicts, pictures):
        found: Any = table.to_arrow(compat_level=pl.CompatLevel.oldest())
        if writer is None:
            schema = _schema(found.schema) if pictures == "bytes" else found.schema.with_metadata(None)
            writer = pq.ParquetWriter(str(path), schema, compression="zstd")
        writer.write_table(found.cast(writer.schema))
        without += (
            table["image"].null_count() if pictures == "bytes" else table["shard"].null_count() if pictures != "none" else 0
        )
        progress.advance(table.height)
    writer.close()
    return without


def _schema(given: Any) -> Any:
    """With the type of images and the metadata by which the `datasets` library reads them; other types stay dictionaries."""
    import pyarrow as pa

    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return given.set(given.get_field_index("image"), pa.field("image", picture)).with_metadata(_features(given))


def _tables(explorer: Explorer, rows: npt.NDArray[np.int64], verdicts: pl.DataFrame, pictures: str) -> Iterator[pl.DataFrame]:
    sample = explorer.sample
    names = pl.Series(list(sample.parts), dtype=pl.String)
    for start in range(0, max(len(rows), 1), ROWS_AT_ONCE):
        some = rows[start : start + ROWS_AT_ONCE]
        table = pl.concat([_own(sample.rows[some], verdicts.columns), verdicts[some]], how="horizontal")
        places = table.select("part", "row")
        table = table.with_columns(names.gather(table["part"]).alias("part"))
        if explorer.origin.captions:
            table = table.with_columns(_captions(explorer, places))
        if pictures == "references":
            table = pl.concat([table, _references(explorer, table["uid"])], how="horizontal")
        if pictures == "bytes":
            table = table.with_columns(_images(explorer, table["uid"]))
        yield table


def _own(rows: pl.DataFrame, verdicts: Sequence[str]) -> pl.DataFrame:
    """The columns of the sample; one that has the name of another column of the export gets a name that begins with `pool_`."""
    return rows.rename({name: f"{OWN}{name}" for name in rows.columns if name in (*verdicts, *ADDED)})


def _captions(explorer: Explorer, places: pl.DataFrame) -> pl.Series:
    """Return all captions that caption sets have for the rows: a list of source and text per row."""
    found: dict[tuple[int, int], list[dict[str, str | None]]] = {}
    for part in places["part"].unique().to_list():
        wanted = set(places.filter(pl.col("part") == part)["row"].to_list())
        for folder in explorer.origin.captions:
            for row in captions_of(folder, explorer.sample.parts[part]).filter(pl.col("row").is_in(wanted)).iter_rows(named=True):
                found.setdefault((part, row["row"]), []).append({"source": row["source"], "text": row["text"]})
    kind = pl.List(pl.Struct({"source": pl.String, "text": pl.String}))
    return pl.Series("captions", [found.get(place, []) for place in places.iter_rows()], dtype=kind)


def _references(explorer: Explorer, uids: pl.Series) -> pl.DataFrame:
    """Return the location of each image: its tar, and the byte range of its sample."""
    places = [explorer.pictures.place(uid) or {} for uid in uids]
    tars = explorer.origin.shards.tars if explorer.origin.shards is not None else None
    schema = {"shard": pl.String, "key": pl.String, "offset": pl.Int64, "length": pl.Int64}
    made = pl.DataFrame([{name: place.get(name) for name in WHERE} for place in places], schema=schema)
    return made.with_columns(pl.format("{}.tar", pl.col("shard")).alias("shard"), pl.lit(str(tars)).alias("tars"))


def _images(explorer: Explorer, uids: pl.Series) -> pl.Series:
    """Return the bytes of each image as stored in the shards, in the form that `datasets` calls an Image."""
    found = {uid: data for uid, data in explorer.pictures.originals(uids.to_list()) if data}
    kind = pl.Struct({"bytes": pl.Binary, "path": pl.String})
    return pl.Series("image", [{"bytes": found[uid], "path": uid} if uid in found else None for uid in uids], dtype=kind)


def _features(schema: Any) -> dict[bytes, bytes]:
    """Return the file metadata that the `datasets` library reads: which column is an image."""
    import pyarrow as pa

    def of(kind: Any) -> Any:
        if pa.types.is_struct(kind):
            return {field.name: of(field.type) for field in kind}
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return {"_type": "List", "feature": of(kind.value_type)}
        return {"dtype": NAMES.get(str(kind), str(kind)), "_type": "Value"}

    features = {field.name: {"_type": "Image"} if field.name == "image" else of(field.type) for field in schema}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
