"""Estimates each step of a plan, from the records of the store if it has any, otherwise from documented figures.

A record counts for a step of the same kind and scale (a training also of the same model); the median of the latest decides.
The cost is estimated in GPU-hours and core-hours; the hours come from the records, otherwise from the machine in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.errors import SpecError
from datacomp_core.leaderboard.planning.rates import Rates, StepRates, TinyRates
from datacomp_core.store import Store
from datacomp_core.store.record import Record

LATEST = 20
PER_STEP = ("evalsets", "reports", "entries")  # as much work for any subset
GB = 1e9
HOUR = 3600.0


@dataclass(frozen=True)
class StepWork:
    """One step of a plan. `what` is its row in the table of rates: its kind, `reshard` for shards cut from others, or how
    captions are made (`import`, `template`, `generate`, `translate`; `captions` are their features).
    """

    kind: str
    what: str
    name: str
    scale: str
    num_samples: int
    is_built: bool
    why: str
    model: str = ""
    address: str | None = None


class StepEstimate(BaseModel):
    """The estimate for one step; all zero for one that is built."""

    model_config = ConfigDict(frozen=True)
    kind: str
    name: str
    built: bool
    why: str
    address: str | None
    hours: float = Field(description="Wall time: as recorded, else for the machine of the rates.")
    gpu_hours: float
    core_hours: float
    disk_bytes: float
    traffic_bytes: float
    money: float
    source: str = Field(description="The source of the figures.")


class PlanTotal(BaseModel):
    """The sum over the steps that are to be built."""

    model_config = ConfigDict(frozen=True)
    hours: float
    gpu_hours: float
    core_hours: float
    disk_bytes: float
    traffic_bytes: float
    money: float
    currency: str


def estimate(works: Iterable[StepWork], rates: Rates, store: Store) -> list[StepEstimate]:
    """An estimate for each step, in order."""
    records: dict[str, list[Record]] = {}

    def of_kind(kind: str) -> list[Record]:
        if kind not in records:
            records[kind] = [record for record in store.records(kind) if not record.adopted_from]
        return records[kind]

    return [_estimate(work, rates, of_kind) for work in works]


def total(steps: Sequence[StepEstimate], rates: Rates) -> PlanTotal:
    fields = ("hours", "gpu_hours", "core_hours", "disk_bytes", "traffic_bytes", "money")
    return PlanTotal(currency=rates.currency, **{name: float(sum(getattr(step, name) for step in steps)) for name in fields})


def require_budget(whole: PlanTotal, budget: float | None) -> None:
    """SpecError if a plan costs more than its budget."""
    if budget is not None and whole.money > budget:
        raise SpecError(
            f"This would cost about {whole.money:,.2f} {whole.currency}, and the budget is {budget:,.2f}: "
            "leave out recipes or seeds, raise --budget, or correct the prices with --rates."
        )


BY_SAMPLES = frozenset({"pools", "shards", "reshard", "embeddings", "captions", "captioned", "scores", "subsets"})
TINY_SECONDS = 1.0
"""The shortest time of a step, whatever its size."""


@dataclass(frozen=True)
class StepCost:
    """The cost of one step: total seconds of GPUs and of cores, bytes written and moved, and wall seconds."""

    gpu: float = 0.0
    core: float = 0.0
    disk: float = 0.0
    traffic: float = 0.0
    seconds: float = 0.0
    source: str = ""


def _estimate(work: StepWork, rates: Rates, records: Callable[[str], list[Record]]) -> StepEstimate:
    alike = [] if work.is_built else [r for r in records(work.kind) if _is_alike(work, r)][-LATEST:]
    if work.is_built:
        need = StepCost()
    elif alike:
        need = _recorded(work, alike, rates)
    elif work.scale == "tiny" and (work.kind != "captions" or work.what in rates.tiny):
        need = _tiny(work, rates)
    else:
        need = _documented(work, rates)
    prices = rates.prices
    money = (need.gpu * prices.gpu_hour + need.core * prices.cpu_core_hour) / HOUR
    money += (need.disk * prices.gb_month + need.traffic * prices.gb_traffic) / GB
    return StepEstimate(
        kind=work.kind,
        name=work.name,
        built=work.is_built,
        why=work.why,
        address=work.address,
        hours=need.seconds / HOUR,
        gpu_hours=need.gpu / HOUR,
        core_hours=need.core / HOUR,
        disk_bytes=need.disk,
        traffic_bytes=need.traffic,
        money=money,
        source=need.source,
    )


def _recorded(work: StepWork, alike: Sequence[Record], rates: Rates) -> StepCost:
    """By the store's own records: the hours are those that the machines took which made them."""
    number = 1 if work.kind in PER_STEP else work.num_samples
    gpu, core, disk, seconds = (number * median(column) for column in zip(*map(_per_sample, alike), strict=True))
    source = f"{len(alike)} record{'s' if len(alike) > 1 else ''} of this store"
    return StepCost(gpu, core, disk, _traffic(work, rates), seconds, source)


def _tiny(work: StepWork, rates: Rates) -> StepCost:
    """Return the cost measured on the embedded pool, scaled by the number of samples where the step depends on it."""
    known = rates.tiny.get(work.what, TinyRates(seconds=0, bytes=0))
    share = work.num_samples / rates.tiny_pairs if work.what in BY_SAMPLES else 1.0
    seconds = max(share * known.seconds, min(known.seconds, TINY_SECONDS))
    return StepCost(core=2 * seconds, disk=share * known.bytes, seconds=seconds, source="measured on two CPU cores")


def _documented(work: StepWork, rates: Rates) -> StepCost:
    """By the table, on its machine: GPUs, cores and network (one way in, one way out) work at once, so the slowest decides."""
    known, machine = rates.steps.get(work.what) or StepRates(source="no figure"), rates.machine
    gpu, core = known.gpu_seconds_per_step, known.core_seconds_per_step
    if known.macs_per_gpu_second:
        gpu += rates.macs.get(work.scale, 0.0) / known.macs_per_gpu_second
    if known.samples_per_gpu_second:
        gpu += work.num_samples / known.samples_per_gpu_second
    if known.samples_per_core_second:
        core += work.num_samples / known.samples_per_core_second
    disk = known.bytes_per_sample * work.num_samples + known.bytes_per_step
    traffic = _traffic(work, rates)
    seconds = max(gpu / machine.gpus, core / machine.cpu_cores, 8 * max(traffic, disk) / (machine.gbit_per_second * 1e9))
    return StepCost(gpu, core, disk, traffic, seconds, known.source)


def _traffic(work: StepWork, rates: Rates) -> float:
    known = rates.steps.get(work.what)
    if known is None or work.scale == "tiny":
        return 0.0
    return known.traffic_per_sample * work.num_samples + known.traffic_per_step


def _is_alike(work: StepWork, record: Record) -> bool:
    if record.address.split("/")[1] != work.scale or not _num_samples(record):
        return False
    if work.kind == "shards":
        cut = "subset" in record.inputs
        return cut == (work.what == "reshard")
    if work.kind == "captions":  # to import, write or embed them takes different times, and so do two models
        made = record.spec.get("spec", {})
        return made.get("kind", work.kind) == work.what and work.model in ("", made.get("model"))
    return not work.model or record.artifact.get("model") == work.model


def _num_samples(record: Record) -> int:
    """How many samples a step worked through: what a training saw, what a filter was asked about; 1 if that is not a measure."""
    if record.kind in PER_STEP:
        return 1
    made, counts = record.artifact, record.artifact.get("counts", {})
    return int(made.get("samples_seen") or counts.get("candidates") or made.get("num_samples") or 0)


def _per_sample(record: Record) -> tuple[float, float, float, float]:
    """GPU-seconds, core-seconds, bytes, wall seconds a sample. What ran on a GPU is estimated by GPUs, else by its workers."""
    number, processes = _num_samples(record), int(record.options.get("processes") or 1)
    on_gpu = str(record.options.get("device") or "").startswith("cuda")
    cores = int(record.options.get("workers") or processes)
    seconds = record.seconds / number
    written = record.outputs.num_bytes / number
    return (seconds * processes if on_gpu else 0.0, 0.0 if on_gpu else seconds * cores, written, seconds)
