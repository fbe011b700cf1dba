"""`datacomp compare`: methods side by side, from their scores to the words of their captions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from datacomp_core.settings import settings
from datacomp_core.store import Store
from deployments.cli import options, terminal

if TYPE_CHECKING:
    from datacomp_core.leaderboard.board.compare import Comparison, SubsetDifference
    from datacomp_core.leaderboard.board.composition import Composition, ValueShare
    from datacomp_core.leaderboard.board.stats import Interval, Verdict

SHOWN = 8


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel="Results")(compare)


def compare(
    methods: Annotated[list[str], typer.Argument(help="Two or more: names on the board, addresses or fingerprints of entries.")],
    scale: options.Scale = "tiny",
    track: options.Track = "",
    json: options.Json = False,
) -> None:
    """Compare methods: scores by task, verdicts, overlap of their subsets, and the composition of what only one kept. The
    first method is the baseline. If a method's name occurs in both tracks, add --track or use its key.

        Examples:

          datacomp compare no_filter clip_score_tiny

          datacomp compare no_filter clip_score_tiny --track byod
    """
    from datacomp_core.leaderboard.board.compare import compare_methods, contenders
    from datacomp_core.scales import scale as known_scale

    store = Store.open(settings().store_url)
    chosen = contenders(store, known_scale(scale).name, methods, track)
    made = compare_methods(store, chosen)
    if len({one.row.track for one in chosen}) > 1:
        told = ", ".join(f"{one.name} ({one.row.track})" for one in chosen)
        terminal.notes.print(f"Note: these methods are in different tracks, which are ranked separately: {told}.", markup=False)
    if json:
        terminal.print_json(made.model_dump(mode="json"))
        return
    _scores(made)
    for difference in made.differences:
        _difference(difference)
    if made.makeup is not None:
        _makeup(made.makeup)


def _scores(made: Comparison) -> None:
    rows = [(line.name, *[f"{100 * value:.1f}" for value in line.values], _points(line.difference)) for line in made.tasks]
    rows.append(("[bold]Average[/]", *["" if a is None else f"[bold]{100 * a:.1f}[/]" for a in made.averages], ""))
    columns = ("task", *made.names, f"{made.names[-1]} less {made.names[0]}")
    terminal.table("Scores, %", columns, rows, right=columns[1:])
    for name, verdict in zip(made.names[1:], made.verdicts, strict=True):
        terminal.out.print(f"[bold]{name}[/]: {_said(verdict)}")


def _said(verdict: Verdict | None) -> str:
    if verdict is None:
        return "no verdict: fewer than two tasks in common"
    spans = {"tasks": verdict.over_tasks, "seeds": verdict.over_seeds, "images": verdict.over_images}
    told = ", ".join(f"over {name} {_span(interval)}" for name, interval in spans.items() if interval is not None)
    word = "with" if verdict.outcome == "tied" else "than"
    return (
        f"{verdict.outcome} {word} {verdict.against} ({_points(verdict.difference)} points; 95 % {told}). Basis: {verdict.basis}."
    )


def _span(interval: Interval) -> str:
    return f"{_points(interval.low)} to {_points(interval.high)}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _difference(found: SubsetDifference) -> None:
    both, one, two = found.overlap, found.first, found.second
    rows = [
        ("pairs", f"{both.total[0]:,}", f"{both.total[1]:,}"),
        ("distinct", f"{both.unique[0]:,}", f"{both.unique[1]:,}"),
        ("in the other too", f"{both.containment[0]:.1%}", f"{both.containment[1]:.1%}"),
        ("most repeated", f"{both.largest[0]:,}", f"{both.largest[1]:,}"),
    ]
    title = f"{one} and {two}: Jaccard {both.jaccard:.3f}, over repeats {both.weighted_jaccard:.3f}"
    terminal.table(title, ("", one, two), rows, right=(one, two))
    for name, other, pairs in ((one, two, found.only_first), (two, one, found.only_second)):
        if pairs:
            terminal.out.print(f"[bold]Kept by {name}, dropped by {other}[/]")
        for pair in pairs[:SHOWN]:
            terminal.out.print(f"  {pair.uid[:8]}  {(pair.text or '')[:100]}", markup=False)
    for name, side in ((one, [w for w in found.words if w.log_odds > 0]), (two, [w for w in found.words if w.log_odds < 0])):
        if side:
            terminal.out.print(f"[bold]Words that {name} prefers:[/] {', '.join(word.value for word in side)}")


def _makeup(made: Composition) -> None:
    names = [group.name for group in made.groups]
    rows = [("sampled rows", *[f"{group.num_rows:,}" for group in made.groups])]
    for key in made.edges:
        spans = [{**group.measures, **group.scores}.get(key) for group in made.groups]
        rows.append((key, *["" if q is None else f"{q.low:.3g} · {q.median:.3g} · {q.high:.3g}" for q in spans]))
    rows += [
        (title, *[_shares(getattr(group, field)) for group in made.groups])
        for title, field in (("languages", "languages"), ("hosts", "hosts"), ("words", "words"))
    ]
    title = f"Composition of {made.num_sampled:,} sampled rows of {made.num_pool:,} (10 % · median · 90 %)"
    terminal.table(title, ("", *names), rows)


def _shares(shares: list[ValueShare]) -> str:
    return ", ".join(f"{share.value} {share.share:.0%}" for share in shares[:4])
