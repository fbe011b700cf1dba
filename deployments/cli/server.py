"""`datacomp deploy` and `ui`: the Prefect side, for people who would rather click."""

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


class Pools(StrEnum):
    """What the work pools are made of."""

    process = "process"
    docker = "docker"
    kubernetes = "kubernetes"


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Server")(deploy)
    app.command(rich_help_panel="Server")(worker)
    app.command(rich_help_panel="Server")(ui)


def deploy(
    on: Annotated[Pools, typer.Option("--on", help="Type of the work pools: process, docker or kubernetes.")] = Pools.process,
    scale: Annotated[
        list[str] | None,
        typer.Option("--scale", help="These scales' deployments; repeat it, or say all. Default: tiny, without a GPU pool."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Apply deployments, work pools and automations to the server named by PREFECT_API_URL. Twice is the same as once.

    Without --scale, what a laptop can run. Schedules of a work pool without a worker are off until `datacomp worker` starts.

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
    with terminal.counted("deployments", len(chosen_rows(scales, pools)), quiet=json) as count:
        applied = apply_all(on.value, scales, pools, applied=lambda row: count(row.deployment))
    if json:
        terminal.print_json(applied)
        return
    rows = [(row["name"], row["work_pool"], row["schedule"]) for row in applied]
    terminal.table("Deployed", ("deployment", "work pool", "schedule (UTC)"), rows)
    if not scale:
        terminal.out.print("Only `tiny`, for this machine: --scale small, or --scale all, for more.")


def worker(
    pool: Annotated[str, typer.Argument(help="The work pool: cpu or gpu.")],
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Runs at once; gpu: 1, cpu: 4.")] = None,
    healthcheck: Annotated[
        bool, typer.Option("--healthcheck", help="Answer http://127.0.0.1:8080/health: 200 while it asks the server for runs.")
    ] = False,
) -> None:
    """Take the runs of a work pool as processes of this machine, until Ctrl-C. They use this shell's settings and store.

    Example: PREFECT_API_URL=http://127.0.0.1:4200/api datacomp worker cpu
    """
    _need_a_server()
    from datacomp_core.settings import settings
    from deployments.apply import start_schedules

    for name in start_schedules(pool):
        terminal.notes.print(f"The schedule of {name} is on now.")
    own = {"DATACOMP_HOME": str(settings().home.resolve())}
    environment = {**os.environ, **{name: value for name, value in own.items() if name not in os.environ}}
    environment["DATACOMP_HOME"] = own["DATACOMP_HOME"]  # runs work in folders of their own
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
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
    """Serve the Prefect UI over the runs made on this machine, until Ctrl-C."""
    require_free(port)
    refuse_backport()
    prepare_environment()
    from datacomp_core.settings import settings
    from deployments.local_server import server_environment

    home = (settings().home / "prefect").resolve()
    terminal.out.print(f"Prefect UI: [bold]http://127.0.0.1:{port}[/]   (Ctrl-C ends it)")
    raise typer.Exit(subprocess.call(server_command(port), env={**os.environ, **server_environment(home)}))
