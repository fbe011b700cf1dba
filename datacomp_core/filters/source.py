"""What filters read: a pool's metadata parts with the score columns that lie beside them, only the columns that are wanted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from datacomp_core import parts
from datacomp_core.errors import DataError
from datacomp_core.store import Folder


@dataclass(frozen=True)
class Source:
    """A metadata folder, and folders of scores with a parquet of the same name for each part."""

    metadata: Folder
    scores: tuple[Folder, ...] = ()

    def parts(self) -> list[str]:
        return parts.part_names(self.metadata)

    def check(self, part: str, columns: Iterable[str]) -> None:
        """DataError names a column that is not there, with those that are."""
        with _Told(self, part):
            known = parts.scan(self.metadata, part, self.scores).collect_schema().names()
        if missing := sorted(set(columns) - set(known)):
            raise DataError(
                f"Column {missing[0]!r} is not in part {part} of {self.metadata}; there are {', '.join(known)}. "
                "Scores of models of our own come from embedding the pool."
            )

    def num_rows(self, part: str) -> int:
        with _Told(self, part):
            return int(parts.scan(self.metadata, part).select(pl.len()).collect().item())

    def score_columns(self, part: str) -> list[str]:
        """The columns that lie beside the metadata."""
        with _Told(self, part):
            frames = [pl.scan_parquet(f.at(f"{part}.parquet"), storage_options=parts.storage_options(f)) for f in self.scores]
            return [name for frame in frames for name in frame.collect_schema().names() if name != "uid"]

    def read(self, part: str, columns: Iterable[str]) -> pl.DataFrame:
        """Some columns of one part, at least one."""
        with _Told(self, part):
            try:
                return parts.scan(self.metadata, part, self.scores).select(sorted(columns)).collect()
            except pl.exceptions.ColumnNotFoundError:
                self.check(part, columns)
                raise


class _Told:
    """Turns what polars says of a file into one sentence."""

    def __init__(self, source: Source, part: str) -> None:
        self.source, self.part = source, part

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        if isinstance(problem, (pl.exceptions.PolarsError, OSError)):
            where = " or ".join(folder.at(f"{self.part}.parquet") for folder in (self.source.metadata, *self.source.scores))
            reason = str(problem).strip().splitlines()[0]
            raise DataError(f"{where} cannot be read ({reason}): make or fetch it again.") from problem
