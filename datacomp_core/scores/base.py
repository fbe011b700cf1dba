"""Defines a score to compute: a small frozen model that fills one column, part by part. Written `kind:parameter=value,...`.

A score depends on the pool and on its parameters, never on what other filters keep, so it is computed once and shared by every
recipe that reads it. Its column has the name as written, without defaults.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from datacomp_core.artifacts import Spec
from datacomp_core.driver_files import Exchange
from datacomp_core.kind_registration import CODE, Kinded, OfRegistry, parameter_text, registers
from datacomp_core.parallel import process_map
from datacomp_core.pool_source import PoolSource
from datacomp_core.progress import Progress
from datacomp_core.registry import SCORES
from datacomp_core.store import Folder
from datacomp_core.store.fingerprint import without_places

Column = npt.NDArray[np.float32] | npt.NDArray[np.float64] | npt.NDArray[np.int64]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class ScoreContext:
    """The inputs of a computation: the pool, a folder kept between attempts, one that is not, processes, a model.

    `model` is the name and the checkpoint file of a CLIP, for scores that encode images.
    """

    source: PoolSource
    names: tuple[str, ...]
    kept: Folder
    shared: Exchange
    workers: int
    progress: Progress
    model: tuple[str, str] | None = None
    device: str = ""

    def map(self, function: Callable[[T], R], items: Sequence[T], unit: str) -> Iterator[tuple[T, R]]:
        self.progress.start(len(items), unit)
        for item, found in process_map(function, items, workers=self.workers):
            self.progress.advance()
            yield item, found


class Score(Kinded, Spec):
    """Base of all scores to compute."""

    kind: str = ""
    version: ClassVar[int] = 1
    """Raised by hand when the meaning of this score changes: it is computed again."""
    paper: ClassVar[str] = ""
    on_gpu: ClassVar[bool] = False
    """Whether a GPU makes it much faster: flows hand it to GPU workers, as they do embedding. So is what needs a `model`."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Of `features`, `images` and `model`, beyond the metadata."""

    @classmethod
    def __pydantic_init_subclass__(cls, **given: Any) -> None:
        super().__pydantic_init_subclass__(**given)
        if "model" in cls.needs and "on_gpu" not in vars(cls):
            cls.on_gpu = True

    @property
    def full_name(self) -> str:
        """`kind:parameter=value,...`, without defaults: how filters name it. Foreign code is named with its identity."""
        given = self.model_dump(exclude_defaults=True, exclude={"kind"})
        if code := getattr(self, CODE, ""):
            given = {CODE: code, **given}
        return self.kind + (":" + ",".join(f"{name}={parameter_text(given[name])}" for name in sorted(given)) if given else "")

    @property
    def column_name(self) -> str:
        """Its column: the full name without the places of files, which are known by their content."""
        return without_places(self.full_name)

    def label(self) -> str:
        return self.kind

    def account(self, out: Folder) -> dict[str, int]:
        """Return additional counts, beyond rows with and without a value."""
        return {}

    def columns(self) -> Iterable[str]:
        """The columns of the metadata that it reads."""
        return ()

    def reads_index(self) -> bool:
        """Whether it reads the index of the pool's shards."""
        return False

    def feature_keys(self) -> Iterable[str]:
        """The arrays of the npz that it reads."""
        return ()

    def prepare(self, context: ScoreContext) -> Any:
        """Return what every part needs from a look at the whole pool; it must be small and picklable."""
        return None

    @abstractmethod
    def of_part(self, source: PoolSource, part: str, prepared: Any) -> Column:
        """One value a row, shape (rows,); NaN where there is none."""


S = TypeVar("S", bound=Score)
AnyScore = Annotated[Score, OfRegistry(SCORES)]
"""A score of any registered kind."""


def register(kind: str) -> Callable[[type[S]], type[S]]:
    """The decorator of a score's class. `kind` is what YAML and recipes call it."""
    return registers(SCORES, kind)
