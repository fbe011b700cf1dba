"""`datacomp node`: a scheduler starts it on every node of one job, so that a training can span all nodes."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
from types import FrameType
from typing import Annotated

import typer

from datacomp_core import interruptible_wait
from datacomp_core.errors import SpecError
from datacomp_core.parallel import PR_SET_PDEATHSIG
from datacomp_core.settings import settings
from deployments.cli import terminal

STOPS = (signal.SIGTERM, signal.SIGINT)


def add_to(app: typer.Typer) -> None:
    context = {"allow_interspersed_args": False}
    app.command("node", rich_help_panel="Server", context_settings=context)(node)


def node(
    command: Annotated[list[str], typer.Argument(help="What node 0 runs, after `--`: a worker, a flow run, `datacomp run ...`.")],
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Number of nodes. [DATACOMP_NODES]")] = None,
    number: Annotated[int | None, typer.Option("--node", min=0, help="Number of this node, from 0. [DATACOMP_NODE]")] = None,
    rendezvous: Annotated[str | None, typer.Option(help="host:port on node 0. [DATACOMP_RENDEZVOUS]")] = None,
    run_id: Annotated[str | None, typer.Option(help="A name that only these nodes use. [DATACOMP_RUN_ID]")] = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Ranks per node: one per GPU. [DATACOMP_PROCESSES]")] = None,
) -> None:
    """On node 0, run a command whose trainings span all nodes; on the others, join these trainings until the command ends.

    Example: srun --ntasks-per-node=1 datacomp node --nodes 4 --rendezvous first:29500 --run-id 17 -- datacomp worker gpu
    """
    given = {"nodes": nodes, "node": number, "rendezvous": rendezvous, "run_id": run_id, "processes": processes}
    os.environ.update({f"DATACOMP_{name.upper()}": str(value) for name, value in given.items() if value is not None})
    settings.cache_clear()
    if settings().nodes == 1:
        _become(command)
    raise typer.Exit(_lead(command) if settings().node == 0 else _take_part())


def _become(command: list[str]) -> None:
    try:
        os.execvpe(command[0], command, _environment())
    except FileNotFoundError:
        raise _unknown(command) from None


def _lead(command: list[str]) -> int:
    """Run the command in its own session, so that it receives a stop only once, from here."""
    from datacomp_core.store import Store
    from datacomp_core.training.nodes import announce_node_0, this_node

    store, layout = Store.open(settings().store_url), this_node()
    children: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        if children:
            children[0].send_signal(number)
        else:
            early.append(number)

    for number in STOPS:
        signal.signal(number, forward)
    try:
        child = subprocess.Popen(command, env=_environment(), start_new_session=True, preexec_fn=_end_with_parent)  # noqa: PLW1509 - no thread yet
    except FileNotFoundError:
        raise _unknown(command) from None
    children.append(child)
    while early:
        child.send_signal(early.pop())
    try:
        with announce_node_0(store, layout):
            status = interruptible_wait.wait_for_exit(child)
    finally:
        child.terminate()
    return status if status >= 0 else 128 - status


def _environment() -> dict[str, str]:
    """The environment of the command, without `PYTHONSAFEPATH` of our own processes: a script finds the modules beside it."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _unknown(command: list[str]) -> SpecError:
    return SpecError(f"This node has no command {command[0]!r}: install it or correct its name.")


def _take_part() -> int:
    """Join trainings until node 0 is gone. A stop lets the running training finish, as on node 0."""
    from datacomp_core.store import Store
    from datacomp_core.training.nodes import follow, this_node

    stops: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stops.append(number)
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait

    for number in STOPS:
        signal.signal(number, stop)
    layout = this_node()
    logging.basicConfig(format=f"%(asctime)s node {layout.node}: %(message)s")
    logging.getLogger("datacomp_core").setLevel(logging.INFO)
    completed = follow(Store.open(settings().store_url), layout, ended=lambda: bool(stops))
    terminal.notes.print(f"node {layout.node} took part in {completed} trainings that completed")
    return 0
