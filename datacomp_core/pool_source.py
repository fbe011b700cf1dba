"""Reads a pool for filters and scores: its metadata, the score columns and embeddings beside it, its images.

Only the requested columns are read, and embeddings block by block, so that memory is bounded by one part's columns.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core import parts, uid, uid_values
from datacomp_core.columns import plain
from datacomp_core.errors import DataError, SpecError
from datacomp_core.store import Folder
from datacomp_core.store.fingerprint import without_places

Block = npt.NDArray[np.float32]
BLOCK_ROWS = 8192
EMBED = (
    "`datacomp run --pool POOL` computes the scores b32 and l14 by default, and others with --embed NAME=checkpoints/ADDRESS or "
    "NAME=MODEL@FILE; for folders `datacomp embed --metadata` computes them, and `datacomp filter --scores` reads them."
)
LEARN = (
    "The images fill it: `datacomp run --pool POOL` and `datacomp filter --pool POOL` read the download's ledger or the adopted "
    "tars. Tables of your own name it when the pool is made (`datacomp pool byod`)."
)
CAPTIONS = (
    "Name the column that has the captions when the pool is made (`datacomp pool byod --text`), or use a filter without text."
)
OF_TABLES = "Name the column that has it when the pool is made (`datacomp pool byod`), or use a filter that does not read it."
HOW_TO_FILL: dict[str, str] = {
    **dict.fromkeys(("original_width", "original_height", "sha256"), LEARN),
    **dict.fromkeys(("url", "face_bboxes", "uid"), OF_TABLES),
    "text": CAPTIONS,
}


@dataclass(frozen=True)
class PoolSource:
    """A metadata folder; folders of scores with a parquet of the same name for each part; folders of `<part>.npz`; shards.

    DataComp's own npz files are beside the metadata, where they are looked for if no folder of `features` has the array.
    """

    metadata: Folder
    scores: tuple[Folder, ...] = ()
    features: tuple[Folder, ...] = ()
    shards: Folder | None = None
    captioned: Folder | None = None
    """The captions after a policy (`Captioned`): rows whose caption it changed have no text features from the pool."""
    by_captions: Mapping[str, PoolSource] = field(default_factory=dict[str, "PoolSource"])
    """The same pool with the captions of one source each, for filters that name the source."""

    def of(self, captions: str) -> PoolSource:
        """The pool with the captions of a source. SpecError if they are not given."""
        if captions not in self.by_captions:
            known = ", ".join(sorted(self.by_captions)) or "none"
            raise SpecError(f"The filter names the captions {captions!r}; given are {known}: give their set (--captions).")
        return replace(self.by_captions[captions], by_captions=self.by_captions)

    def parts(self) -> list[str]:
        return parts.part_names(self.metadata)

    def check(self, part: str, columns: Iterable[str]) -> None:
        """DataError names a column that is not there, with those that are."""
        with _Told(self, part):
            known = parts.scan(self.metadata, part, self.scores).collect_schema().names()
        if missing := sorted(name for name in set(columns) if without_places(name) not in known):
            raise DataError(
                f"Column {missing[0]!r} is not in part {part} of {self.metadata}; there are {', '.join(known)}. "
                "Scores of models of our own come from embedding the pool."
            )

    def check_filled(self, names: Sequence[str], columns: Iterable[str]) -> None:
        """DataError names a column that no row of the pool has a value in: every filter on it would drop everything."""
        if empty := self.empty(names, columns):
            name = min(empty)
            raise DataError(f"Column {name!r} of {self.metadata} has no value in any row. {HOW_TO_FILL.get(name, EMBED)}")

    def empty(self, names: Sequence[str], columns: Iterable[str]) -> frozenset[str]:
        """Those of `columns` that have no value in any row of these parts, or are not there."""
        empty = set(columns)
        for part in names:
            if not empty:
                break
            with _Told(self, part):
                frame = parts.scan(self.metadata, part, self.scores)
                schema = frame.collect_schema()
                there = sorted(name for name in empty if without_places(name) in schema)
                counts = frame.select(_named(name).count() for name in there).collect().row(0, named=True) if there else {}
            empty = {name for name in empty if not counts.get(name, 0)}
        return frozenset(empty)

    def columns(self, part: str) -> list[str]:
        """The columns of the metadata and of what is beside it."""
        with _Told(self, part):
            return parts.scan(self.metadata, part, self.scores).collect_schema().names()

    def num_rows(self, part: str) -> int:
        with _Told(self, part):
            return int(parts.scan(self.metadata, part).select(pl.len()).collect().item())

    def score_columns(self, part: str) -> list[str]:
        """The columns of numbers that are beside the metadata."""
        with _Told(self, part):
            schemas = [parts.scan_tables(folder, f"{part}.parquet").collect_schema() for folder in self.scores]
            return [name for schema in schemas for name, kind in schema.items() if kind.is_numeric()]

    def read(self, part: str, columns: Iterable[str]) -> pl.DataFrame:
        """Some columns of one part, at least one."""
        with _Told(self, part):
            try:
                found = parts.scan(self.metadata, part, self.scores).select(_named(name) for name in sorted(columns)).collect()
                return plain(found, self.metadata.at(f"{part}.parquet"))
            except pl.exceptions.ColumnNotFoundError:
                self.check(part, columns)
                raise

    def embeddings(self, part: str, key: str, rows: int = BLOCK_ROWS) -> Iterator[Block]:
        """The array `key` of a part's npz, float32 blocks (up to `rows`, d) in row order; NaN where a row has no features."""
        start = 0
        changed = self._changed(part, key)
        for block in self._blocks(part, key, rows):
            made = block.astype(np.float32)
            if changed is not None:
                made[changed[start : start + len(made)]] = np.nan
            start += len(made)
            yield made

    def whole(self, part: str, key: str) -> npt.NDArray[np.floating[Any]]:
        """The array `key` of a part's npz, (rows, d), in its own precision."""
        made = np.concatenate(list(self._blocks(part, key, BLOCK_ROWS)))
        changed = self._changed(part, key)
        if changed is not None:
            made[changed] = np.nan
        return made

    def _changed(self, part: str, key: str) -> npt.NDArray[np.bool_] | None:
        """Which rows have no caption, or another one than these features are of; None if none can."""
        if self.captioned is None or not key.endswith("_txt") or self._features_of(part, key) == self.captioned / parts.FEATURES:
            return None
        changed = parts.scan_tables(self.captioned / parts.SCORES, f"{part}.parquet")
        other = changed.select(pl.col("caption_changed") | pl.col("caption_source").is_null()).collect()
        return other.to_series().to_numpy()

    def _blocks(self, part: str, key: str, rows: int) -> Iterator[npt.NDArray[Any]]:
        folder = self._features_of(part, key)
        where = f"{folder.at(part)}.npz"
        try:
            with folder.open(f"{part}.npz") as file, zipfile.ZipFile(file) as archive:
                order = self._order(part, archive, where)
                with archive.open(f"{key}.npy") as array:
                    shape, dtype = _header(array)
                    if len(shape) != 2 or not np.issubdtype(dtype, np.floating):
                        raise DataError(f"{key} in {where} is not an array of features (rows, dimensions).")
                    self._check_rows(part, key, shape[0], order, where)
                    blocks = _stored(array, shape, dtype, rows)
                    yield from blocks if order is None else _ordered(np.concatenate(list(blocks)), order[0], rows)
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, ValueError, EOFError) as problem:
            raise DataError(f"{where} cannot be read ({problem}): make or fetch it again.") from problem

    def _order(self, part: str, archive: zipfile.ZipFile, where: str) -> tuple[npt.NDArray[np.int64], int] | None:
        """The row of the npz for each row of the metadata (-1: none) and the size of the npz, if its uids say another order."""
        name = next((name for name in ("uid.npy", "uids.npy") if name in archive.namelist()), None)
        if name is None:
            return None
        with archive.open(name) as array:
            found = uid_values.from_array(np.lib.format.read_array(array, allow_pickle=False), f"{name} in {where}")
        wanted = uid_values.parsed(self.read(part, ["uid"])["uid"], self.metadata.at(f"{part}.parquet"), 1)
        if np.array_equal(found, wanted):
            return None
        theirs = pl.DataFrame({"f0": found["f0"], "f1": found["f1"], "row": np.arange(len(found))})
        if len(twice := theirs.filter(theirs.select("f0", "f1").is_duplicated())):
            example = uid.unpack(found[twice["row"].to_numpy()[:1]])[0]
            raise DataError(f"The uid {example} is in {where} more than once, so that its features are not known: make it again.")
        mine = pl.DataFrame({"f0": wanted["f0"].copy(), "f1": wanted["f1"].copy()})
        order = mine.join(theirs, on=["f0", "f1"], how="left", maintain_order="left")["row"].fill_null(-1).to_numpy()
        if len(wanted) and (order < 0).all():
            raise DataError(f"No uid of {self.metadata.at(part)}.parquet is in {where}: it is not the npz of this part.")
        return order, len(found)

    def _check_rows(self, part: str, key: str, found: int, order: tuple[npt.NDArray[np.int64], int] | None, where: str) -> None:
        """DataError if an array does not have a row for each uid of its npz, or without uids for each row of the metadata."""
        wanted, of = (self.num_rows(part), "metadata") if order is None else (order[1], "uids")
        if found != wanted:
            raise DataError(
                f"Part {part} has {wanted} rows of {of} and other {key} features ({found} rows in {where}): fetch or embed it "
                "again."
            )

    def has_embeddings(self, part: str, key: str) -> bool:
        """Whether a part has the array `key`."""
        return any(key in _keys(folder, part) for folder in (*self.features, self.metadata))

    def embedding_keys(self, part: str) -> list[str]:
        """The names of a part's arrays of features, such as `l14_img`, sorted."""
        known = {key for folder in (*self.features, self.metadata) for key in _keys(folder, part)}
        return sorted(key for key in known if key.endswith(("_img", "_txt")))

    def require_embeddings(self, part: str, key: str) -> None:
        """DataError if a part has no such array."""
        self._features_of(part, key)

    def _features_of(self, part: str, key: str) -> Folder:
        known: list[str] = []
        for folder in (*self.features, self.metadata):  # what is given by name comes first
            there = _keys(folder, part)
            if key in there:
                return folder
            known += there
        have = f"the npz files have {', '.join(sorted(known))}" if known else "there are no npz files"
        raise DataError(
            f"Part {part} of {self.metadata} has no embeddings {key!r} ({have}): download them, embed the pool, "
            "or give their folder."
        )


def _named(column: str) -> pl.Expr:
    """Return a column under the requested name: that of a score to compute may contain the place of its file."""
    return pl.col(without_places(column)).alias(column)


def _stored(array: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any], rows: int) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, shape[0], rows):
        size = min(rows, shape[0] - start)
        data = array.read(size * shape[1] * dtype.itemsize)
        yield np.frombuffer(data, dtype).reshape(size, shape[1])


def _ordered(features: npt.NDArray[Any], order: npt.NDArray[np.int64], rows: int) -> Iterator[npt.NDArray[Any]]:
    """The rows of `features` in another order; NaN where there is none."""
    for start in range(0, len(order), rows):
        some = order[start : start + rows]
        block = features[some]
        block[some < 0] = np.nan
        yield block


def _keys(folder: Folder, part: str) -> list[str]:
    if not folder.exists(f"{part}.npz"):
        return []
    try:
        with folder.open(f"{part}.npz") as file, zipfile.ZipFile(file) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile as problem:
        raise DataError(f"{folder.at(part)}.npz cannot be read ({problem}): make or fetch it again.") from problem


def _header(array: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    version = np.lib.format.read_magic(array)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(array)
    if fortran or dtype.hasobject:
        raise ValueError("the array must be in row order")
    return shape, dtype


class _Told:
    """Turns what polars says of a file into one sentence."""

    def __init__(self, source: PoolSource, part: str) -> None:
        self.source, self.part = source, part

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if isinstance(problem, (pl.exceptions.PolarsError, OSError)):
            for folder in (self.source.metadata, *self.source.scores):
                if fault := parts.store_fault(problem, folder, f"{self.part}.parquet"):
                    raise fault from problem
            where = " or ".join(folder.at(f"{self.part}.parquet") for folder in (self.source.metadata, *self.source.scores))
            reason = str(problem).strip().splitlines()[0]
            raise DataError(f"{where} cannot be read ({reason}): make or fetch it again.") from problem
