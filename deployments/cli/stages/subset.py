"""`datacomp subset`: union, intersection, difference and sum of subset files, and how far two agree; repeats count."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from datacomp_core.errors import SpecError
from datacomp_core.store import Folder, scratch
from deployments.cli import options, terminal
from deployments.cli.stages import until

What = Literal["union", "intersection", "difference", "sum", "compare"]


def add_to(app: typer.Typer) -> None:
    app.command("subset", rich_help_panel="Stages")(subset)


def subset(
    what: Annotated[What, typer.Argument(help="union: the larger multiplicity; intersection: the smaller; and so on.")],
    files: Annotated[list[str], typer.Argument(help="Subset files, local or in a bucket.")],
    out: Annotated[str | None, typer.Option(help="The subset file to write.")] = None,
    as_sets: Annotated[bool, typer.Option("--as-sets", help="Count every uid once, however often it stands there.")] = False,
    json: options.Json = False,
) -> None:
    """Combine subset files, or compare two, in bounded memory.

    Examples:

      datacomp subset intersection image_based.npy clip_score.npy --out both.npy

      datacomp subset compare image_based.npy clip_score.npy
    """
    from datacomp_core.filters import subset_ops

    with local_files(files) as paths:
        if what == "compare":
            if len(paths) != 2:
                raise SpecError("Two subset files are compared with each other.")
            _tell(files, subset_ops.compare(paths[0], paths[1]), json=json)
            return
        if out is None:
            raise SpecError(f"Say where the {what} goes with --out.")
        folder, name = until.place(out)
        with folder.writing(name) as path:
            rows, unique = subset_ops.combine(what, paths, path, as_sets=as_sets)
    if json:
        terminal.print_json({"out": out, "num_samples": rows, "num_unique": unique})
    else:
        terminal.out.print(f"{rows:,} samples, {unique:,} unique: [bold]{out}[/]")


@contextmanager
def local_files(files: list[str]) -> Generator[list[Path]]:
    """Local paths of the files; those in a bucket are fetched."""
    with scratch() as folder:
        paths: list[Path] = []
        for number, file in enumerate(files):
            where, name = until.place(file)
            if where.is_local:
                where.open(name).close()
                paths.append(where.path / name)
            else:
                paths.append(folder / f"{number}.npy")
                _fetch(where, name, paths[-1])
        yield paths


def _fetch(where: Folder, name: str, target: Path) -> None:
    with where.open(name) as source, target.open("wb") as file:
        while block := source.read(1 << 24):
            file.write(block)


def _tell(files: list[str], found: object, *, json: bool) -> None:
    from datacomp_core.filters.subset_ops import Compared

    assert isinstance(found, Compared)
    if json:
        terminal.print_json(found.model_dump())
        return
    rows = [
        ("rows", f"{found.total[0]:,}", f"{found.total[1]:,}"),
        ("unique", f"{found.unique[0]:,}", f"{found.unique[1]:,}"),
        ("shared, of unique", f"{found.shared:,}", f"{found.jaccard:.4f}"),
        ("shared, repeats counted", f"{found.shared_repeats:,}", f"{found.weighted_jaccard:.4f}"),
    ]
    terminal.table(f"{files[0]} and {files[1]}", ("what", "first, or number", "second, or Jaccard"), rows)
