"""The step `enter`: makes a board's entry from a report and its records. The board checks sent entries by the same code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from datacomp_core.artifacts import BoardEntry, Checkpoint, EvalReport, ShardSet, Spec, Subset
from datacomp_core.caption_sets import RAW
from datacomp_core.input_classes import Said
from datacomp_core.leaderboard.entries import data_check, per_image_scores
from datacomp_core.leaderboard.entries.entry import ENTRY, CaptionUse, Cost, Entry, EntryTask, Realised, Size
from datacomp_core.leaderboard.entries.inputs import inputs_of
from datacomp_core.leaderboard.entries.placement import Track, captions_of, compute_scale, pool_claim, track_of
from datacomp_core.leaderboard.entries.provenance import ProvenanceLink, data_of, of_kind, seedless, walk
from datacomp_core.leaderboard.entries.rules import check
from datacomp_core.redaction import redact, redact_all
from datacomp_core.store import Folder, Store, step
from datacomp_core.store.fingerprint import fingerprint
from datacomp_core.store.record import Record

CAPTION = "caption: "
"""Of a count of shards: how many samples have a caption of a source."""
INPUTS = ("report", "checkpoint", "subset", "shards")
OWN_WORD = {"checkpoints": "training.json", "reports": "report.json"}
"""By kind: the file in which a step says on which device it was run."""

MADE_FROM = (
    "What lists, tables and code from outside were made from: released, target, public or private. What the records state "
    "takes precedence; empty: what they do not state counts as private."
)


class EntrySpec(Spec):
    """Under what name a result stands on the board."""

    track: Track = Field(
        default="filtering",
        description="filtering: samples of the scale's own pool only; byod: any data. Your own data makes it byod.",
    )
    method: str = Field(default="", description="Name on the board; empty: the subset's recipe.", max_length=80)
    made_from: Said = Field(default="", description=MADE_FROM)

    def label(self) -> str:
        return self.method


def _name(spec: EntrySpec, report: Any, checkpoint: Any, subset: Any, shards: Any) -> str:
    """Method, pool and seed. A subset's name is its filter and pool; a planned checkpoint has its seed in its name."""
    _, dash, pool = str(subset.name).partition("-")
    seed = str(checkpoint.name).rpartition("-seed")[2]
    seed = str(getattr(checkpoint, "seed", seed))
    return (f"{spec.method}{dash}{pool}" if spec.method else str(subset.name)) + (f"-seed{seed}" if seed.isdigit() else "")


@step("entries", version=4, name=_name)
def enter(
    spec: EntrySpec,
    report: EvalReport,
    checkpoint: Checkpoint,
    subset: Subset,
    shards: ShardSet,
    *,
    out: Folder,
    store: Store,
) -> BoardEntry:
    """Put a report on the board. `shards` are those that were trained on."""
    chain = chain_of(store, [artifact.address for artifact in (report, checkpoint, subset, shards)])
    results = store.folder(report).read_json("report.json")
    tasks = [_task(task) for task in results["tasks"]]
    per_image_scores.write(
        out, per_image_scores.gather(store.folder(report), {t.key: (t.metric, t.value) for t in tasks if t.value is not None})
    )
    pool = next(iter(_upstream_of(chain, subset.address, "pools")), None)
    found = data_check.check_data(
        store.folder(subset),
        None if pool is None else data_of(store, pool.address),
        _rows_of(store.record, pool),
        store.folder(shards),
    )
    scale = compute_scale(chain, checkpoint)
    if track_of(spec.track, chain, shards.address) == "filtering":
        found = found.model_copy(update={"claim": pool_claim(store, chain, shards.address, scale)})
    entry = compose(
        spec,
        (report, checkpoint, subset, shards),
        chain,
        tasks,
        average=report.average,
        groups={str(name): value for name, value in results.get("groups", {}).items()},
        found=found,
        record=store.record,
        said=lambda address, name: _said(data_of(store, address), name),
    )
    out.write(ENTRY, entry.to_bytes())
    return BoardEntry(recipe=entry.method, seed=checkpoint.seed, average=report.average, scale=entry.scale)


def chain_of(store: Store, addresses: list[str]) -> list[ProvenanceLink]:
    """Every step upstream of an entry's four inputs, without the names of machines and the secrets of urls."""
    return [_public(link) for link in walk(store, addresses)]


def _public(link: ProvenanceLink) -> ProvenanceLink:
    source = None if link.adopted_from is None else redact(link.adopted_from)
    return link.model_copy(update={"host": "", "options": redact_all(link.options), "adopted_from": source})


def compose(
    spec: EntrySpec,
    made: tuple[EvalReport, Checkpoint, Subset, ShardSet],
    chain: list[ProvenanceLink],
    tasks: list[EntryTask],
    *,
    average: float | None,
    groups: dict[str, float | None],
    found: data_check.DataCheck,
    record: Callable[[str], Record | None],
    said: Callable[[str, str], dict[str, Any]],
) -> Entry:
    """The entry from what is known: the same code makes it and checks it elsewhere.

    `record` gives a record by address; `said` what a JSON file of an artifact says, or nothing.
    """
    report, checkpoint, subset, shards = made
    track = track_of(spec.track, chain, shards.address)
    captions = _captions(record, chain, shards)
    return Entry(
        scale=compute_scale(chain, checkpoint),
        track=track,
        method=spec.method or subset.recipe,
        recipe=subset.recipe,
        suite=report.suite,
        suite_version=report.suite_version,
        model=checkpoint.model,
        samples_seen=checkpoint.samples_seen,
        size=_size(record, chain, subset, shards),
        seeds=_seeds(chain, checkpoint, subset),
        average=average,
        groups=groups,
        tasks=tasks,
        date=next((link.started for link in chain if link.address == report.address), ""),
        cost=_cost(said, chain),
        realised_pool=_realised(record, chain, shards),
        same_but_for_seeds=_same_but_for_seeds(spec, chain),
        checks=check(track, chain, found, report, checkpoint, subset, shards, captions.sentence() if captions else ""),
        captions=captions,
        inputs=dict(zip(INPUTS, (artifact.address for artifact in made), strict=True)),
        chain=chain,
        input_class=inputs_of(chain, subset.address, spec.made_from),
    )


def _said(folder: Folder | None, name: str) -> dict[str, Any]:
    return folder.read_json(name) if folder is not None and folder.exists(name) else {}


def _task(task: Mapping[str, Any]) -> EntryTask:
    scored = bool(task.get("scored", True))
    return EntryTask(key=task["key"], name=task["name"], metric=task["main_metric"] or "", scored=scored, value=task["value"])


def _size(record: Callable[[str], Record | None], chain: list[ProvenanceLink], subset: Subset, shards: ShardSet) -> Size:
    pool = next(iter(_upstream_of(chain, subset.address, "pools")), None)
    return Size(
        total=subset.num_samples,
        unique=subset.num_unique,
        pool=_rows_of(record, pool) or None,
        trained_on=shards.num_samples,
    )


def _rows_of(record: Callable[[str], Record | None], pool: ProvenanceLink | None) -> int:
    found = None if pool is None else record(pool.address)
    return 0 if found is None else int(found.artifact["num_samples"])


def _seeds(chain: list[ProvenanceLink], checkpoint: Checkpoint, subset: Subset) -> dict[str, int]:
    seeds = {"training": checkpoint.seed}
    for link in _upstream_of(chain, subset.address, "pools"):
        for spec in link.spec.values():
            if isinstance(spec, dict) and isinstance(spec.get("seed"), int):
                seeds["pool"] = spec["seed"]
    return seeds


def _cost(said: Callable[[str, str], dict[str, Any]], chain: list[ProvenanceLink]) -> Cost:
    by_kind: dict[str, float] = {}
    for link in chain:
        by_kind[link.kind] = round(by_kind.get(link.kind, 0.0) + link.seconds, 3)
    return Cost(
        seconds=round(sum(by_kind.values()), 3),
        seconds_by_kind=by_kind,
        num_bytes=sum(link.num_bytes for link in chain if link.adopted_from is None),
        gpu_hours=round(sum(link.seconds * _num_gpus(said, link) for link in chain) / 3600, 4),
    )


def cost_of(store: Store, links: list[ProvenanceLink]) -> Cost:
    """Return the total cost of some steps; a step counts as often as it is in `links`."""
    return _cost(lambda address, name: _said(data_of(store, address), name), links)


def _num_gpus(said: Callable[[str, str], dict[str, Any]], link: ProvenanceLink) -> int:
    """How many GPUs a step was run on. Training and evaluation say which device they chose; else the option stands."""
    device, count = str(link.options.get("device") or ""), int(link.options.get("processes") or 1)
    own = OWN_WORD.get(link.kind)
    if own is not None:
        told = said(link.address, own)
        machine = told.get("machine", told)
        device, count = str(machine.get("device") or device), int(machine.get("world_size") or count)
    return count if device.startswith("cuda") else 0


def _realised(record: Callable[[str], Record | None], chain: list[ProvenanceLink], shards: ShardSet) -> Realised | None:
    """The nearest shards upstream whose content the inputs did not determine: the download (or the adopted set)."""
    for link in _upstream_of(chain, shards.address, "shards", through="shards"):
        known = record(link.address)
        if known is not None and known.artifact.get("content"):
            made = known.artifact
            return Realised(
                address=link.address,
                fingerprint=known.fingerprint,
                content=str(made["content"]),
                num_samples=int(made["num_samples"]),
            )
    return None


def _captions(record: Callable[[str], Record | None], chain: list[ProvenanceLink], shards: ShardSet) -> CaptionUse | None:
    """From the records of the policies and of the shards that were written with them."""
    policies = captions_of(chain, shards.address)
    if not policies:
        return None
    counts: dict[str, int] = {}
    for link in _upstream_of(chain, shards.address, "shards", through="shards"):
        for name, count in link.counts.items():
            if name.startswith(CAPTION):
                counts[name.removeprefix(CAPTION)] = counts.get(name.removeprefix(CAPTION), 0) + count
        if counts:
            break
    total = max(sum(counts.values()), shards.num_samples, 1)
    counts |= {RAW: counts.get(RAW, 0) + total - sum(counts.values())} if total > sum(counts.values()) else {}
    made = [found.artifact for link in policies if (found := record(link.address)) is not None]
    return CaptionUse(
        policies=[str(one.get("policy", "")) for one in made],
        shares={source: round(count / total, 4) for source, count in sorted(counts.items())},
        models=sorted({str(model) for one in made for model in one.get("models", ())}),
        sets=[address for link in policies for address in link.inputs.get("captions", [])],
    )


def _same_but_for_seeds(spec: EntrySpec, chain: list[ProvenanceLink]) -> str:
    specs = sorted(fingerprint({"kind": link.kind, "version": link.version, "spec": seedless(link.meaning)}) for link in chain)
    return fingerprint({"track": spec.track, "chain": specs})


def _upstream_of(chain: list[ProvenanceLink], start: str, kind: str, through: str = "") -> list[ProvenanceLink]:
    """Links of one kind upstream of `start` (itself included), nearest first; only through links of kind `through`, if given."""
    by_address = {link.address: link for link in chain}
    level, seen, found = [start], {start}, list[ProvenanceLink]()
    while level:
        links = [by_address[address] for address in level if address in by_address]
        found += of_kind(links, kind)
        onward = [a for link in links for given in link.inputs.values() for a in given]
        level = [a for a in dict.fromkeys(onward) if a not in seen and a.startswith(through)]
        seen.update(level)
    return found
