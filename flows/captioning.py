"""The flow `make-captions`: makes a caption set for a pool, from a table, a template or a model."""

from __future__ import annotations

from typing import Any

from prefect import flow
from pydantic import Field

from datacomp_core.artifacts import Captions, Spec
from datacomp_core.captions.import_captions import CaptionImportSpec
from datacomp_core.captions.template import TemplateSpec
from datacomp_core.captions.translate import TranslateSpec
from datacomp_core.embedding.generate import GenerateSpec
from flows.candidate_pool import candidates, metadata
from flows.filter_inputs import download_columns_spec
from flows.parameters import ExperimentSpec, OpenNetworks, PoolAddress, ScaleChoice, picker
from flows.task_calls import Call, SubmittedCalls, options
from tasks import captions as captioning
from tasks import pool as pooling
from tasks.run_step import stored


class CaptioningSpec(Spec):
    """A set of captions for a pool."""

    scale: ScaleChoice = "tiny"
    pool: PoolAddress = ""
    shards: str = Field(default="", description="Address of that pool's images (`shards/...`); empty for the scale's own.")
    pool_seed: int = Field(default=0, ge=0, description="Seed of the embedded pool: another draw of captions and noise.")
    open_networks: OpenNetworks = ""
    sets: tuple[str, ...] = Field(default=(), description="Addresses of caption sets (`captions/...`) to use.")
    make: TemplateSpec | CaptionImportSpec | GenerateSpec | TranslateSpec = Field(
        default_factory=lambda: TemplateSpec(template="{text}"),
        discriminator="kind",
        description="How the captions are made.",
        json_schema_extra=picker,
    )

    def label(self) -> str:
        return self.make.label()

    def experiment(self) -> ExperimentSpec:
        """The experiment over the same pool."""
        given = {name: getattr(self, name) for name in ("scale", "pool", "shards", "pool_seed", "open_networks")}
        return ExperimentSpec.model_validate({**given, "recipe": "no_filter"})


def captions(call: Call, spec: CaptioningSpec) -> Any:
    """Make a caption set, after its inputs."""
    preparation, make = spec.experiment().preparation(), spec.make
    if isinstance(make, TemplateSpec):
        sets = tuple(stored(Captions, address) for address in spec.sets)
        return call(captioning.template_captions, make, metadata(call, preparation), sets)
    if isinstance(make, TranslateSpec):
        given = stored(Captions, spec.sets[0]) if spec.sets else None
        return call(captioning.translate_captions, make, metadata(call, preparation), given)
    if isinstance(make, GenerateSpec):
        there = candidates(call, preparation)
        return call(captioning.generate_captions, make, there.pool, there.shards)
    by_key = make.key == "key"
    by_picture = download_columns_spec(frozenset({make.key}), preparation)
    if not by_key and by_picture is None:
        return call(captioning.import_captions, make, metadata(call, preparation), None, None)
    found = candidates(call, preparation)
    learned = call(pooling.read_download_columns, by_picture, found.pool, found.shards) if by_picture else None
    return call(captioning.import_captions, make, found.pool, found.shards if by_key else None, learned)


@flow(name="make-captions", **options("{scale}-captions-{make}"))
def make_captions(spec: CaptioningSpec) -> Captions:
    """Make a caption set for a pool: imported, built from columns, written by a model, or translated."""
    calls = SubmittedCalls()
    [made] = calls.results([captions(calls.call, spec)])
    return made
