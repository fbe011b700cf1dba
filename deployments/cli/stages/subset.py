"""`datacomp subset`: computes union, intersection, difference and sum of subset files, sorts and compares them. Repeats count."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from datacomp_core.errors import SpecError
from deployments.cli import options, terminal
from deployments.cli.stages import run_to_stage

if TYPE_CHECKING:
    from datacomp_core.subset_files import Overlap, SubsetFile

What = Literal["union", "intersection", "difference", "sum", "compare", "sort"]


def add_to(app: typer.Typer) -> None:
    app.command("subset", rich_help_panel="Stages")(subset)


def subset(
    what: Annotated[What, typer.Argument(help="union: the larger multiplicity; intersection: the smaller; and so on.")],
    files: Annotated[list[str], typer.Argument(help="Subset files, local or in a bucket.")],
    out: Annotated[str | None, typer.Option(help="The subset file to write.")] = None,
    as_sets: Annotated[bool, typer.Option("--as-sets", help="Count every uid once, however often it occurs.")] = False,
    json: options.Json = False,
) -> None:
    """Combine subset files, or compare two, in bounded memory.

    Examples:

      datacomp subset intersection image_based.npy clip_score.npy --out both.npy

      datacomp subset compare image_based.npy clip_score.npy

      datacomp subset sort unsorted.npy --out subset.npy
    """
    from datacomp_core import subset_files

    given = [subset_file(file) for file in files]
    if what == "compare":
        if len(given) != 2:
            raise SpecError("`datacomp subset compare` needs exactly two subset files: give two.")
        _tell(files, subset_files.overlap(given[0], given[1]), json=json)
        return
    if out is None:
        raise SpecError(f"The output file for the {what} is missing: give it with --out.")
    folder, name = run_to_stage.target(out)
    with folder.writing(name) as path:
        if what == "sort":
            rows, unique = _sorted(given, path)
        else:
            rows, unique = subset_files.combine(what, given, path, as_sets=as_sets)
    if json:
        terminal.print_json({"out": out, "num_samples": rows, "num_unique": unique})
    else:
        terminal.out.print(f"{rows:,} samples, {unique:,} unique: {terminal.bold(out)}")


def _sorted(given: list[SubsetFile], path: Path) -> tuple[int, int]:
    from datacomp_core.selection.sorting import sort_subset

    if len(given) != 1:
        raise SpecError("`datacomp subset sort` sorts one subset file at a time: use `datacomp subset sum` to add up several.")
    return sort_subset(given[0].folder, given[0].name, path)


def subset_file(path: str) -> SubsetFile:
    """Open a subset file given as one path or url."""
    from datacomp_core.subset_files import SubsetFile

    return SubsetFile(*run_to_stage.place(path))


def numbers(found: Overlap) -> dict[str, Any]:
    """Show in numbers what two subset files share."""
    shares = {"jaccard": found.jaccard, "weighted_jaccard": found.weighted_jaccard}
    return found.model_dump(exclude={"only_first", "only_second"}) | shares


def _tell(files: list[str], found: Overlap, *, json: bool) -> None:
    if json:
        terminal.print_json(numbers(found))
        return
    rows = [
        ("rows", f"{found.total[0]:,}", f"{found.total[1]:,}"),
        ("unique", f"{found.unique[0]:,}", f"{found.unique[1]:,}"),
        ("shared, of unique", f"{found.shared:,}", f"{found.jaccard:.4f}"),
        ("shared, repeats counted", f"{found.shared_repeats:,}", f"{found.weighted_jaccard:.4f}"),
    ]
    terminal.table(f"{files[0]} and {files[1]}", ("what", "first, or number", "second, or Jaccard"), rows)
