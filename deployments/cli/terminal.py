"""Terminal output: a line for every finished step, bars for running steps, tables at the end. With `--json` only the result
goes to standard output; everything else goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

if TYPE_CHECKING:
    from datacomp_core.progress import LogProgress
    from tasks.events import StepEvent

PIPE_WIDTH = 200  # output to a pipe is never truncated
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
notes = Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else PIPE_WIDTH)

MARKS = {"built": "[green]✓ built [/]", "reused": "[cyan]= reused[/]", "failed": "[red]✗ failed[/]"}


def bold(place: object) -> str:
    """Return a path or address in bold, unchanged: a `[` in it is not markup."""
    return f"[bold]{escape(str(place))}[/]"


class JsonOutput:
    """Return the original standard output for the one document of `--json`; redirect everything else to standard error. Ray
    reports a lost worker on standard output, its native code writes to the descriptor itself, and a custom filter may do the
    same.
    """

    kept: IO[str] | None = None
    _elsewhere: ExitStack = ExitStack()

    @classmethod
    def keep(cls, is_wanted: bool) -> bool:
        """Callback of `--json`."""
        cls.give_back()
        if is_wanted:
            cls.kept = sys.stdout
            if sys.stdout is sys.__stdout__:  # not when a caller in this process reads our output
                sys.stdout.flush()
                cls.kept = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
                os.dup2(2, 1)
            cls._elsewhere.enter_context(redirect_stdout(sys.stderr))
        return is_wanted

    @classmethod
    def give_back(cls) -> None:
        """Undo `keep`, for a process that continues."""
        kept, cls.kept = cls.kept, None
        cls._elsewhere.close()
        if kept is not None and not kept.closed:  # a caller in this process closes its own
            kept.flush()


def print_json(value: Any) -> None:
    to = JsonOutput.kept or sys.stdout
    if to.isatty():
        Console(file=to, highlight=False, soft_wrap=True).print_json(json.dumps(value, ensure_ascii=False, default=str))
    else:
        print(json.dumps(value, default=str), file=to)
    to.flush()


class StepDisplay:
    """Listens to the steps of this process. On a terminal each running step has a bar; in a pipe each event is a line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[line]}"),
            console=console,
            transient=True,
        )
        self._tasks: dict[tuple[str, str], Any] = {}
        self._guard = threading.Lock()

    def __enter__(self) -> StepDisplay:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def __call__(self, event: StepEvent) -> None:
        with self._guard:
            if event.phase in MARKS:
                self._ended(event)
            elif event.phase == "expected":
                self._console.print(f"  {event.line}", markup=False)
            elif self._console.is_terminal:
                self._running(event)
            elif event.line:
                self._console.print(f"  … {event.line}", markup=False)

    def _running(self, event: StepEvent) -> None:
        key = (event.kind, event.name)
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(escape(f"{event.kind} {event.name}"), total=None, line="")
        if event.share is not None:
            self._bars.update(self._tasks[key], total=1.0, completed=event.share)
        if event.line:
            self._bars.update(self._tasks[key], line=escape(event.line.partition(": ")[2]))

    def _ended(self, event: StepEvent) -> None:
        bar = self._tasks.pop((event.kind, event.name), None)
        if bar is not None:
            self._bars.remove_task(bar)
        self._console.print(
            f"{MARKS[event.phase]} {escape(f'{event.kind:<11} {event.name:<34}')} {event.seconds:6.1f} s  "
            f"[dim]{escape(event.line)}[/]"
        )


@contextmanager
def shown_steps(*, quiet: bool = False) -> Generator[None]:
    """Show the steps that run in this block."""
    from tasks.events import LISTENERS

    with StepDisplay(notes if quiet else out) as steps:
        LISTENERS.append(steps)
        try:
            yield
        finally:
            LISTENERS.remove(steps)


@contextmanager
def shown_progress(what: str, *, quiet: bool = False) -> Generator[LogProgress]:
    """Show a bar (in a pipe: lines) for work outside a flow's steps."""
    from tasks.events import EventProgress, StepEvent, tell

    with shown_steps(quiet=quiet):
        progress = EventProgress(what, "")
        began = time.monotonic()
        yield progress
        tell(StepEvent(what, "", "built", progress.line().partition(": ")[2], 1.0, time.monotonic() - began))


@contextmanager
def item_progress(what: str, total: int, *, quiet: bool = False) -> Generator[Callable[[str], None]]:
    """Show a bar on a terminal, or lines in a pipe. Call the yielded function with the name of each finished item."""
    done = 0
    bars = Progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=24), console=notes, transient=True)
    shown = notes.is_terminal and not quiet

    def count(name: str) -> None:
        nonlocal done
        done += 1
        if shown:
            bars.update(task, completed=done, description=escape(f"{done} of {total} {what}: {name}"))
        elif not quiet:
            notes.print(f"  {done} of {total} {what}: {name}", markup=False)

    with bars if shown else nullcontext():
        task = bars.add_task(what, total=total)
        yield count


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """Print rows as a table; the columns in `right` are aligned as numbers."""
    made = Table(title=escape(title), title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", no_wrap=name in right)
    for row in rows:
        made.add_row(*[str(cell) for cell in row])
    out.print(made)
