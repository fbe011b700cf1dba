"""Defines a filter: a small frozen model with a `kind`, whose fields are its parameters, its YAML and its form. Filters differ
in what they need to see: a `RowFilter` is a polars expression over a row; a `BatchFilter` judges many rows with a function and
runs last, only on the survivors (a `FeatureFilter` sees their embeddings); a `RankFilter` keeps the best scores, which needs the
whole pool first; a `GlobalFilter` decides over all incoming rows together. Verdicts are three-valued: for a missing value a
filter says neither yes nor no, and only a yes is kept. A new filter is a class of one of these sorts with
`@register("its_kind")`, in this folder, in an installed package or in a single file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BeforeValidator, Field, GetJsonSchemaHandler
from pydantic_core import core_schema

from datacomp_core.driver_files import Exchange
from datacomp_core.errors import SpecError
from datacomp_core.kind_registration import Kinded, OfRegistry, parameter_text, parse_kind, registers
from datacomp_core.registry import FILTERS
from datacomp_core.registry import SCORES as COMPUTED
from datacomp_core.store.fingerprint import short_places

Mask = npt.NDArray[np.bool_]
T = TypeVar("T")
R = TypeVar("R")

SCORES = {
    "b32": "clip_b32_similarity_score",
    "l14": "clip_l14_similarity_score",
    "tiny": "clip_tiny_similarity_score",
}
"""Short names of score columns; any other name is a column."""
SHORT_NAMES = {column: short for short, column in SCORES.items()}


def register(kind: str) -> Callable[[type[F]], type[F]]:
    """Decorator of a filter class. `kind` is its name in YAML and recipes."""
    return registers(FILTERS, kind)


def locked(value: str) -> Any:
    """A field with one value, which a form shows as a locked choice."""
    return Field(default=value, json_schema_extra={"enum": [value]})


def _canonical(score: Any) -> Any:
    """One way to write each score: a column by its short name if it has one, a score to compute without its defaults."""
    if isinstance(score, Mapping):
        given = {str(name): value for name, value in score.items()}
        kind = str(given.pop("kind", ""))
        score = kind + ":" + ",".join(f"{name}={parameter_text(value)}" for name, value in given.items())
    if not isinstance(score, str):
        return score
    made = parse_kind(COMPUTED, score)
    return SHORT_NAMES.get(score, score) if made is None else made.full_name


ScoreName = Annotated[str, BeforeValidator(_canonical)]
"""A score column, a short name of one, or a score to compute: `kind`, `kind:parameter=value,...` or a mapping (scores/)."""


def score_field(default: str) -> Any:
    """The field `score`: the column to read."""
    return Field(
        default=default,
        min_length=1,
        description=f"A score column, one of {', '.join(SCORES)} for the CLIP score of that model, or a score to compute.",
    )


def score_column(score: str) -> str:
    return SCORES.get(score, score)


def score_title(score: str) -> str:
    """Return the name of a score for titles and reasons: a file of scores is named without its folder."""
    return short_places(score_column(score))


class FilterDecision(NamedTuple):
    """`yes` passes, `no` fails; neither: a value is missing, or the row was not asked about. Both of shape (rows,)."""

    yes: Mask
    no: Mask


class Filter(Kinded):
    """Base of all filters and of what combines them."""

    kind: str = ""
    version: ClassVar[int] = 1
    """Raised by hand when the meaning of this filter changes; its subsets are then made again."""

    cost: ClassVar[int] = 0
    """Cheap filters run first. 0: an expression, evaluated for every row at no noticeable cost."""

    is_outermost: ClassVar[bool] = False
    """It decides how often a row is used, so it cannot be inside another filter."""

    def __hash__(self) -> int:
        return hash(self.model_dump_json())  # weights are a dict, which is not hashable

    @abstractmethod
    def columns(self) -> frozenset[str]:
        """The columns it reads."""

    def title(self) -> str:
        """Return in a few words what passes."""
        given = self.model_dump(include=set(self.parameters()))
        return " ".join([self.kind, ", ".join(f"{name} {short_places(str(value))}" for name, value in given.items())]).strip()

    def reason(self) -> str:
        """Return in a few words why a row is dropped."""
        return f"fails {self.title()}"

    def missing(self) -> str:
        """Return in a few words why a row that it cannot judge is dropped; empty: the columns or features that it reads are
        missing."""
        return ""

    def label(self) -> str:
        """Return a short readable name: the kind and non-default values. It is not part of the identity."""
        given = self.model_dump(include=set(self.parameters()), exclude_defaults=True)
        plain = [short_places(str(value)).rpartition("/")[2] for value in given.values() if isinstance(value, (str, int, float))]
        return "_".join([self.kind, *plain])

    def expected_share(self, num_rows: int) -> float | None:
        """Return the expected share of a pool of `num_rows`, including repeats; None if only the data can tell."""
        return None

    def is_relative(self) -> bool:
        """Whether its expected share is a share of the rows that the filters before it keep, not of the pool."""
        return False

    def feature_prefix(self) -> str:
        """Return the name of the embeddings that it reads (`l14` of `l14_img`): its field `features`; empty: it reads none."""
        return str(getattr(self, "features", ""))

    def fixed_cutoff(self) -> tuple[str, float] | None:
        """Return the score column and the value from which it keeps rows, if it has them; a report draws them."""
        return None

    def draws_from(self) -> Filter | None:
        """Return the filter whose rows an outermost filter draws from; None for any other filter."""
        return None


F = TypeVar("F", bound=Filter)


class _Nested(OfRegistry):
    """How filters inside filters look in a form: one level is spelled out, deeper ones are any JSON of the right shape.

    Prefect's form cannot draw a union that contains itself. Validation is not limited by this: Python and YAML nest as they like.
    """

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        plain: dict[Any, core_schema.CoreSchema] = {
            kind: model.__pydantic_core_schema__ for kind, model in self.kinds().items() if kind not in COMBINATIONS
        }
        drawn = dict(handler(core_schema.tagged_union_schema(plain, discriminator="kind")))
        deeper = {
            "title": "Nested",
            "description": "A combination inside a combination, as JSON.",
            "type": "object",
            "properties": {"kind": {"type": "string", "enum": list(COMBINATIONS)}},
            "required": ["kind"],
        }
        return {"anyOf": [*drawn.get("oneOf", [drawn]), deeper]}


COMBINATIONS = ("all", "any", "not", "captions_of")
AnyFilter = Annotated[Filter, _Nested(FILTERS, lambda kind: not kind.is_outermost)]
"""A filter inside another."""

WholeFilter = Annotated[Filter, OfRegistry(FILTERS)]
"""The outermost filter: any filter, or a sample of what one keeps."""


def check_expression(asked: Filter, expression: Any) -> pl.Expr:
    """Return a filter's expression. SpecError if it is not an expression."""
    if not isinstance(expression, pl.Expr):
        raise SpecError(f"The filter {asked.kind} returns {type(expression).__name__}: return a polars expression.")
    return expression


class RowFilter(Filter):
    """Judges each row with a polars expression."""

    @abstractmethod
    def expression(self) -> pl.Expr:
        """Boolean; null where a value is missing."""

    def numeric_columns(self) -> Iterable[str]:
        """The columns that it compares as numbers: another type is cast or refused."""
        return ()

    def columns(self) -> frozenset[str]:
        return frozenset(check_expression(self, self.expression()).meta.root_names())


class BatchFilter(Filter):
    """Judges many rows at once with a function; costly."""

    cost: ClassVar[int] = 10

    @abstractmethod
    def judge(self, rows: pl.DataFrame) -> pl.Series:
        """Return one value per row; `rows` has the columns it reads. Boolean: kept or not, null where a value is missing. Or
        text: the reason for the drop, empty where the row is kept.
        """


class LookupFilter(BatchFilter):
    """Judges rows with a table that is prepared once per selection, on the local disk. It judges every row of the pool."""

    cost: ClassVar[int] = 5

    @abstractmethod
    def prepare_table(self, folder: Path) -> None:
        """Write into an empty folder what `look_up` needs."""

    @abstractmethod
    def look_up(self, rows: pl.DataFrame, folder: Path) -> pl.Series:
        """As `judge`."""

    def judge(self, rows: pl.DataFrame) -> pl.Series:
        raise AssertionError("a filter with a table is evaluated by look_up")


class FeatureFilter(BatchFilter):
    """Judges rows by their embeddings."""

    cost: ClassVar[int] = 20

    @abstractmethod
    def feature_key(self) -> str:
        """The array of the npz that it reads, as `l14_img`."""

    @abstractmethod
    def prepare(self) -> Mask:
        """Return what must be known before any row is judged; made once per selection and passed to all its processes."""

    @abstractmethod
    def judge_features(self, blocks: Iterator[npt.NDArray[np.float32]], prepared: Mask) -> pl.Series:
        """Boolean, one per row of the blocks (n, d) in order; null where a row's features are missing (NaN)."""

    def columns(self) -> frozenset[str]:
        return frozenset()

    def judge(self, rows: pl.DataFrame) -> pl.Series:
        raise AssertionError("a filter of embeddings is evaluated by judge_features")


class RankFilter(Filter):
    """Keeps the rows with the best scores among those it judges. Missing scores rank last and never pass."""

    @abstractmethod
    def score_expression(self) -> pl.Expr:
        """A numeric expression, null where there is none."""

    @abstractmethod
    def rank(self, num_rows: int) -> tuple[int, bool]:
        """`(k, whole)`: what scores at least as much as the k-th best (from 0) is kept.

        `whole`: if there are fewer scores, all of them are kept, else none. A negative k keeps none.
        """

    def columns(self) -> frozenset[str]:
        return frozenset(check_expression(self, self.score_expression()).meta.root_names())

    def among(self) -> Literal["pool", "survivors"]:
        """Whether it ranks all rows of the pool, or only those that passed the filters before it."""
        return "pool"

    def full_rounds(self, num_rows: int) -> int:
        """Return how often every ranked row is taken before the best are taken once more; 0 but for an outermost filter."""
        return 0


class GlobalFilter(Filter):
    """Decides over all incoming rows at once, because no row can be judged alone (for example duplicates). It runs after the
    filters before it, and no filter moves past it.
    """

    cost: ClassVar[int] = 30

    @abstractmethod
    def decide_all(self, view: GlobalView) -> None:
        """Read what it needs of the rows of `view` and decide on each (`view.decide`)."""


class GlobalView(Protocol):
    """The rows that reach a `GlobalFilter`, part by part, a folder that its workers share, and the sink for its verdicts.

    Rows are identified by their position in a part. The view can be pickled, so that several processes can share the work.
    """

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def path(self) -> str: ...
    @property
    def memory(self) -> Exchange: ...
    @property
    def shared(self) -> Exchange: ...
    @property
    def num_reached(self) -> int: ...

    def reached(self, part: str) -> Mask:
        """Return which rows of a part reach the filter, bool of shape (rows,)."""
        ...

    def frame(self, part: str, columns: Iterable[str]) -> pl.DataFrame:
        """Columns of the rows that came, with their place as `row`."""
        ...

    def all_rows(self, part: str, columns: Iterable[str]) -> pl.DataFrame:
        """Columns of all rows of a part, whether they came or not."""
        ...

    def blocks(self, part: str, key: str) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
        """`(rows, features (n, d))` of the rows that came and have features, block by block."""
        ...

    def best(
        self, columns: Iterable[str], values: Callable[[pl.DataFrame], pl.Series], rank: Callable[[int], tuple[int, bool]]
    ) -> float | int | None:
        """The value of the k-th best of the rows that came (see `RankFilter.rank`); None if none passes.

        `values` may run in other processes if it pickles.
        """
        ...

    def best_of(
        self, scores: Callable[[T], pl.Series], items: Iterable[T], rank: Callable[[int], tuple[int, bool]]
    ) -> float | int | None:
        """As `best`, of the scores that a function returns for each item; it is called again for each item in each pass."""
        ...

    def decide(self, part: str, yes: npt.NDArray[np.int64], *, unknown: npt.NDArray[np.int64] | None = None) -> None:
        """The rows (by place) that pass; those that cannot be judged; the rest of those that came fail."""
        ...

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """`(item, function(item))` as they finish, in processes that may stand on other machines."""
        ...

    def scan(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
        """As `map`, for work that costs little: in threads, unless the pool is large."""
        ...
