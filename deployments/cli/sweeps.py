"""From what stands on the command line to a sweep: what is left out keeps the sweep's own default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deployments.local_server import prepare_environment

if TYPE_CHECKING:
    from flows.parameters import SweepSpec


def sweep_of(scale: str, **given: Sequence[str] | Sequence[int] | str | None) -> SweepSpec:
    """`given`: fields of SweepSpec. SpecError for an unknown scale, ValidationError for a wrong recipe or seed."""
    from datacomp_core.scales import scale as known_scale

    known_scale(scale)
    prepare_environment()
    from flows.parameters import SweepSpec

    return SweepSpec.model_validate({"scale": scale, **{name: value for name, value in given.items() if value}})
