"""The paper's Table 3 (arXiv 2304.14108) and its random halves as rows of the board, with what is known to contradict them."""

from __future__ import annotations

import csv
from pathlib import Path

from pydantic import BaseModel, ConfigDict

TABLE = Path(__file__).with_name("reference.csv")
SOURCE = "Gadre et al. 2023"
GROUPS = {"imagenet": "ImageNet", "imagenet_shifts": "ImageNet dist. shifts", "vtab": "VTAB", "retrieval": "Retrieval"}
"""Columns of the file, and the names of the same groups in our reports."""


class Reference(BaseModel):
    """One published result: one run, scores as fractions, size as printed."""

    model_config = ConfigDict(frozen=True)
    scale: str
    method: str
    recipe: str
    size: int
    scores: dict[str, float]
    average: float
    source: str
    note: str


def references(scale: str) -> list[Reference]:
    """The published rows of a scale, in the paper's order; none for `tiny` and `debug`."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return [
            Reference(
                scale=row["scale"],
                method=row["method"],
                recipe=row["recipe"],
                size=int(row["size"]),
                scores={group: float(row[column]) for column, group in GROUPS.items()},
                average=float(row["average"]),
                source=f"{SOURCE}, {row['source']}",
                note=row["note"],
            )
            for row in csv.DictReader(file)
            if row["scale"] == scale
        ]
