"""What a filter is: a small frozen model with a `kind`, whose fields are its parameters, its YAML and its form.

By what they have to see: a `Rule` is a polars expression over a row; a `Batch` judges many rows by a function and is asked
last, only about the survivors (a `FeatureBatch` sees their embeddings); a `Ranked` keeps what scores best, which takes a look
at the whole pool first; a `Survey` decides over all rows that come to it together. Verdicts are three-valued: where a value is
missing a filter says neither yes nor no, and only a yes is kept.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from datacomp_core.selection.view import View

Mask = npt.NDArray[np.bool_]

SCORES = {
    "b32": "clip_b32_similarity_score",
    "l14": "clip_l14_similarity_score",
    "tiny": "clip_tiny_similarity_score",
}
"""Short names of score columns; any other name stands for the column itself."""


def locked(kind: str) -> Any:
    """The field `kind`: its only value, which a form shows as a locked choice."""
    return Field(default=kind, json_schema_extra={"enum": [kind]})


def _canonical(score: str) -> str:
    from datacomp_core.scores import canonical

    return canonical(score)


ScoreName = Annotated[str, AfterValidator(_canonical)]
"""A score column, a short name of one, or a score to compute: `kind` or `kind:parameter=value,...` (scores/)."""


def score_field(default: str) -> Any:
    """The field `score`: which column to look at."""
    return Field(
        default=default,
        min_length=1,
        description=f"A score column, one of {', '.join(SCORES)} for the CLIP score of that model, or a score to compute.",
    )


def score_column(score: str) -> str:
    return SCORES.get(score, score)


class Verdict(NamedTuple):
    """`yes` passes, `no` fails; neither: a value is missing, or the row was not asked about. Both of shape (rows,)."""

    yes: Mask
    no: Mask


class Filter(BaseModel):
    """Base of all filters and of what combines them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # weights are a dict, which has no hash of its own

    cost: ClassVar[int] = 0
    """Cheap filters are asked first. 0: an expression, asked about every row at no noticeable cost."""

    @abstractmethod
    def columns(self) -> frozenset[str]:
        """The columns it reads."""

    @abstractmethod
    def title(self) -> str:
        """What passes, in a few words."""

    @abstractmethod
    def reason(self) -> str:
        """What a row is that it drops, in a few words."""


class Rule(Filter):
    """Judges a row by itself, by a polars expression."""

    @abstractmethod
    def expression(self) -> pl.Expr:
        """Boolean; null where a value is missing."""


class Batch(Filter):
    """Judges many rows at once by a function; costly."""

    cost: ClassVar[int] = 10

    @abstractmethod
    def judge(self, rows: pl.DataFrame) -> pl.Series:
        """Boolean, one a row; null where a value is missing. `rows` has the columns it reads."""


class FeatureBatch(Batch):
    """Judges rows by their embeddings."""

    cost: ClassVar[int] = 20

    @abstractmethod
    def feature_key(self) -> str:
        """The array of the npz that it reads, as `l14_img`."""

    @abstractmethod
    def prepare(self) -> Mask:
        """What has to be known before any row is judged; made once a selection and handed to all its processes."""

    @abstractmethod
    def judge_features(self, blocks: Iterator[npt.NDArray[np.float32]], prepared: Mask) -> pl.Series:
        """Boolean, one a row of the blocks (n, d) in order; null where a row's features are missing (NaN)."""

    def columns(self) -> frozenset[str]:
        return frozenset()

    def judge(self, rows: pl.DataFrame) -> pl.Series:
        raise AssertionError("a filter of embeddings is asked by judge_features")


class Ranked(Filter):
    """Keeps the rows that score best among those it is asked about. Missing scores rank last and never pass."""

    @abstractmethod
    def score_expression(self) -> pl.Expr:
        """A numeric expression, null where there is none."""

    @abstractmethod
    def rank(self, num_rows: int) -> tuple[int, bool]:
        """`(k, whole)`: what scores at least as much as the k-th best (from 0) is kept.

        `whole`: if there are not so many scores, all of them are kept, else none. A negative k keeps none.
        """

    @abstractmethod
    def among(self) -> Literal["pool", "survivors"]:
        """Whether it ranks all rows of the pool, or those that passed the filters before it."""


class Survey(Filter):
    """Decides over all rows that come to it at once, as no row can be judged by itself (duplicates, say).

    It comes after the filters that stand before it, and nothing moves past it.
    """

    cost: ClassVar[int] = 30

    @abstractmethod
    def survey(self, view: View) -> None:
        """Read what it needs of the rows of `view` and give a verdict on each (`view.decide`)."""
