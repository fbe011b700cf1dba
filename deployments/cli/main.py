"""The command `datacomp`. Every subcommand calls the same flow or step as the Prefect UI.

Errors are one sentence on standard error. Exit status: 0 done, 1 failed, 2 the request was wrong, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from functools import cache
from typing import Any

import typer

from datacomp_core.errors import DatacompError, DiskFullError
from datacomp_core.external_code import outside_error
from datacomp_core.import_errors import library_error
from datacomp_core.redaction import install, redact
from deployments.cli.terminal import JsonOutput

app = typer.Typer(
    name="datacomp",
    help="Design image-text training sets: choose a subset of a pool, train CLIP on it with a fixed recipe, and measure the "
    "result.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@cache
def register() -> None:
    """Register every command group; each has its own module."""
    from deployments.cli import board, compare, explore, maintenance, nodes, planning, run, search, server, submission
    from deployments.cli.stages import captions, cluster, convert, embed, evaluate, pool, reshard, subset, train
    from deployments.cli.stages import filter as filtering

    experiments = (run, planning, search, pool, captions, embed, cluster, filtering, subset, reshard, train, evaluate, convert)
    for group in (*experiments, board, compare, explore, submission, maintenance, server, nodes):
        group.add_to(app)


def sentence(problem: BaseException) -> tuple[str, int]:
    """Return one sentence for an error and the exit status; a bug of ours keeps its traceback."""
    if isinstance(problem, DatacompError):
        return str(problem), problem.exit_status
    if type(problem).__name__ == "ValidationError" and hasattr(problem, "errors"):
        return _validation(problem), 2
    error = outside_error(problem) or (library_error(problem) if isinstance(problem, ImportError) else None)
    if isinstance(error, DatacompError):
        return str(error), error.exit_status
    if isinstance(problem, OSError) and (told := _of_files(problem)):
        return told, 1
    if type(problem).__module__.startswith("httpx") and "PREFECT_API_URL" in os.environ:
        return f"The Prefect server at {os.environ['PREFECT_API_URL']} does not answer: start it, or unset PREFECT_API_URL.", 1
    raise problem


def _of_files(problem: OSError) -> str:
    """One sentence for a disk or a bucket that failed; empty for what is a bug of ours."""
    if problem.errno == errno.ENOSPC:
        return str(DiskFullError(problem.filename))
    if str(problem).startswith("object-store error"):  # polars' client of buckets
        return f"A file of the bucket cannot be read: {str(problem).splitlines()[0]}. Run the same command again."
    return f"No permission for {problem.filename}." if isinstance(problem, PermissionError) else ""


def _validation(problem: Any) -> str:
    first = problem.errors()[0]
    where = _option(".".join(str(part) for part in first["loc"]))
    return f"{f'{where}: ' if where else ''}{first['msg'].removeprefix('Value error, ')}"


OPTIONS = {
    "own_tasks": "--add-tasks",
    "own_tasks.data": "--task-data",
    "layout": "--mix",
    "scorers": "--embed",
    "filters": "--subset",
    "cut": "--keys",
    "damaged": "--tolerate",
}
"""The options of spec fields with another name."""


def _option(field: str) -> str:
    """Return the user's name for a spec field: the option of the running command, if it has one of that name."""
    command: Any = typer.main.get_command(app)
    words = sys.argv[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    outer, inner = field.partition(".")[0], field.rpartition(".")[2]
    for name in (field, outer, inner):  # a field inside a field is given with the option of the outer one, or with its own
        plain = f"--{name.replace('_', '-')}"
        for option in (OPTIONS.get(name, ""), plain, plain.removesuffix("s")):  # one of several: --template
            if option in known:
                return option
    return field


def main() -> None:
    """Entry point of the console script."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    os.environ["PYTHONSAFEPATH"] = "1"  # processes that are started here import nothing from the working folder
    install()
    try:
        register()
        status = app(standalone_mode=False)
    except KeyboardInterrupt:
        _say("interrupted: run the same command again to resume")
        status = 130
    except typer.Exit as end:
        status = end.exit_code
    except typer.Abort:
        status = 130
    except Exception as problem:
        status = _told(problem)
    JsonOutput.give_back()
    sys.stdout.flush()
    sys.exit(status or 0)


def _told(problem: Any) -> int:
    """Print what went wrong and return the exit status. Typer vendors its own click, so its errors are recognised by their
    methods."""
    if hasattr(problem, "format_message") and hasattr(problem, "exit_code"):
        problem.show()
        return int(problem.exit_code)
    text, status = sentence(problem)
    _say(f"error: {redact(text)}")
    return status


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
