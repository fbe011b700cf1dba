"""What Prefect costs: a flow and a task against calling the core, a run with nothing to do, 1,000 batches on one server, engines.

Run: python benchmarks/orchestration.py. It starts a server of its own on loopback, over SQLite, in a temporary folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from datacomp_core import engines
from datacomp_core.parallel import process_map

TASKS, BATCHES = 50, 1_000


def nothing(value: int) -> int:
    return value


def work(value: int) -> int:
    until = time.process_time() + 0.05
    while time.process_time() < until:
        value += 1
    return value


def seconds(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def of_engines() -> None:
    """CPU work of 50 ms an item, 80 items: what an engine adds once it runs."""
    print("\n| engine | start and first map, s | 80 items of 50 ms, s |\n|---|---|---|")
    for engine in ("local", "dask", "ray"):
        try:
            with engines.using(engine):
                first = seconds(lambda: list(process_map(nothing, range(2), workers=2)))
                again = seconds(lambda: list(process_map(work, range(80), workers=2)))
        except engines.SpecError as missing:
            print(f"| {engine} | {missing} | |")
            continue
        print(f"| {engine} | {first:.1f} | {again:.1f} |")


def of_prefect(log: Path) -> None:
    from prefect import flow, task

    from flows.task_calls import options

    bare = task(nothing, name="nothing")

    @flow(name="empty", **options("empty"))
    def empty() -> None: ...

    @flow(name="many", **options("many"))
    def many(count: int) -> None:
        for future in [bare.submit(i) for i in range(count)]:
            future.result()

    print("\n| what | seconds |\n|---|---|")
    print(f"| a flow that does nothing, first | {seconds(empty):.2f} |")
    print(f"| a flow that does nothing, again | {min(seconds(empty) for _ in range(3)):.2f} |")
    few, lots = seconds(lambda: many(TASKS)), seconds(lambda: many(BATCHES))
    print(f"| {TASKS} tasks that do nothing | {few:.2f} |")
    print(f"| {BATCHES:,} | {lots:.2f}: {1000 * (lots - few) / (BATCHES - TASKS):.1f} ms a task |")
    print(f"| the same, calling the function | {seconds(lambda: [nothing(i) for i in range(BATCHES)]):.4f} |")
    text = log.read_text(errors="replace")
    print(f"\n'database is locked' in the server's log: {text.count('database is locked')}")


def of_nothing_to_do() -> None:
    """The second `datacomp run` of an experiment, if the first was made here before (make demo)."""
    command = [sys.executable, "-m", "deployments.cli", "run", "-r", "no_filter"]
    spent = seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ}))
    print(f"\na run with nothing to do: {spent:.1f} s")


def main() -> None:
    if "--built" in sys.argv:
        of_nothing_to_do()
    of_engines()
    with tempfile.TemporaryDirectory() as home:
        os.environ["DATACOMP_HOME"] = home
        from deployments.local_server import prefect_api

        with prefect_api():
            of_prefect(Path(home) / "prefect" / "server.log")


if __name__ == "__main__":
    main()
