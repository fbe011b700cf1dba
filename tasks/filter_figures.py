"""Shows a filter in the Prefect UI: rows by step and by reason, the score histogram with its threshold, samples, overlaps.
Everything is looked up, never recomputed; outside a Prefect run nothing is written. A pool without images has no contact sheet.
"""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from prefect.artifacts import create_table_artifact

from datacomp_core.artifacts import Pool, ShardSet, Subset
from datacomp_core.leaderboard.board.findings import percent
from datacomp_core.leaderboard.site import contact_sheets
from datacomp_core.store import Folder
from datacomp_core.subset_files import SubsetFile, overlap
from tasks import published
from tasks.reporting import artifact_key, in_task_run, leave_picture
from tasks.running import store

CARDS = 4  # per kind: side by side they fit the page's column
COMPARED = 12
FONT_SIZE = 14
CELL = (contact_sheets.THUMBNAIL + 24, contact_sheets.THUMBNAIL + 24 + 6 * FONT_SIZE)
MARGIN = 8
WIDTH = CELL[0] * 10 // (6 * FONT_SIZE)  # characters of a caption per line


def leave(subset: Subset, pool: Pool) -> None:
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
        leave_picture(subset, histogram(drawn), "histogram", suffix=".png", description=f"{drawn['column']} and its threshold.")
    shards = _shards(pool)
    if shards is not None:
        sheet = contact_sheet(folder, store().folder(shards))
        leave_picture(subset, sheet, "contact", suffix=".png", description="Above: kept. Below: dropped, and why.")


def _key(what: str, subset: Subset) -> str:
    return artifact_key(what, subset.name)


def steps_of(told: dict[str, Any]) -> list[dict[str, Any]]:
    """What each step kept of what it was asked, what was kept in all, and the share of all rows that each reason dropped."""
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


def histogram(drawn: dict[str, Any]) -> bytes:
    """Draw scores of the pool in grey, of kept rows in colour, the threshold as a line. Returns PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes: Any = figure.add_subplot()
    edges = drawn["edges"]
    widths = [high - low for low, high in pairwise(edges)]
    axes.bar(edges[:-1], drawn["counts"], widths, align="edge", color="#c4c4cc", label="pool")
    axes.bar(edges[:-1], drawn["kept"], widths, align="edge", color="#3a6ea5", label="kept")
    if drawn["cut"] is not None:
        axes.axvline(drawn["cut"], color="#a33", linewidth=1.2, label=f"cut {drawn['cut']:.4g}")
    axes.set_xlabel(drawn["column"])
    axes.set_ylabel("pairs")
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def contact_sheet(subset: Folder, shards: Folder) -> bytes:
    """Draw two rows of small images with captions: some kept, some dropped with reasons. Returns PNG."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(
        f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", FONT_SIZE
    )  # Pillow's default font has few letters beyond English
    sheet = Image.new("RGB", (CARDS * CELL[0], 2 * CELL[1]), "white")
    draw = ImageDraw.Draw(sheet)
    for line, name in enumerate(("kept", "dropped")):
        samples = contact_sheets.table(subset, f"{name}.parquet")
        chosen = [] if samples is None else contact_sheets.cards(shards, contact_sheets.choose(samples, CARDS))
        for place, card in enumerate(chosen):
            left, top = place * CELL[0] + MARGIN, line * CELL[1] + MARGIN
            if card.image:
                picture = Image.open(io.BytesIO(base64.b64decode(card.image.partition(",")[2]))).convert("RGB")
                scale = contact_sheets.THUMBNAIL / max(picture.size)
                sheet.paste(picture.resize([max(1, round(side * scale)) for side in picture.size]), (left, top))
            else:
                draw.text((left, top), "\n".join(_lines(card.why_blank)), fill="gray", font=font)
            words = [*_lines(card.caption), *_lines(card.reason or name)]
            draw.text((left, top + contact_sheets.THUMBNAIL + MARGIN), "\n".join(words), fill="black", font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _lines(text: str) -> list[str]:
    """Return two lines for a cell; the rest is truncated."""
    return [*textwrap.wrap(text, WIDTH, max_lines=2, placeholder="..."), "", ""][:2]
