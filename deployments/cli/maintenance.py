"""`datacomp replay` and `gc`: rebuild a result to verify it, and delete what no result needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from datacomp_core.settings import settings
from datacomp_core.store import Step, Store
from deployments.cli import options, terminal


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Results")(replay)
    app.command(rich_help_panel="Results")(gc)


def replay(
    what: Annotated[str, typer.Argument(help="An address, or the first digits of a fingerprint.")],
    into: Annotated[Path, typer.Option("--into", help="Folder of the store for the rebuilt result.")],
    depth: Annotated[int, typer.Option("--depth", min=0, help="Number of upstream steps to rebuild too.")] = 0,
    json: options.Json = False,
) -> None:
    """Rebuild an artifact from its records in a separate store, and report every difference. The exit status is 1 if more than
    timings differ.

        Example: datacomp replay subsets/tiny/clip_score_tiny-pool0--7abb9c0523ef --into again
    """
    from datacomp_core.leaderboard.entries.replay import replay as build_again

    store, other = Store.open(settings().store_url), Store.open(str(into))
    told = build_again(store, what, _runner(other), other, depth=depth)
    if json:
        terminal.print_json([{**one.model_dump(), "same": one.is_same} for one in told])
    else:
        for one in told:
            mark = "[green]same[/]" if one.is_same else "[yellow]differs[/]"
            terminal.out.print(
                f"{mark} {one.address}  ({one.same_files} identical files, {one.seconds[0]:.1f} s then, {one.seconds[1]:.1f} "
                "s now)"
            )
            for difference in one.differences:
                terminal.out.print(f"    {difference.file}: {difference.what}")
                for field in difference.fields:
                    terminal.out.print(f"        {field}", markup=False)
    raise typer.Exit(0 if all(one.is_same for one in told) else 1)


def _runner(other: Store) -> Any:
    """Run a step in the other store, with this machine's devices and workers if the step has such options."""
    from deployments.cli.submission import import_steps

    import_steps()
    known = {"device": settings().device, "workers": settings().num_workers}

    def run(step: Step[Any], *identity: Any) -> Any:
        return step(*identity, store=other, **{name: value for name, value in known.items() if name in step.options})

    return run


def gc(
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="Address or fingerprint to keep with everything upstream; repeat for several."),
    ] = None,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, help="Select only what is older than this number of hours.")
    ] = 24.0,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete what is listed. Without this option nothing is deleted.")
    ] = False,
    json: options.Json = False,
) -> None:
    """List artifacts that no leaderboard entry uses, and abandoned attempts. Delete them with --delete.

    Example: datacomp gc --older-than 48
    """
    from datacomp_core.leaderboard.board.garbage_collection import remove, unused
    from datacomp_core.leaderboard.site.number_format import volume

    store = Store.open(settings().store_url)
    found = unused(store, keep=keep or (), older_than_hours=older_than)
    freed = remove(store, found, older_than_hours=older_than) if delete else 0
    if json:
        terminal.print_json({"deleted": delete, "freed": freed, "unused": [one.model_dump() for one in found]})
        return
    rows = [(one.what, one.path, volume(one.num_bytes), one.built, one.why) for one in found]
    terminal.table("Deleted" if delete else "Unused", ("what", "where", "size", "built", "why"), rows, right=("size",))
    total = volume(sum(one.num_bytes for one in found))
    terminal.out.print(f"{len(found)} items, {total}{' freed' if delete else '; --delete removes them'}")
