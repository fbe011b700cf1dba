"""The tables of the pages are made from the registries: a stale one fails here and is written anew by

`python tests/docs/test_docs_tables.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from datacomp_core.filters.base import Batch, Ranked, Rule, Survey
from datacomp_core.kinds import first_line
from datacomp_core.registry import FILTERS, RECIPES, SCORES

PAGE = Path(__file__).parents[2] / "docs" / "filters.md"
TABLE = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- end of table -->", re.DOTALL)
HOW = "The table of {} in docs/filters.md is stale: write it anew with `python tests/docs/test_docs_tables.py`."
SORTS: tuple[tuple[type, str], ...] = (
    (Rule, "each row"),
    (Batch, "many rows"),
    (Ranked, "ranking"),
    (Survey, "all rows together"),
)
"""How a filter judges, which is what it costs (filters/base.py)."""


def _ours(thing: Any) -> bool:
    return str(thing.__module__).startswith("datacomp_core.")


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads), ["---"] * len(list(heads)), *map(list, rows)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _fields(model: Any) -> str:
    return ", ".join(f"`{name}`" for name in model.parameters())


def recipes() -> str:
    rows = [(f"`{row.name}`", row.description, row.source) for row in RECIPES.values() if _ours(row.build)]
    return _table(("name", "keeps", "after"), rows)


def filters() -> str:
    def sort(model: Any) -> str:
        return next((name for kind, name in SORTS if issubclass(model, kind)), "combination")

    rows = [(f"`{kind}`", _fields(model), first_line(model), sort(model)) for kind, model in FILTERS.items() if _ours(model)]
    return _table(("kind", "fields", "what", "judges"), rows)


def scores() -> str:
    def reads(model: Any) -> str:
        return ", ".join(["metadata", *sorted(model.needs)])

    rows = [
        (f"`{kind}`", _fields(model), first_line(model), reads(model), model.paper)
        for kind, model in SCORES.items()
        if _ours(model)
    ]
    return _table(("kind", "parameters", "what", "reads", "after"), rows)


MADE = {"recipes": recipes, "filters": filters, "scores": scores}


@pytest.mark.parametrize("name", MADE)
def test_a_table_is_that_of_the_registry(name: str) -> None:
    there = {found[1]: found[2] for found in TABLE.finditer(PAGE.read_text())}
    assert there.get(name) == MADE[name](), HOW.format(name)


if __name__ == "__main__":
    PAGE.write_text(
        TABLE.sub(lambda found: f"<!-- table: {found[1]} -->\n{MADE[found[1]]()}<!-- end of table -->", PAGE.read_text())
    )
