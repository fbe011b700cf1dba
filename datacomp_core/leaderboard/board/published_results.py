"""Published results as rows of the board, each with its source: the paper's Table 3 and its random halves, and what came after.

`reference.csv` is the paper's table (arXiv 2304.14108), with what is known to contradict it. `published.csv` has single results
of other tables and papers, only what was read in the source beside it; what the source does not give is empty.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.input_classes import InputClass
from datacomp_core.leaderboard.entries.placement import Track

TABLE, PUBLISHED = (Path(__file__).with_name(name) for name in ("reference.csv", "published.csv"))
SOURCE = "Gadre et al. 2023"
PAPER_SUITE, OTHER_SUITE = "datacomp (paper)", "published"
GROUPS = {"imagenet": "ImageNet", "imagenet_shifts": "ImageNet dist. shifts", "vtab": "VTAB", "retrieval": "Retrieval"}
"""Columns of the first file, and the names of the same groups in our reports."""
SHORT = {"shifts": "imagenet_shifts"}
UNITS = {"M": 1e6, "B": 1e9}


class PublishedResult(BaseModel):
    """One published result: one run, scores as fractions, size as printed; None where the source does not say."""

    model_config = ConfigDict(frozen=True)
    scale: str
    track: Track = "filtering"
    method: str
    recipe: str = Field(default="", description="The equivalent recipe of this project.")
    size: int | None
    scores: dict[str, float]
    average: float | None
    inputs: InputClass | None = None
    our_recipe: bool = Field(
        default=True, description="Whether it was trained with the benchmark's fixed recipe, like every run here."
    )
    source: str
    note: str = ""
    suite: str = PAPER_SUITE


def references(scale: str) -> list[PublishedResult]:
    """The rows of a scale in the paper's Table 3, in its order; none for `tiny` and `debug`."""
    return [
        PublishedResult.model_validate(
            {
                **_kept(row, "scale", "method", "recipe", "size", "inputs", "average", "note"),
                "scores": {group: float(row[column]) for column, group in GROUPS.items()},
                "source": f"{SOURCE}, {row['source']}",
            }
        )
        for row in _rows(TABLE, scale)
    ]


def published(scale: str) -> list[PublishedResult]:
    """Other published results of a scale, in the order of the file."""
    return [_single(row) for row in _rows(PUBLISHED, scale)]


def _single(row: dict[str, str]) -> PublishedResult:
    named = {SHORT.get(column, column): value for column, value in row.items()}
    ours = row["our_recipe"] == "yes"
    return PublishedResult.model_validate(
        {
            **_kept(row, "scale", "track", "method", "source", "note"),
            "recipe": row["recipe_here"],
            "size": _amount(row["kept"]),
            "scores": {group: float(named[column]) for column, group in GROUPS.items() if named[column]},
            "average": float(row["average"]) if row["average"] else None,
            "inputs": row["inputs"] or None,
            "our_recipe": ours,
            "suite": PAPER_SUITE if ours and row["source"].startswith("DataComp paper") else OTHER_SUITE,
        }
    )


def _rows(path: Path, scale: str) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from (row for row in csv.DictReader(file) if row["scale"] == scale)


def _kept(row: dict[str, str], *names: str) -> dict[str, str]:
    return {name: row[name] for name in names}


def _amount(text: str) -> int | None:
    """`3.84B` as a number; None for nothing."""
    return round(float(text[:-1]) * UNITS[text[-1]]) if text else None
