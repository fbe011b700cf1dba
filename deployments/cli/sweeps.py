"""From what stands on the command line to a sweep: what is left out keeps the sweep's own default."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from datacomp_core.errors import SpecError
from deployments.local_server import prepare_environment

if TYPE_CHECKING:
    from flows.parameters import SweepSpec


ENCODER = re.compile(
    r"(?P<name>[a-z0-9_]+)=((?P<address>checkpoints/.+)|(?P<model>[^:@]+):(?P<tag>[^@]+)@(?P<sha256>[0-9a-f]{64}))"
)


def encoders_of(embed: Sequence[str] | None) -> dict[str, Any]:
    """The fields `embed` and `scorers` of the options `--embed`. SpecError for one that is of neither form."""
    encoders, scorers = list[dict[str, str]](), list[str]()
    for text in embed or ():
        found = ENCODER.fullmatch(text)
        if found is None:
            raise SpecError(
                f"--embed {text!r} is of neither form: NAME=checkpoints/ADDRESS (a checkpoint of the store), or "
                "NAME=MODEL:TAG@SHA256 (a model of open_clip, its weights by tag and their sha256)."
            )
        name = {"column": f"clip_{found['name']}_similarity_score", "prefix": found["name"]}
        if found["address"]:
            encoders.append(name)
            scorers.append(found["address"])
        else:
            encoders.append({**name, "model": found["model"], "weights": found["tag"], "sha256": found["sha256"]})
    return {"embed": {"encoders": encoders}, "scorers": scorers} if encoders else {}


def sweep_of(scale: str, **given: Any) -> SweepSpec:
    """`given`: fields of SweepSpec. SpecError for an unknown scale, ValidationError for a wrong recipe or seed."""
    from datacomp_core.scales import scale as known_scale

    known_scale(scale)
    prepare_environment()
    from flows.parameters import SweepSpec

    return SweepSpec.model_validate({"scale": scale, **{name: value for name, value in given.items() if value}})
