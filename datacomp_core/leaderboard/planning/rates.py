"""Loads prices and speeds: a table that comes with the code, with the changes of the user's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datacomp_core.errors import DataError, SpecError
from datacomp_core.untrusted_documents import read_yaml

TABLE = Path(__file__).with_name("rates.yaml")


class RateModel(BaseModel):
    """A base that refuses unknown fields, so that a typing error in the file is reported."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Prices(RateModel):
    """In the table's currency."""

    gpu_hour: float = Field(ge=0)
    cpu_core_hour: float = Field(ge=0)
    gb_month: float = Field(ge=0)
    gb_traffic: float = Field(ge=0)


class MachineRates(RateModel):
    """The resources of one machine, which turn GPU-hours, core-hours and bytes into hours."""

    gpus: int = Field(ge=1)
    cpu_cores: int = Field(ge=1)
    gbit_per_second: float = Field(gt=0)


class StepRates(RateModel):
    """Documented figures of one kind of step; what is None is not needed for it."""

    source: str
    bytes_per_sample: float = 0
    bytes_per_step: float = 0
    traffic_per_sample: float = 0
    traffic_per_step: float = 0
    samples_per_core_second: float | None = Field(default=None, gt=0)
    samples_per_gpu_second: float | None = Field(default=None, gt=0)
    macs_per_gpu_second: float | None = Field(default=None, gt=0)
    gpu_seconds_per_step: float = 0
    core_seconds_per_step: float = 0


class TinyRates(RateModel):
    """The cost of one kind of step at `tiny`, on two CPU cores."""

    seconds: float = Field(ge=0)
    bytes: float = Field(ge=0)


class Rates(RateModel):
    """The whole table."""

    currency: str
    prices: Prices
    machine: MachineRates
    steps: dict[str, StepRates]
    macs: dict[str, float]
    tiny: dict[str, TinyRates]
    tiny_pairs: int = Field(gt=0)


def load(path: Path | None = None) -> Rates:
    """Return the table with the fields of the user's file. SpecError names what is wrong in the file."""
    plain = read_yaml(TABLE)
    if path is not None:
        try:
            plain = _merged(plain, read_yaml(path) or {})
        except (DataError, AttributeError) as problem:
            raise SpecError(f"{path} is not a table of rates ({problem}): write it in the form of {TABLE.name}.") from problem
    try:
        return Rates.model_validate(plain)
    except ValidationError as problem:
        first = problem.errors()[0]
        raise SpecError(f"{path or TABLE}: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}.") from problem


def _merged(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for name, value in theirs.items():
        merged[name] = _merged(ours[name], value) if isinstance(value, dict) and isinstance(ours.get(name), dict) else value
    return merged
