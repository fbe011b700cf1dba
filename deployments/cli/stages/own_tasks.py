"""Reads and lists custom evaluation tasks for the command line: from files and from the registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from deployments.cli import terminal

if TYPE_CHECKING:
    from datacomp_core.evaluation.custom import TaskRow


def given(add_tasks: Sequence[str] | None) -> tuple[TaskRow, ...]:
    """Return the custom tasks that the options name."""
    from datacomp_core.evaluation import custom

    return tuple(row for given in add_tasks or () for row in custom.rows_of(given))


def show(more: Sequence[TaskRow], *, json: bool) -> None:
    """List the tasks of each suite, registered and given tasks, and the protocols."""
    from datacomp_core.evaluation.catalog import SUITES
    from datacomp_core.evaluation.custom import origin_of
    from datacomp_core.evaluation.protocols import PROTOCOLS, code_of_protocol
    from datacomp_core.registry import TASKS

    rows = [(suite.name, task) for suite in SUITES.values() for task in suite.tasks]
    rows += [(origin_of(row), row.task()) for row in TASKS.values()]
    rows += [("given", row.task()) for row in more if row not in TASKS.values()]
    protocols = [(name, code_of_protocol(name) or "this package", kind.version) for name, kind in PROTOCOLS.items()]
    if json:
        names = ("of", "key", "name", "folder", "protocol", "metric")
        tasks = [dict(zip(names, (of, *(getattr(task, name) for name in names[1:])), strict=True)) for of, task in rows]
        known = [{"name": name, "of": of, "version": version} for name, of, version in protocols]
        terminal.print_json({"tasks": tasks, "protocols": known})
        return
    cells = [(of, task.key, task.name, task.folder, task.protocol, task.metric or "") for of, task in rows]
    terminal.table("Evaluation tasks", ("of", "key", "name", "folder", "protocol", "main metric"), cells)
    terminal.table("Protocols", ("name", "of", "version"), [(name, of, str(version)) for name, of, version in protocols])


def registered(tasks: Sequence[str], rows: Sequence[TaskRow]) -> tuple[TaskRow, ...]:
    """Return the registered tasks that `--tasks` names by key."""
    from datacomp_core.registry import TASKS

    given = {row.key for row in rows}
    return tuple(TASKS[name] for name in tasks if name not in given and name in TASKS)
