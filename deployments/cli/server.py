"""`datacomp deploy`, `worker` and `ui`: deployments, workers and the Prefect UI."""

from __future__ import annotations

import os
import subprocess
import sys
from enum import StrEnum
from typing import Annotated

import typer

from datacomp_core.errors import SpecError
from deployments.cli import options, terminal
from deployments.local_server import UI_PORT, prepare_environment, refuse_backport, require_free, server_command

LIMITS = {"gpu": 1, "cpu": 4}
ALL = "all"


class PoolType(StrEnum):
    """The types of work pool."""

    process = "process"
    docker = "docker"
    kubernetes = "kubernetes"


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Server")(deploy)
    app.command(rich_help_panel="Server")(worker)
    app.command(rich_help_panel="Server")(ui)


def deploy(
    on: Annotated[
        PoolType, typer.Option("--on", help="Type of the work pools: process, docker or kubernetes.")
    ] = PoolType.process,
    scale: Annotated[
        list[str] | None,
        typer.Option("--scale", help="Scales to deploy; repeat for several, or all. Default: tiny, without a GPU pool."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Apply deployments, work pools and automations to the server at PREFECT_API_URL. You can repeat the command safely.
    Without --scale it applies what a laptop can run. Schedules of a work pool stay off until `datacomp worker` starts a worker
    for it.

        Examples: datacomp deploy;  datacomp deploy --scale all;  datacomp deploy --scale small --on kubernetes
    """
    _need_a_server()
    from datacomp_core.scales import scale as known_scale
    from deployments.apply import apply_all, chosen_rows

    named = [name for name in scale or () if name != ALL]
    for name in named:
        known_scale(name)
    scales, pools = ([] if ALL in scale else named, []) if scale else (["tiny"], ["cpu"])
    from prefect.client.orchestration import get_client

    from deployments.event_check import require_events

    with get_client(sync_client=True) as client:
        require_events(client)
    with terminal.item_progress("deployments", len(chosen_rows(scales, pools)), quiet=json) as count:
        applied = apply_all(on.value, scales, pools, applied=lambda row: count(row.deployment))
    if json:
        terminal.print_json(applied)
        return
    rows = [(row["name"], row["work_pool"], row["schedule"]) for row in applied]
    terminal.table("Deployed", ("deployment", "work pool", "schedule (UTC)"), rows)
    if not scale:
        terminal.out.print("Only `tiny` was deployed, for this machine: add --scale small or --scale all for more.")


def worker(
    pool: Annotated[str, typer.Argument(help="The work pool: cpu or gpu.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Concurrent runs. Default: 1 for gpu, 4 for cpu.")] = None,
    healthcheck: Annotated[
        bool,
        typer.Option("--healthcheck", help="Serve http://127.0.0.1:8080/health: 200 while the worker polls the server for runs."),
    ] = False,
) -> None:
    """Execute the runs of a work pool as processes on this machine, until Ctrl-C. They use this shell's settings and store.

    Example: PREFECT_API_URL=http://127.0.0.1:4200/api datacomp worker cpu
    """
    _need_a_server()
    from datacomp_core.settings import settings
    from deployments.apply import start_schedules

    for name in start_schedules(pool):
        terminal.notes.print(f"The schedule of {name} is on now.")
    own = {"DATACOMP_HOME": str(settings().home.resolve())}
    environment = {**os.environ, **{name: value for name, value in own.items() if name not in os.environ}}
    environment["DATACOMP_HOME"] = own["DATACOMP_HOME"]  # each run works in its own folder
    command = [sys.executable, "-P", "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    if healthcheck:
        command.append("--with-healthcheck")
        environment.setdefault("PREFECT_WORKER_WEBSERVER_HOST", "127.0.0.1")
    os.execve(sys.executable, [*command, "--limit", str(limit or LIMITS.get(pool, 4))], environment)


def _need_a_server() -> None:
    if "PREFECT_API_URL" not in os.environ:
        raise SpecError(
            "PREFECT_API_URL is not set: start a server (`datacomp ui`) and set it, for example to http://127.0.0.1:4200/api"
        )
    refuse_backport()
    prepare_environment()


def ui(port: Annotated[int, typer.Option("--port", help="Port on 127.0.0.1.")] = UI_PORT) -> None:
    """Serve the Prefect UI with the runs of this machine, until Ctrl-C."""
    require_free(port)
    refuse_backport()
    prepare_environment()
    from datacomp_core.settings import settings
    from deployments.local_server import server_environment

    home = (settings().home / "prefect").resolve()
    terminal.out.print(f"Prefect UI: [bold]http://127.0.0.1:{port}[/]   (Ctrl-C ends it)")
    raise typer.Exit(subprocess.call(server_command(port), env={**os.environ, **server_environment(home)}))
