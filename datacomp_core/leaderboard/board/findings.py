"""The board in words: what won, by how much and how surely, and what did not help. Sentences come from verdicts alone.

A difference is called one only where the verdict says so; with a single seed the text says that the noise is unknown.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from datacomp_core.leaderboard.board.rows import Board, BoardRow
from datacomp_core.leaderboard.board.stats import Interval, Verdict, seed_interval


class Stat(BaseModel):
    """One number to see first."""

    value: str
    label: str
    detail: str = ""


class Finding(BaseModel):
    """The headline, one or two sentences under it, and three numbers."""

    title: str
    lead: list[str]
    stats: list[Stat] = Field(default_factory=list[Stat])


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}\u202f%"


def points(value: float, digits: int = 1) -> str:
    """A difference in percentage points, with its sign."""
    return f"{100 * value:+.{digits}f}".replace("-", "−")


def span(interval: Interval) -> str:
    return f"{points(interval.low)} to {points(interval.high)}"


def best(board: Board) -> BoardRow | None:
    """The leading run of the board's first track that breaks no rule; else the leading run."""
    runs = [row for row in board.leading().runs() if row.average is not None]
    return next((row for row in runs if not row.breaches + row.unverified), runs[0] if runs else None)


def baseline(board: Board) -> BoardRow | None:
    """The row that the best verdict is against."""
    key = next((row.baseline.against_row for row in board.leading().runs() if row.baseline is not None), "")
    return board.row(key)


def finding(board: Board) -> Finding:
    """The headline of a board."""
    winner = best(board)
    if winner is None or winner.average is None:
        return Finding(title=f"No result yet at scale {board.scale}", lead=["Run an experiment to fill this page."])
    stats = [Stat(value=percent(winner.average.mean), label=f"{winner.method}, average", detail=_spread(winner))]
    stats += [stat for stat in (_gain(winner.baseline, "no filter"), _gain(winner.control, "a random subset")) if stat]
    return Finding(title=_title(board, winner), lead=_lead(board, winner), stats=stats)


def _spread(row: BoardRow) -> str:
    if row.average is None or row.average.std is None:
        return "one seed"
    return f"± {100 * row.average.std:.1f} over {row.num_seeds} seeds"


def _gain(verdict: Verdict | None, what: str) -> Stat | None:
    if verdict is None:
        return None
    detail = "seed noise unknown" if verdict.over_seeds is None else f"95\u202f% interval {span(verdict.over_seeds)}"
    return Stat(value=f"{points(verdict.difference)}", label=f"points over {what}: {verdict.outcome}", detail=detail)


def _title(board: Board, winner: BoardRow) -> str:
    assert winner.average is not None
    if winner.breaches + winner.unverified:
        why = "breaks a rule of its track" if winner.breaches else "is not verified"
        return f"No result is ranked yet: {winner.method} ({percent(winner.average.mean)}) {why}"
    against = winner.baseline
    plain = baseline(board) if against is None else board.row(against.against_row)
    if plain is winner:
        return f"No filter beats the unfiltered pool: it leads with {percent(winner.average.mean)}"
    if against is None or plain is None or plain.average is None:
        return f"{winner.method} reaches {percent(winner.average.mean)}"
    if against.outcome == "better":
        return f"{winner.method} beats the unfiltered pool: {percent(winner.average.mean)} against {percent(plain.average.mean)}"
    return f"None of the filters clearly beats the unfiltered pool ({percent(plain.average.mean)})"


def _lead(board: Board, winner: BoardRow) -> list[str]:
    lead: list[str] = []
    share = f" ({100 * winner.size / winner.pool:.0f}\u202f% of the pool)" if winner.pool and winner.size else ""
    verdict = winner.baseline
    if verdict is not None:
        seeds = f"{winner.num_seeds} seeds" if winner.num_seeds > 1 else "one seed"
        text = f"Trained on {winner.size:,.0f} pairs{share}, {seeds}: {points(verdict.difference)} points"
        if verdict.over_seeds is not None:
            text += f" (95\u202f% interval {span(verdict.over_seeds)} over seeds, {span(verdict.over_tasks)} over tasks)"
        else:
            text += f" ({span(verdict.over_tasks)} over tasks; with one seed the noise of training is unknown)"
        lead.append(text + ".")
    control = winner.control
    if control is not None and winner.control_size is not None and winner.size:
        size = "the same size" if abs(winner.control_size / winner.size - 1) < 0.1 else f"{winner.control_size:,.0f} pairs"
        lead.append(
            f"It is not just that less data is repeated more often: against a random subset of {size} it is "
            f"{control.outcome}, by {points(control.difference)} points."
            if control.outcome == "better"
            else f"But against a random subset of {size} it is {control.outcome} ({points(control.difference)} points)."
        )
    ties = [
        row.method for row in board.leading().runs() if row is not winner and row.rank == winner.rank and row.rank is not None
    ]
    if ties:
        lead.append(f"Tied with it, since the difference could be noise: {', '.join(ties)}.")
    return lead


def not_helping(board: Board) -> list[str]:
    """Return what did not help, a sentence each: methods no better than no filter, tasks that the best one did not move."""
    found: list[str] = []
    for row in board.leading().runs():
        verdict = row.baseline
        if verdict is not None and verdict.outcome != "better":
            interval = verdict.over_seeds or verdict.over_tasks
            word = "is not clearly different from" if verdict.outcome == "tied" else "is worse than"
            found.append(f"{row.method} {word} no filter: {points(verdict.difference)} points (95\u202f% {span(interval)}).")
    winner, plain = best(board), baseline(board)
    if winner is None or plain is None or winner is plain:
        return found
    by_outcome: dict[str, list[str]] = {"tied": [], "worse": [], "": []}
    for column in board.columns:
        if column.level != "task" or column.key not in winner.scores or column.key not in plain.scores:
            continue
        difference = winner.scores[column.key].mean - plain.scores[column.key].mean
        outcome = task_outcome(winner, plain, column.key)
        if outcome in ("tied", "worse") or (not outcome and difference <= 0):
            by_outcome[outcome].append(f"{column.title} ({points(difference)})")
    said = {
        "tied": "{} made no clear difference on {}.",
        "worse": "{} is worse than no filter on {}.",
        "": "{} is no better than no filter on {}; with one seed each this may be noise.",
    }
    return found + [said[outcome].format(winner.method, ", ".join(tasks)) for outcome, tasks in by_outcome.items() if tasks]


def task_outcome(row: BoardRow, against: BoardRow, column: str) -> str:
    """better, worse or tied on one task, by Welch's interval over seeds; empty where one seed leaves the noise unknown."""
    ours, theirs = row.scores.get(column), against.scores.get(column)
    if ours is None or theirs is None or row is against:
        return ""
    interval = seed_interval(ours.values, theirs.values)
    if interval is None:
        return ""
    return "tied" if not interval.excludes_zero else "better" if interval.low > 0 else "worse"


def largest_change(board: Board) -> float:
    """The largest difference of any method to the baseline on any task: where the colours of the task table end."""
    plain = baseline(board)
    if plain is None:
        return 1.0
    changes = [
        abs(row.scores[column.key].mean - plain.scores[column.key].mean)
        for row in board.runs()
        for column in board.columns
        if column.level == "task" and column.key in row.scores and column.key in plain.scores
    ]
    return max(changes, default=1.0) or 1.0
