"""Defines the parameters of the flows: a person's choices, and the resulting specs of every step."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from datacomp_core.artifacts import Spec
from datacomp_core.caption_policy import CaptionPlan
from datacomp_core.embedding.spec import EmbedSpec
from datacomp_core.errors import SpecError
from datacomp_core.evaluation.download import DownloadSpec
from datacomp_core.evaluation.evaluate import EvalSpec
from datacomp_core.filters import WholeFilter
from datacomp_core.input_classes import Said
from datacomp_core.leaderboard.entries.make_entry import MADE_FROM, EntrySpec
from datacomp_core.pool.adopt import AdoptedPoolSpec
from datacomp_core.pool.byod import ByodPoolSpec
from datacomp_core.pool.commonpool import HubPoolSpec
from datacomp_core.pool.download_images import ImageSpec, images_of
from datacomp_core.pool.image_folder import FolderPoolSpec
from datacomp_core.pool.safe_http import networks
from datacomp_core.pool.tiny import TinyEvalSpec, TinyPoolSpec, TrustedSpec
from datacomp_core.recipes.base import Recipe
from datacomp_core.recipes.load import is_file, resolved
from datacomp_core.resharding.reshard import ReshardSpec, reshard_of
from datacomp_core.scales import SCALES, TrainDecoding, with_decoding
from datacomp_core.selection.select import SubsetSpec, load_recipe
from datacomp_core.training.train import TrainSpec
from flows.layout import Layout
from flows.own_pools import empty_columns
from flows.own_tasks import OwnTasks
from flows.public_scorers import with_public_scorers

SCORER = {"name": "custom", "train_num_samples": 30_720, "batch_size": 128, "warmup": 15}
"""The scorer is trained longer than any model on the board, on its own pairs; the board counts its cost."""


def picker(schema: dict[str, Any]) -> None:
    """Prefect's form draws a picker for `anyOf`, and an editor of bare JSON for the `oneOf` of a discriminated union."""
    schema["anyOf"] = schema.pop("oneOf")


if TYPE_CHECKING:
    ScaleRow = str
else:
    ScaleRow = Literal[tuple(SCALES)]  # a form offers the existing rows
ScaleChoice = Annotated[
    ScaleRow,
    Field(description="Compute scale: pool, model, training recipe and test suite."),
]
PoolAddress = Annotated[
    str,
    Field(
        description="Address of a pool in the store (`pools/...`). Empty: the scale's own pool, which is embedded at `tiny` "
        "and is CommonPool from the hub elsewhere."
    ),
]
EvalsetsAddress = Annotated[
    str,
    Field(
        description="Address of test sets in the store (`evalsets/...`). Empty: the scale's own, embedded at `tiny`, from "
        "the hub elsewhere."
    ),
]
PoolSpec = TinyPoolSpec | HubPoolSpec | ByodPoolSpec | AdoptedPoolSpec | FolderPoolSpec
"""The kinds of pools; `scale` distinguishes them."""


Scorers = Annotated[
    tuple[str, ...],
    Field(
        description="Addresses of checkpoints in the store (`checkpoints/...`) for the encoders of `embed` without a model, "
        "in their order. Empty: at `tiny`, a small scorer that is trained for this."
    ),
]


def _networks(given: str) -> str:
    networks(given)
    return given


OpenNetworks = Annotated[
    str,
    AfterValidator(_networks),
    Field(
        description="Private networks that the download may reach, such as `10.0.0.0/8`. Use it only for your own network: "
        "the authors of the urls can then make this machine send requests to your servers. The download's record contains "
        "this value."
    ),
]


OwnTasksField = Annotated[
    OwnTasks, Field(description="Your own evaluation tasks: shown next to the suite, not part of its average, rank or verdict.")
]
MadeFrom = Annotated[Said, Field(description=MADE_FROM)]
DecodingField = Annotated[
    TrainDecoding,
    Field(
        description="How training images are decoded. full: exactly; fast: resized by torch, equal to rounding; scaled, cuda: "
        "other pixels. full and fast are ranked."
    ),
]


class Preparation(Spec):
    """Everything that comes before a filter, shared by all experiments over one pool."""

    scale: ScaleChoice = "tiny"
    stored_pool: PoolAddress = ""
    stored_shards: str = Field(default="", description="Address of that pool's images (`shards/...`). Empty: download them.")
    pool: PoolSpec = Field(
        default_factory=TinyPoolSpec, discriminator="scale", description="The candidates.", json_schema_extra=picker
    )
    images: ImageSpec = Field(default=images_of("tiny"), description="How their images are downloaded.")
    open_networks: OpenNetworks = ""
    trusted: TrustedSpec = Field(default=TrustedSpec(), description="The trusted pairs that train the scorer.")
    scorer: TrainSpec | None = Field(
        default=None, description="How the scorer is trained. Null: no scores are computed (the metadata has some)."
    )
    embed: EmbedSpec = Field(default=EmbedSpec(), description="How pairs are scored.")
    scorers: Scorers = ()

    @property
    def embeds(self) -> bool:
        """Return whether there is a model to embed with: a scorer, checkpoints, or models in `embed`."""
        return self.scorer is not None or bool(self.scorers) or not self.embed.num_checkpoints


class Curation(Spec):
    """From a pool to a training set."""

    subset: SubsetSpec = Field(description="The filter.")
    reshard: ReshardSpec = Field(default=reshard_of("tiny"), description="How the chosen samples are laid out.")
    layout: Layout = Field(default=Layout(), description="The layout of the chosen samples.")
    captions: CaptionPlan = Field(default=CaptionPlan(), description="The captions of the chosen samples.")


class Scoring(Spec):
    """From a training set to a score."""

    train: TrainSpec
    stored_evalsets: str = ""
    evalsets: TinyEvalSpec | DownloadSpec
    evaluate: EvalSpec
    own_tasks: OwnTasks = OwnTasks()
    entry: EntrySpec


class SweepSpec(Spec):
    """Many filters, many seeds, one scale: every combination is one row of the leaderboard; shared steps run once."""

    scale: ScaleChoice = "tiny"
    recipes: tuple[str, ...] = Field(
        default=("no_filter", "clip_score_tiny"),
        description="Filters by name (`datacomp filter --list`).",
    )
    filters: tuple[Recipe, ...] = Field(default=(), description="Your own filters, each with its name on the leaderboard.")
    seeds: tuple[int, ...] = Field(default=(0,), description="Training seeds: initial weights, data order, augmentation.")
    pool_seeds: tuple[int, ...] = Field(
        default=(0,), description="Seeds of the embedded pool: another draw of captions and noise."
    )
    pool: PoolAddress = ""
    shards: str = Field(default="", description="Address of that pool's images (`shards/...`). Empty: download them.")
    evalsets: EvalsetsAddress = ""
    open_networks: OpenNetworks = ""
    embed: EmbedSpec = Field(default=EmbedSpec(), description="How pairs are scored, if a filter reads such a score.")
    scorers: Scorers = ()
    own_tasks: OwnTasksField = OwnTasks()
    made_from: MadeFrom = ""
    captions: CaptionPlan = Field(default=CaptionPlan(), description="Captions other than the pool's, for all of them.")
    decoding: DecodingField = "full"
    layout: Layout = Field(default=Layout(), description="The layout of the chosen samples, for all of them.")

    @field_validator("recipes")
    @classmethod
    def _known(cls, recipes: tuple[str, ...]) -> tuple[str, ...]:
        for recipe in recipes:
            load_recipe(recipe)
        return recipes

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, given: Any) -> Any:
        """Recipes from files become filters here, so that the spec can be read where the files are not."""
        if not isinstance(given, dict) or not isinstance(given.get("recipes"), (list, tuple)):
            return given
        files = [load_recipe(name) for name in given["recipes"] if is_file(name)]
        names = [name for name in given["recipes"] if not is_file(name)]
        return {**given, "recipes": names, "filters": [*given.get("filters", ()), *files]} if files else given

    @model_validator(mode="after")
    def _is_something(self) -> SweepSpec:
        if not self.recipes and not self.filters:
            raise SpecError("The sweep has no filter: give at least one recipe.")
        return self

    def experiments(self) -> list[ExperimentSpec]:
        """Every combination, recipes innermost: the baseline of a seed is finished before the next seed starts."""
        chosen: list[dict[str, Any]] = [{"recipe": recipe} for recipe in self.recipes]
        chosen += [{"recipe": own.name, "filter": own.filter} for own in self.filters]
        shared = (
            "scale",
            "pool",
            "shards",
            "evalsets",
            "open_networks",
            "embed",
            "scorers",
            "made_from",
            "captions",
            "decoding",
            "layout",
            "own_tasks",
        )
        common = {name: getattr(self, name) for name in shared}
        return [
            ExperimentSpec.model_validate({**common, **which, "seed": seed, "pool_seed": pool_seed})
            for pool_seed, seed, which in product(self.pool_seeds, self.seeds, chosen)
        ]


class ExperimentSpec(Spec):
    """One filter, one training, one score: a row of the leaderboard."""

    scale: ScaleChoice = "tiny"
    recipe: str = Field(
        default="clip_score_tiny",
        min_length=1,
        description="The filter: a recipe by name (`datacomp filter --list`), a recipe in YAML, or a name for `filter`.",
    )
    filter: WholeFilter | None = Field(
        default=None, description="From Python: the filter itself; `recipe` is then your own name for it."
    )
    name: str = Field(default="", max_length=80, description="Name on the leaderboard. Empty: the recipe's name.")
    seed: int = Field(default=0, ge=0, description="Training seed: initial weights, data order, augmentation.")
    pool_seed: int = Field(default=0, ge=0, description="Seed of the embedded pool: another draw of captions and noise.")
    pool: PoolAddress = ""
    shards: str = Field(default="", description="Address of that pool's images (`shards/...`). Empty: download them.")
    embed: EmbedSpec = Field(
        default=EmbedSpec(),
        description="How pairs are scored, if the filter reads such a score: give the open_clip models that compute it.",
    )
    scorers: Scorers = ()
    evalsets: EvalsetsAddress = ""
    own_tasks: OwnTasksField = OwnTasks()
    open_networks: OpenNetworks = ""
    layout: Layout = Field(default=Layout(), description="The layout of the chosen samples.")
    made_from: MadeFrom = ""
    captions: CaptionPlan = Field(
        default=CaptionPlan(),
        description="Captions other than the pool's: sets of the store and a policy. The track is then byod.",
    )
    decoding: DecodingField = "full"

    @model_validator(mode="before")
    @classmethod
    def _resolved(cls, given: Any) -> Any:
        """A recipe from a file becomes its filter here, so that the spec can be read where the file is not."""
        if not isinstance(given, dict):
            return given
        own = resolved(given.get("filter"))
        given = {**given, "filter": own}
        if own is None and is_file(given.get("recipe")):
            loaded = load_recipe(given["recipe"])
            given = {**given, "recipe": loaded.name, "filter": loaded.filter}
        return given

    @model_validator(mode="after")
    def _is_known(self) -> ExperimentSpec:
        """Reject a wrong recipe or task here, before anything starts; pin the public model that a recipe scores with."""
        self.own_tasks.require_beside(SCALES[self.scale].suite)
        subset, score = self.subset(), self.captions.policy.score if self.captions.edits else ""
        embed = with_public_scorers(self.embed, {*subset.columns(), score}, subset.features(), partial(empty_columns, self.pool))
        if embed != self.embed:
            object.__setattr__(self, "embed", embed)  # the only way in pydantic to fill a field of a frozen model from others
        return self

    def subset(self) -> SubsetSpec:
        """The filter by name, from a file, or as given."""
        if self.filter is None:
            recipe = load_recipe(self.recipe)
            return SubsetSpec(recipe=recipe.name, filter=recipe.filter)
        return SubsetSpec(recipe=self.recipe, filter=self.filter)

    def label(self) -> str:
        return f"{self.scale}-{self._method()}-seed{self.seed}"

    def _method(self) -> str:
        """The recipe, the policy of captions if there is one, what is mixed in, and how images are decoded if not exactly."""
        captions = [self.captions.policy.label()] if self.captions.edits else []
        decoding = [] if self.decoding == "full" else [f"{self.decoding} decoding"]
        return " + ".join([self.subset().recipe, *captions, *self.layout.mixed(), *decoding])

    def preparation(self) -> Preparation:
        """The specs of everything before the filter."""
        stored = {"stored_pool": self.pool, "stored_shards": self.shards, "open_networks": self.open_networks}
        given = {"scale": self.scale, **stored, "images": images_of(self.scale), "embed": self.embed, "scorers": self.scorers}
        if self.scale != "tiny":
            return Preparation.model_validate(given if self.pool else {**given, "pool": _of_the_hub(self.scale)})
        recipe = SCALES["tiny"].model_copy(update=SCORER)
        own = {
            **({} if self.pool else {"pool": TinyPoolSpec(seed=self.pool_seed)}),
            "trusted": TrustedSpec(seed=self.pool_seed),
            "scorer": TrainSpec(recipe=recipe, seed=self.pool_seed),
        }
        return Preparation.model_validate({**given, **own})

    def curation(self) -> Curation:
        """The specs of the filter and the reshard."""
        return Curation(subset=self.subset(), reshard=reshard_of(self.scale), layout=self.layout, captions=self.captions)

    def scoring(self) -> Scoring:
        """The specs of training, evaluation and entry."""
        scale = SCALES[self.scale]
        return Scoring(
            train=TrainSpec(recipe=with_decoding(scale, self.decoding), seed=self.seed),
            stored_evalsets=self.evalsets,
            evalsets=TinyEvalSpec() if scale.suite == "tiny" else DownloadSpec(suite=scale.suite),
            evaluate=EvalSpec(suite=scale.suite),
            own_tasks=self.own_tasks,
            entry=EntrySpec(
                track="byod" if self.layout.mix_in or self.captions.trains else "filtering",
                method=(self.name or self._method())[:80],
                made_from=self.made_from,
            ),
        )


def _of_the_hub(scale: str) -> HubPoolSpec:
    """CommonPool of a scale."""
    if SCALES[scale].hub is None:
        raise SpecError(f"Scale {scale} has no built-in pool: give the address of a pool in the store.")
    return HubPoolSpec.model_validate({"scale": scale})
