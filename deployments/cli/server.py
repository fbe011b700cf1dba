"""`datacomp deploy` and `ui`: the Prefect side, for people who would rather click."""

from __future__ import annotations

import os
import subprocess
from typing import Annotated

import typer

from datacomp_core.errors import SpecError
from deployments.cli import options, terminal
from deployments.local_server import UI_PORT, prepare_environment, refuse_backport, require_free, server_command


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Server")(deploy)
    app.command(rich_help_panel="Server")(ui)


def deploy(json: options.Json = False) -> None:
    """Apply every deployment, and the work pools they need, to the server named by PREFECT_API_URL. Twice is the same as once.

    Example: PREFECT_API_URL=http://127.0.0.1:4200/api datacomp deploy
    """
    if "PREFECT_API_URL" not in os.environ:
        raise SpecError(
            "PREFECT_API_URL is not set: start a server (`datacomp ui`) and set it, for example to http://127.0.0.1:4200/api"
        )
    refuse_backport()
    prepare_environment()
    from deployments.apply import apply_all

    applied = apply_all()
    if json:
        terminal.print_json(applied)
        return
    rows = [(row["name"], row["work_pool"], row["parameters"]) for row in applied]
    terminal.table("Deployed", ("deployment", "work pool", "parameters"), rows)


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
