"""Turns command line options into a sweep; an omitted option keeps the sweep's default."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datacomp_core import clip
from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from deployments.cli import terminal
from deployments.local_server import prepare_environment

if TYPE_CHECKING:
    from flows.parameters import SweepSpec


ENCODER = re.compile(
    r"(?P<name>[a-z0-9_]+)=((?P<address>checkpoints/.+)|(?P<hub>hf-hub:.+)|(?P<model>[^:@]+):(?P<tag>[^@]+)@(?P<sha256>[0-9a-f]{64})"
    r"|(?P<known>[^:@]+)@(?P<file>.+\.(pt|pth|bin|safetensors)))"
)
FLIP = re.compile(r"(?P<encoder>.+),flip=(?P<flip>none|averaged)")


def encoders_of(embed: Sequence[str] | None) -> dict[str, Any]:
    """Return the fields `embed` and `scorers` for the options `--embed`. SpecError for a value in an unknown form."""
    encoders, scorers = list[dict[str, str]](), list[str]()
    for given in embed or ():
        text, flip = flip_of(given)
        found = ENCODER.fullmatch(text)
        if found is None:
            raise SpecError(
                f"--embed {given!r} has an unknown form. Use one of these: NAME=checkpoints/ADDRESS (a checkpoint of the store), "
                "NAME=MODEL:TAG@SHA256 (a model of open_clip, its weights by tag and their sha256), NAME=MODEL@FILE "
                "(weights in a file; MODEL may be a configuration, mine.json), or NAME=hf-hub:OWNER/NAME@REVISION (a model "
                "of the hub). `,flip=averaged` may follow."
            )
        name = {"column": f"clip_{found['name']}_similarity_score", "prefix": found["name"], **flip}
        if found["address"]:
            encoders.append(name)
            scorers.append(found["address"])
        elif found["hub"]:
            encoders.append({**name, "model": found["hub"]})
        elif found["file"]:
            encoders.append({**name, "model": found["known"], "weights": found["file"]})
        else:
            if clip.config(found["model"]) is None:
                clip.check_model(found["model"])
            encoders.append({**name, "model": found["model"], "weights": found["tag"], "sha256": found["sha256"]})
    return {"embed": {"encoders": encoders}, "scorers": scorers} if encoders else {}


def flip_of(text: str) -> tuple[str, dict[str, Any]]:
    """Return an encoder without its final `,flip=...`, and the field `flip` that it sets."""
    found = FLIP.fullmatch(text)
    return (found["encoder"], {"flip": found["flip"]}) if found else (text, {})


def captions_of(given: str) -> dict[str, Any]:
    """Return the field `captions` for the option `--captions`. SpecError if it is not a policy."""
    from datacomp_core.caption_recipes import load_plan

    return {"captions": load_plan(given)} if given else {}


def mix_of(given: Sequence[str] | None) -> dict[str, Any]:
    """Return the field `layout` for the options `--mix`. SpecError for a value in an unknown form."""
    from datacomp_core.mix_recipes import load_mix

    mix = load_mix(given or ())
    return {"layout": {"mix_in": list(mix), "weights": list(mix.values())}} if mix else {}


def tasks_of(add_tasks: Sequence[str] | None, data: str, option: str = "--task-data") -> dict[str, Any]:
    """The field `own_tasks` of the options `--add-tasks` and `--task-data`, or another that names the folder."""
    if data and not add_tasks:
        raise SpecError(f"{option} is the folder of the test sets of your own tasks: name the tasks with --add-tasks.")
    return {"own_tasks": {"tasks": list(add_tasks), "data": data}} if add_tasks else {}


def sweep_of(scale: str, *, subsets: Sequence[str] | None = None, name: str = "", **given: Any) -> SweepSpec:
    """`given`: fields of SweepSpec; `subsets`: lists of uids; `name`: the name of the only filter.

    SpecError for an unknown scale or a wrong list, ValidationError for a wrong recipe or seed.
    """
    from datacomp_core.scales import scale as known_scale

    known_scale(scale)
    prepare_environment()
    from flows.parameters import SweepSpec

    fields: dict[str, Any] = {"scale": scale, **{field: value for field, value in given.items() if value}}
    if subsets or name:
        fields["filters"], fields["recipes"] = _own(subsets or (), name, list(fields.get("recipes", ())))
    return SweepSpec.model_validate(fields)


def tell_of_source(pool: str) -> None:
    """Say what has changed where the pool of this address was read. DataError for an adopted pool, which stays at its source."""
    from flows.candidate_pool import changes_of_source

    if pool and (told := changes_of_source(settings().store_url, pool)):
        terminal.notes.print(f"Note: {told}", markup=False)


def _own(subsets: Sequence[str], name: str, recipes: list[str]) -> tuple[list[Any], list[str]]:
    """Return lists of uids as named filters, and the remaining recipes. A name turns a recipe into a custom filter."""
    from datacomp_core.filters import Listed
    from datacomp_core.recipes.base import Recipe
    from datacomp_core.recipes.load import load_recipe

    if name and len(subsets) + len(recipes) != 1:
        raise SpecError("--name names exactly one filter: give it with one --subset or one --recipe.")
    if name and recipes:
        return [Recipe(name=name, filter=load_recipe(recipes[0]).filter)], []
    stems = [name or place.rstrip("/").rpartition("/")[2].partition(".")[0] or place for place in subsets]
    return [Recipe(name=stem, filter=Listed(uids=place)) for stem, place in zip(stems, subsets, strict=True)], recipes
