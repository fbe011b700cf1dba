"""Tasks of captions: sets from tables and templates, and the policy over them."""

from __future__ import annotations

from prefect import task

from datacomp_core.artifacts import Captions, Pool, Scores, ShardSet
from datacomp_core.captions import import_ as importing
from datacomp_core.captions import template as templates
from tasks import policies
from tasks.running import run, runs


@task(name="import captions", **policies.NETWORK)
@runs(importing.import_captions)
def import_captions(spec: importing.CaptionImportSpec, pool: Pool, shards: ShardSet | None, learned: Scores | None) -> Captions:
    """A table of captions from outside, joined to the pool."""
    return run(importing.import_captions, spec, pool, shards, learned)


@task(name="template captions", **policies.LOCAL)
@runs(templates.template_captions)
def template_captions(spec: templates.TemplateSpec, pool: Pool, sets: tuple[Captions, ...]) -> Captions:
    """Captions of columns and of other captions."""
    return run(templates.template_captions, spec, pool, sets)
