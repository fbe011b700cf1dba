"""The tables of the pages are made from the registries: a stale one fails here and is written anew by

`python tests/docs/test_docs_tables.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from datacomp_core.evaluation.catalog import SUITES
from datacomp_core.filters.base import BatchFilter, GlobalFilter, RankFilter, RowFilter
from datacomp_core.kind_registration import first_line
from datacomp_core.registry import FILTERS, PROTOCOLS, RECIPES, SCORES

DOCS = Path(__file__).parents[2] / "docs"
TABLE = re.compile(r"<!-- table: (\w+) -->\n(.*?)<!-- end of table -->", re.DOTALL)
HOW = "The table of {} is stale: write it anew with `python tests/docs/test_docs_tables.py`."
SORTS: tuple[tuple[type, str], ...] = (
    (RowFilter, "each row"),
    (BatchFilter, "many rows"),
    (RankFilter, "ranking"),
    (GlobalFilter, "all rows together"),
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


def tasks() -> str:
    rows = [
        (suite.name, f"`{task.key}`", task.name, f"`{task.protocol}`", task.metric or "none", task.group)
        for suite in SUITES.values()
        for task in suite.tasks
    ]
    return _table(("suite", "key", "name", "protocol", "main metric", "group"), rows)


MADE = {"recipes": recipes, "filters": filters, "scores": scores, "tasks": tasks}
PAGES = {"recipes": "filters.md", "filters": "filters.md", "scores": "filters.md", "tasks": "evaluation.md"}


@pytest.mark.parametrize("name", MADE)
def test_a_table_is_that_of_the_registry(name: str) -> None:
    there = {found[1]: found[2] for found in TABLE.finditer((DOCS / PAGES[name]).read_text())}
    assert there.get(name) == MADE[name](), HOW.format(name)


def test_every_protocol_of_this_package_stands_in_the_table_of_protocols() -> None:
    page = (DOCS / "evaluation.md").read_text()
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", page, flags=re.MULTILINE))))
    assert {name for name, kind in PROTOCOLS.items() if _ours(kind)} <= named


if __name__ == "__main__":
    for page in sorted(set(PAGES.values())):
        text = (DOCS / page).read_text()
        (DOCS / page).write_text(TABLE.sub(lambda f: f"<!-- table: {f[1]} -->\n{MADE[f[1]]()}<!-- end of table -->", text))
