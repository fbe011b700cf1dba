"""Defines the request of a search: a filter with free parameters, seeds, a baseline, and a budget."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, ValidationError, field_validator, model_validator

from datacomp_core.artifacts import Spec
from datacomp_core.caption_policy import CaptionPlan
from datacomp_core.embedding.spec import EmbedSpec
from datacomp_core.errors import DataError, SpecError, unknown
from datacomp_core.leaderboard.search.proposals import Pruning, Sampler
from datacomp_core.leaderboard.search.space import Space
from datacomp_core.recipes.base import Recipe
from datacomp_core.recipes.load import load_recipe, resolved
from datacomp_core.scales import SCALES
from datacomp_core.store.fingerprint import SHORT, fingerprint
from datacomp_core.untrusted_documents import parse_yaml, read_yaml
from flows.parameters import (
    EvalsetsAddress,
    ExperimentSpec,
    MadeFrom,
    OpenNetworks,
    PoolAddress,
    ScaleChoice,
    Scorers,
)

HOW_IT_IS_RUN = ("trials", "hours", "gpu_hours", "money")
SPACE_HELP = (
    "A filter in YAML, in which {low: 0.1, high: 0.6} (log, step) or {choose: [...]} marks a value to search, such as "
    "{kind: top_fraction, score: tiny, fraction: {low: 0.1, high: 0.6}}."
)
DEFAULT_SPACE = "{kind: top_fraction, score: tiny, fraction: {low: 0.1, high: 0.9}}"


class SearchSpec(Spec):
    """A search for a filter. The budget is not part of its identity: with more trials it resumes where it stopped."""

    names_for_people: ClassVar[frozenset[str]] = frozenset({"name", *HOW_IT_IS_RUN})
    scale: ScaleChoice = "tiny"
    name: str = Field(default="search", pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$", description="Name of the search.")
    space: str = Field(default=DEFAULT_SPACE, min_length=1, max_length=100_000, description=SPACE_HELP)
    against: str = Field(default="", description="The baseline recipe for the winner. Empty: the scale's CLIP score, best 30 %.")
    trials: int = Field(default=20, ge=1, le=10_000, description="Maximum number of filters to try.")
    hours: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Budget of wall time. Time for the final runs is reserved."
    )
    gpu_hours: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Budget of GPU-hours.")
    money: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Budget in the currency of the rates.")
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, description="Training seeds of a trial.")
    final_seeds: tuple[int, ...] = Field(
        default=(1001, 1002, 1003), min_length=2, description="Fresh seeds of the winner and its baseline."
    )
    first_scales: tuple[ScaleChoice, ...] = Field(
        default=(), description="Smaller scales at which a trial is tried first; a trial that lags there is stopped."
    )
    at_once: int = Field(default=4, ge=1, le=256, description="Trials that run at the same time.")
    sampler: Sampler = Field(default="tpe", description="Optuna's TPE, Gaussian process, or random search.")
    pruning: Pruning = Field(default="median", description="median: a trial below the median gets no further seed or scale.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the proposals.")
    pool: PoolAddress = ""
    shards: str = Field(default="", description="Address of that pool's images (`shards/...`); empty: download them.")
    evalsets: EvalsetsAddress = ""
    open_networks: OpenNetworks = ""
    embed: EmbedSpec = Field(default=EmbedSpec(), description="How pairs are scored, where a filter reads such a score.")
    scorers: Scorers = ()
    made_from: MadeFrom = ""
    captions: CaptionPlan = Field(default=CaptionPlan(), description="Other captions than the pool's, for all of them.")

    @field_validator("space", mode="before")
    @classmethod
    def _as_text(cls, given: Any) -> Any:
        """Return one canonical form for equal filters."""
        if isinstance(given, str):
            try:
                given = parse_yaml(given, "The filter to search")
            except DataError as problem:
                raise SpecError(str(problem)) from problem
        try:
            return json.dumps(given, sort_keys=True)
        except TypeError:
            raise SpecError(
                "The filter to search contains a value that is not text, a number, a list or a mapping: replace it."
            ) from None

    @model_validator(mode="after")
    def _is_whole(self) -> SearchSpec:
        shared = sorted(set(self.seeds) & set(self.final_seeds))
        if shared:
            raise SpecError(f"The final seed {shared[0]} is also a seed of the search: choose fresh final seeds.")
        for what, seeds in (("seeds", self.seeds), ("final_seeds", self.final_seeds)):
            if len(set(seeds)) < len(seeds) or min(seeds) < 0:
                raise SpecError(f"The {what} must be distinct whole numbers of 0 or more.")
        smaller = [SCALES[name].train_num_samples for name in self.first_scales]
        if smaller != sorted(set(smaller)) or (smaller and smaller[-1] >= SCALES[self.scale].train_num_samples):
            raise SpecError(f"first_scales must be smaller than {self.scale}, and each larger than the one before.")
        load_recipe(self.baseline)
        self._check_extremes()
        return self

    def _check_extremes(self) -> None:
        """Raise SpecError for an end of a range, or an option, that makes the filter invalid with any other parameters."""
        for name, value, trees in self.the_space().extremes():
            faults = list[SpecError]()
            for tree in trees:
                try:
                    self.recipe_of(tree, "0")
                    break
                except SpecError as problem:
                    faults.append(problem)
            else:
                raise SpecError(f"{faults[0]} This is with {name} = {value}.")

    @property
    def baseline(self) -> str:
        return self.against or ("clip_score_tiny" if self.scale == "tiny" else "clip_score_l14")

    def the_space(self) -> Space:
        return Space(json.loads(self.space))

    def label(self) -> str:
        return self.name

    def address(self) -> str:
        """`searches/<scale>/<name>--<12 hex>`, by the identity of the search, without its budget."""
        return f"searches/{self.scale}/{self.name}--{fingerprint(self)[:SHORT]}"

    def rungs(self) -> list[tuple[str, int]]:
        """Scale and seed of each step of a trial, in order; the last are the scale's own."""
        return [(scale, seed) for scale in (*self.first_scales, self.scale) for seed in self.seeds]

    def recipe_of(self, tree: Any, number: int | str) -> Recipe:
        """Return the filter of a trial. SpecError if it is invalid."""
        try:
            return Recipe.model_validate({"name": f"{self.name} {number}", "filter": resolved(tree)})
        except ValidationError as problem:
            from datacomp_core.kind_registration import first_fault

            where, given, why = first_fault(problem)
            raise SpecError(f"The filter to search: {where}: {why} (given: {given!r}).") from problem

    def experiment(self, recipe: Recipe, scale: str, seed: int) -> ExperimentSpec:
        """One training of a filter."""
        shared = ("embed", "scorers", "made_from", "captions", "open_networks")
        own = {"pool": self.pool, "shards": self.shards, "evalsets": self.evalsets} if scale == self.scale else {}
        given = {name: getattr(self, name) for name in shared}
        return ExperimentSpec.model_validate(
            {**given, **own, "scale": scale, "recipe": recipe.name, "filter": recipe.filter, "seed": seed}
        )

    def baseline_experiment(self, seed: int) -> ExperimentSpec:
        given = load_recipe(self.baseline)
        shared = ("scale", "pool", "shards", "evalsets", "embed", "scorers", "made_from", "captions", "open_networks")
        known = {"recipe": self.baseline} if "\n" not in self.baseline else {"recipe": given.name, "filter": given.filter}
        return ExperimentSpec.model_validate({**{name: getattr(self, name) for name in shared}, **known, "seed": seed})


def search_of(path: Path, **changes: Any) -> SearchSpec:
    """Read a search from a YAML file: fields of `SearchSpec`, the filter under `filter`; `changes` are the command's options,
    which replace fields. SpecError if it is wrong.
    """
    try:
        content = read_yaml(path)
    except DataError as problem:
        raise SpecError(f"The search file {problem}") from problem
    if not isinstance(content, Mapping) or not {"filter", "space"} & set(content):
        raise SpecError(
            f"The search file {path} must be a mapping with a `filter`, in which ranges and choices mark the values to search."
        )
    given: dict[str, Any] = {str(key): value for key, value in content.items()}
    if "filter" in given:
        given["space"] = given.pop("filter")
    for name in given:
        if name not in SearchSpec.model_fields:
            raise unknown(f"field of the search file {path}", name, [*SearchSpec.model_fields, "filter"])
    stem = re.sub(r"[^a-z0-9_]+", "-", path.stem.lower()).strip("-_")[:40]
    named = {"name": stem or "search", **given}
    try:
        return SearchSpec.model_validate({**named, **{name: value for name, value in changes.items() if value is not None}})
    except ValidationError as problem:
        first = problem.errors()[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), SpecError):
            raise SpecError(f"The search file {path}: {cause}") from problem
        where = ".".join(str(part) for part in first["loc"])
        if changes.get(where) is not None:
            raise SpecError(f"--{where.replace('_', '-')}: {first['msg']} (given: {first['input']!r}).") from problem
        raise SpecError(f"The search file {path}: {where}: {first['msg']} (given: {first['input']!r}).") from problem
