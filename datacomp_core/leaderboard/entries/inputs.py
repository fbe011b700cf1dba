"""The class of inputs of a result, from its records alone, so that a board's inbox computes it again and trusts no claim.

Filters and scores say what they read (`Kinded.uses`); here they are found in the records upstream of the subset. Code from
outside this package is not asked: its origin is not recorded, whatever it says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from datacomp_core.artifacts import Captions, Checkpoint, Embeddings, Pool, Scores, Subset
from datacomp_core.input_classes import InputUse, RecipeInputs, Said, classify_file, classify_inputs
from datacomp_core.kind_registration import CODE
from datacomp_core.leaderboard.entries.placement import is_own
from datacomp_core.leaderboard.entries.provenance import ProvenanceLink
from datacomp_core.parts import SCHEMA
from datacomp_core.registry import FILTERS, SCORES, Registry

ON_HUB = "hf-hub:"
INSIDE: dict[str, Any] = {"filter": None, "filters": ()}
"""The fields for inner filters, emptied: inner filters are examined separately."""


def inputs_of(chain: list[ProvenanceLink], subset: str, said: Said = "") -> RecipeInputs:
    """The class of the subset at an address. `said`: what its author says of what the records cannot tell."""
    return classify_inputs(_uses(_upstream(chain, subset)), said)


def _upstream(chain: list[ProvenanceLink], start: str) -> list[ProvenanceLink]:
    by_address = {link.address: link for link in chain}
    level, found = [start], dict[str, ProvenanceLink]()
    while level:
        links = [by_address[address] for address in level if address in by_address and address not in found]
        found.update({link.address: link for link in links})
        level = [address for link in links for given in link.inputs.values() for address in given]
    return list(found.values())


def _uses(links: list[ProvenanceLink]) -> Iterator[InputUse]:
    made = {column for link in links for column in _columns_made(link)}
    for link in links:
        specs = [spec for spec in link.spec.values() if isinstance(spec, dict)]
        if link.state == "missing":
            yield InputUse(f"{link.address}, whose record is gone", None)
        elif link.kind == Subset.kind:
            for spec in specs:
                yield from _of_tree(spec.get("filter"), FILTERS, made)
        elif link.kind == Scores.kind:
            for spec in specs:
                yield from _of_tree(spec, SCORES, made)
        elif link.kind == Embeddings.kind:
            yield from (use for spec in specs for encoder in spec.get("encoders", ()) for use in _of_encoder(encoder))
        elif link.kind == Captions.kind:
            for spec in specs:
                yield from (use for encoder in spec.get("encoders", ()) for use in _of_encoder(encoder))
                yield from ([classify_file(str(spec["file"]), "the captions")] if spec.get("file") else ())
                yield from ([InputUse(f"captions of the model {spec['model']}", "public")] if spec.get("revision") else ())
        elif link.kind == Checkpoint.kind:
            yield InputUse(f"the model {link.name}", "public")
        elif link.kind == Pool.kind and is_own(link):
            yield InputUse(f"your own data, {link.address}", None)
        if link.adopted_from is not None and link.kind in (Embeddings.kind, Scores.kind, Checkpoint.kind, Subset.kind):
            yield InputUse(f"{link.address}, which was adopted", None)


def _columns_made(link: ProvenanceLink) -> Iterator[str]:
    """The columns that steps upstream computed; what else a filter reads is the metadata's."""
    for spec in link.spec.values():
        if link.kind == Embeddings.kind and isinstance(spec, dict):
            yield from (str(encoder.get("column")) for encoder in spec.get("encoders", ()) if isinstance(encoder, dict))


def _of_encoder(encoder: Any) -> Iterator[InputUse]:
    """Weights that are named can be fetched; without a name a checkpoint of the store is among the inputs."""
    model = str(encoder.get("model") or "") if isinstance(encoder, dict) else ""
    weights = str(encoder.get("weights") or "") if isinstance(encoder, dict) else ""
    if "/" in weights or "#" in weights:
        yield classify_file(weights, "the weights")
    elif model:
        yield InputUse(f"the model {model.removeprefix(ON_HUB)} {weights}".strip(), "public")


def _of_tree(plain: Any, registry: Registry[Any], made: set[str]) -> Iterator[InputUse]:
    """Yield the inputs of a filter or score, and of those inside it."""
    if isinstance(plain, list):
        for item in plain:
            yield from _of_tree(item, registry, made)
    if not isinstance(plain, Mapping):
        return
    kind, own = str(plain.get("kind") or ""), {name: value for name, value in plain.items() if not _is_tree(value)}
    if code := plain.get(CODE):
        yield InputUse(f"the code {code}", None)
    elif kind in registry and CODE not in registry[kind].model_fields:
        yield from registry[kind].uses({name: value for name, value in own.items() if not _is_score(value)})
        yield from _of_columns(kind, own, made) if registry is FILTERS else ()
    elif kind:
        yield InputUse(f"{registry.noun} {kind}, which this version does not know", None)
    for value in plain.values():
        if _is_tree(value):
            yield from _of_tree(value, registry, made)


def _is_score(value: Any) -> bool:
    """A score to compute, whose own record says what it reads."""
    return isinstance(value, str) and value.partition(":")[0] in SCORES


def _is_tree(value: Any) -> bool:
    return (isinstance(value, Mapping) and "kind" in value) or (
        isinstance(value, list) and any(isinstance(item, Mapping) for item in value)
    )


def _of_columns(kind: str, own: Mapping[str, Any], made: set[str]) -> Iterator[InputUse]:
    """Score columns that the metadata must have brought and that the benchmark did not release; nothing is fetched."""
    model = FILTERS[kind]
    inside = {name: INSIDE[name] for name in INSIDE if name in model.model_fields}
    try:
        columns: frozenset[str] = model.model_construct(**{**own, **inside}).columns()
        unknown = sorted(column for column in columns - set(SCHEMA.names()) - made if column.partition(":")[0] not in SCORES)
    except Exception:  # a record from a stranger may have anything in its fields
        unknown = ["that are unknown"]
    for column in unknown:
        yield InputUse(f"the column {column} of the metadata", None)
