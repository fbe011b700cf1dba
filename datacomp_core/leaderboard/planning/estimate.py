"""What the steps of a plan will take, each from the records of the store where there are any, else from documented figures.

A record counts for a step of the same kind and scale (a training also of the same model); the median of the latest decides.
What a step costs is reckoned as GPU-hours and core-hours, so it does not change with the number of machines; hours do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.errors import SpecError
from datacomp_core.leaderboard.planning.rates import Rates, StepRates
from datacomp_core.store import Store
from datacomp_core.store.record import Record

LATEST = 20
PER_STEP = ("evalsets", "reports", "entries")  # as much work for any subset
GB = 1e9
HOUR = 3600.0


@dataclass(frozen=True)
class Work:
    """One step of a plan. `what` is its row in the table of rates: its kind, or `reshard` for shards cut from others."""

    kind: str
    what: str
    name: str
    scale: str
    num_samples: int
    is_built: bool
    why: str
    model: str = ""
    address: str | None = None


class Estimate(BaseModel):
    """What one step will take; all zero for one that is built."""

    model_config = ConfigDict(frozen=True)
    kind: str
    name: str
    built: bool
    why: str
    address: str | None
    hours: float = Field(description="Wall time on the machine of the rates.")
    gpu_hours: float
    core_hours: float
    disk_bytes: float
    traffic_bytes: float
    money: float
    source: str = Field(description="Where the figures are from.")


class Total(BaseModel):
    """The sum over the steps that are to be built."""

    model_config = ConfigDict(frozen=True)
    hours: float
    gpu_hours: float
    core_hours: float
    disk_bytes: float
    traffic_bytes: float
    money: float
    currency: str


def estimate(works: Iterable[Work], rates: Rates, store: Store) -> list[Estimate]:
    """An estimate for each step, in order."""
    records: dict[str, list[Record]] = {}

    def of_kind(kind: str) -> list[Record]:
        if kind not in records:
            records[kind] = [record for record in store.records(kind) if not record.adopted_from]
        return records[kind]

    return [_estimate(work, rates, of_kind) for work in works]


def total(steps: Sequence[Estimate], rates: Rates) -> Total:
    fields = ("hours", "gpu_hours", "core_hours", "disk_bytes", "traffic_bytes", "money")
    return Total(currency=rates.currency, **{name: float(sum(getattr(step, name) for step in steps)) for name in fields})


def require_budget(whole: Total, budget: float | None) -> None:
    """SpecError if a plan costs more than its budget."""
    if budget is not None and whole.money > budget:
        raise SpecError(
            f"This would cost about {whole.money:,.2f} {whole.currency}, and the budget is {budget:,.2f}: "
            "leave out recipes or seeds, raise --budget, or correct the prices with --rates."
        )


def _estimate(work: Work, rates: Rates, records: Callable[[str], list[Record]]) -> Estimate:
    known = rates.steps.get(work.what) or StepRates(source="no figure")
    alike = [] if work.is_built else [r for r in records(work.kind) if _is_alike(work, r)][-LATEST:]
    if work.is_built:
        gpu, core, disk, traffic, source = 0.0, 0.0, 0.0, 0.0, ""
    elif alike:
        gpu, core, disk = (median(column) for column in zip(*[_per_sample(record) for record in alike], strict=True))
        number = 1 if work.kind in PER_STEP else work.num_samples
        gpu, core, disk = (value * number for value in (gpu, core, disk))
        traffic = known.traffic_per_sample * work.num_samples + known.traffic_per_step
        source = f"{len(alike)} record{'s' if len(alike) > 1 else ''} of this store"
    else:
        gpu, core = _documented(work, known, rates)
        disk = known.bytes_per_sample * work.num_samples + known.bytes_per_step
        traffic = known.traffic_per_sample * work.num_samples + known.traffic_per_step
        source = "measured on two CPU cores" if work.scale == "tiny" else known.source
    prices = rates.prices
    money = (gpu * prices.gpu_hour + core * prices.cpu_core_hour) / HOUR
    money += (disk * prices.gb_month + traffic * prices.gb_traffic) / GB
    return Estimate(
        kind=work.kind,
        name=work.name,
        built=work.is_built,
        why=work.why,
        address=work.address,
        hours=max(gpu / rates.machine.gpus, core / rates.machine.cpu_cores) / HOUR,
        gpu_hours=gpu / HOUR,
        core_hours=core / HOUR,
        disk_bytes=disk,
        traffic_bytes=traffic,
        money=money,
        source=source,
    )


def _is_alike(work: Work, record: Record) -> bool:
    if record.address.split("/")[1] != work.scale or not _num_samples(record):
        return False
    if work.kind == "shards":
        cut = "subset" in record.inputs
        return cut == (work.what == "reshard")
    return not work.model or record.artifact.get("model") == work.model


def _num_samples(record: Record) -> int:
    """How many samples a step worked through: what a training saw, what a filter was asked about; 1 where that is no measure."""
    if record.kind in PER_STEP:
        return 1
    made, counts = record.artifact, record.artifact.get("counts", {})
    return int(made.get("samples_seen") or counts.get("candidates") or made.get("num_samples") or 0)


def _per_sample(record: Record) -> tuple[float, float, float]:
    """GPU-seconds, core-seconds and bytes a sample. What ran on a GPU is reckoned by GPUs, all else by its workers."""
    number, processes = _num_samples(record), int(record.options.get("processes") or 1)
    on_gpu = str(record.options.get("device") or "").startswith("cuda")
    cores = int(record.options.get("workers") or processes)
    seconds = record.seconds / number
    return (seconds * processes if on_gpu else 0.0, 0.0 if on_gpu else seconds * cores, record.outputs.num_bytes / number)


def _documented(work: Work, known: StepRates, rates: Rates) -> tuple[float, float]:
    """GPU-seconds and core-seconds by the table."""
    if work.scale == "tiny":
        return 0.0, 2 * rates.tiny_seconds.get(work.what, 0.0)
    gpu, core = known.gpu_seconds_per_step, known.seconds_per_step
    if known.macs_per_gpu_second:
        gpu += rates.macs.get(work.scale, 0.0) / known.macs_per_gpu_second
    if known.samples_per_gpu_second:
        gpu += work.num_samples / known.samples_per_gpu_second
    if known.samples_per_core_second:
        core += work.num_samples / known.samples_per_core_second
    return gpu, core
