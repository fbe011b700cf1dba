"""Shows a filter in the Prefect UI: rows by step and by reason, the score histogram with its threshold, samples, overlaps.
Everything is looked up, never recomputed; outside a Prefect run nothing is written. A pool without images has no contact sheet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect.artifacts import create_table_artifact

from datacomp_core.artifacts import Pool, ShardSet, Subset
from datacomp_core.leaderboard.board.findings import percent
from datacomp_core.leaderboard.site.contact_sheet_png import contact_sheet_png
from datacomp_core.leaderboard.site.figures import Histogram, histogram_png
from datacomp_core.subset_files import SubsetFile, overlap
from tasks import published
from tasks.reporting import artifact_key, in_task_run, publish_picture
from tasks.run_step import store

COMPARED = 12


def publish(subset: Subset, pool: Pool) -> None:
    """Artifacts of one subset."""
    if not in_task_run():
        return
    folder = store().folder(subset)
    told, drawn = folder.read_json("explain.json"), folder.read_json("histogram.json")
    page = published.explore_link(subset.address)
    create_table_artifact(
        steps_of(told),
        key=_key("filter", subset),
        description=f"{subset.recipe}: rows by step, then by reason. [Explore what it keeps and drops]({page})",
    )
    if rows := list(_overlaps(subset, pool)):
        create_table_artifact(rows, key=_key("overlap", subset), description=f"{subset.recipe} and other subsets of {pool.name}")
    if drawn["edges"]:
        publish_picture(
            subset,
            histogram_png(Histogram(**drawn)),
            "histogram",
            suffix=".png",
            description=f"{drawn['column']} and its threshold.",
        )
    shards = _shards(pool)
    if shards is not None:
        sheet = contact_sheet_png(folder, store().folder(shards))
        publish_picture(subset, sheet, "contact", suffix=".png", description="Above: kept. Below: dropped, and why.")


def _key(what: str, subset: Subset) -> str:
    return artifact_key(what, subset.name)


def steps_of(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what each step kept of the rows it judged, the total kept, and the share of all rows that each reason dropped."""
    asked = [(f"asked: {step['title']}", step["asked"], step["kept"]) for step in told["steps"]]
    rows = [
        {"what": what, "rows": f"{rows:,}", "kept": f"{kept:,}", "share": _share(kept, rows)}
        for what, rows, kept in (*asked, ("kept", told["rows"], told["kept"]))
    ]
    dropped = [
        {"what": f"dropped: {reason}", "rows": f"{count:,}", "kept": "", "share": _share(count, told["rows"])}
        for reason, count in told["dropped"].items()
    ]
    return [*rows, *dropped]


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "–"


def _overlaps(subset: Subset, pool: Pool) -> Iterator[dict[str, Any]]:
    """Return the overlap with the newest other subsets of the same pool."""
    others = [
        record
        for record in store().records("subsets")
        if record.address != subset.address and _is_of(record.inputs.get("pool", []), pool)
    ]
    for record in sorted(others, key=lambda record: record.started, reverse=True)[:COMPARED]:
        other = store().artifact(Subset, record)
        if store().missing(record):
            continue
        both = overlap(*(SubsetFile(store().folder(one)) for one in (subset, other)))
        yield {
            "subset": other.recipe,
            "pairs": f"{other.num_samples:,}",
            "in both": f"{both.shared:,}",
            "of the other": percent(both.containment[1]),
            "of this one": percent(both.containment[0]),
            "Jaccard index": f"{both.jaccard:.3f}",
            "counting repeats": f"{both.weighted_jaccard:.3f}",
        }


def _is_of(given: list[dict[str, str]], pool: Pool) -> bool:
    return any(each["fingerprint"] == pool.fingerprint for each in given)


def _shards(pool: Pool) -> ShardSet | None:
    """The images of a pool, if they were downloaded."""
    for record in store().records("shards"):
        if _is_of(record.inputs.get("pool", []), pool) and not store().missing(record):
            return store().artifact(ShardSet, record)
    return None
