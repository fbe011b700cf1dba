"""The board of one scale: a row per method, its seeds merged to mean and spread, with verdicts that know the noise.

Rebuilt from the entries of a store at any time. Only rows of one suite and version that break no rule are ranked against each
other; a row that is not clearly different from the one that leads its group shares its rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

import numpy as np

from datacomp_core.artifacts import BoardEntry, Pool
from datacomp_core.input_classes import CLASSES
from datacomp_core.leaderboard.board import own_tasks
from datacomp_core.leaderboard.board.noise import SeedNoise
from datacomp_core.leaderboard.board.own_tasks import OwnOf, own_in
from datacomp_core.leaderboard.board.published_results import published, references
from datacomp_core.leaderboard.board.rows import Board, BoardColumn, BoardRow, BoardScore
from datacomp_core.leaderboard.board.stats import Images, Verdict, compare
from datacomp_core.leaderboard.entries import per_image_scores
from datacomp_core.leaderboard.entries.entry import Entry, read
from datacomp_core.leaderboard.entries.placement import TRACKS, claim_now
from datacomp_core.leaderboard.entries.provenance import data_of, seedless
from datacomp_core.leaderboard.entries.roles import Role, role
from datacomp_core.leaderboard.entries.rules import POOL_RULE
from datacomp_core.leaderboard.entries.variants import names
from datacomp_core.scales import SCALES
from datacomp_core.store import Store
from datacomp_core.store.fingerprint import fingerprint

PAPER_ROLES: dict[str, Role] = {"no_filter": "baseline", "random_50": "control"}
NOT_OURS = "Not our recipe: training or evaluation differs from the benchmark's fixed recipe."
SAME_COVERAGE = 0.01
"""Results whose coverage differs by more are compared with a note."""
ImagesOf = Callable[[BoardRow], Images]


def entries(store: Store, scale: str = "") -> list[tuple[str, Entry]]:
    """Address and content of every entry of a scale (or of all), in order of address."""
    found: list[tuple[str, Entry]] = []
    for record in store.records(BoardEntry.kind):
        if not store.missing(record):
            found.append((record.address, read(store, store.artifact(BoardEntry, record))))
    return [(address, _known_now(store, address, entry)) for address, entry in found if scale in ("", entry.scale)]


def _known_now(store: Store, address: str, entry: Entry) -> Entry:
    """Return the entry with what the store knows now about a pool that could not be compared with its scale before."""
    waiting = [check for check in entry.checks if check.rule == POOL_RULE and check.ok is not True]
    if not waiting or entry.submitted is not None:
        return entry
    told = claim_now(store, address, entry.chain, entry.inputs["shards"], entry.scale)
    checks = [
        check.model_copy(update={"ok": told.ok, "reason": told.reason}) if check in waiting else check for check in entry.checks
    ]
    return entry.model_copy(update={"checks": checks})


def scales(store: Store) -> list[str]:
    """The scales that have entries, smallest first."""
    there = {entry.scale for _, entry in entries(store)}
    return [name for name in SCALES if name in there] + sorted(there - set(SCALES))


def board(store: Store, scale: str) -> Board:
    """The board of a scale, from all its entries and the paper's rows."""
    return make_board(scale, entries(store, scale), images_in(store), own_in(store))


def images_in(store: Store) -> ImagesOf:
    """Return a function that gives the per-image scores of each run of a row. Each entry is read once."""

    @cache
    def of_entry(address: str) -> dict[str, per_image_scores.PerImageScores]:
        folder = data_of(store, address)
        return {} if folder is None else per_image_scores.read(folder)

    return lambda row: [of_entry(address) for address in row.entries]


def make_board(
    scale: str, found: Iterable[tuple[str, Entry]], images: ImagesOf = lambda row: (), own: OwnOf = lambda checkpoint: {}
) -> Board:
    """As `board`, from entries at hand."""
    found = list(found)
    groups: dict[str, list[tuple[str, Entry]]] = {}
    for address, entry in found:
        groups.setdefault(_key(entry), []).append((address, entry))
    rows = [_row(key, members) for key, members in groups.items()]
    for row, name in zip(rows, names([_newest(members) for members in groups.values()]), strict=True):
        row.method = " = ".join([name, *row.names[1:]])
    suite = _suite(scale, rows)
    ranked = sorted((row for row in rows if row.suite == suite and row.average), key=_by_average)
    noise = SeedNoise((row.by, row.average.values) for row in ranked if row.average)
    columns = _columns([entry for _, entry in found if _suite_of(entry) == suite])
    beside = _set_own(rows, dict(found), own)
    judge = _Judge(columns, noise, images)
    judge.set_verdicts(ranked)
    for track in TRACKS:
        judge.set_ranks([row for row in ranked if row.track == track])
    unranked = [row for row in rows if not any(row is other for other in ranked)]
    ordered = sorted([*ranked, *_reference_rows(scale)], key=lambda row: (TRACKS.index(row.track), *_by_average(row)))
    return Board(
        scale=scale,
        suite=suite,
        columns=[*(columns or _reference_columns(scale)), *beside],
        rows=ordered + sorted(unranked, key=lambda row: (TRACKS.index(row.track), row.method)),
        noise=noise.deviation(),
        noise_senders=noise.num_senders,
    )


def _key(entry: Entry) -> str:
    """Same for what is one row: runs that differ in their seeds alone; where senders share a board, of one sender's attempt."""
    sent = entry.submitted
    return entry.same_but_for_seeds if sent is None else fingerprint([entry.same_but_for_seeds, sent.by, sent.attempt])


def _suite_of(entry: Entry) -> str:
    return f"{entry.suite} v{entry.suite_version}"


def _by_average(row: BoardRow) -> tuple[bool, float, str]:
    return (not row.our_recipe, -row.average.mean if row.average else 0.0, row.method)


def _suite(scale: str, rows: Sequence[BoardRow]) -> str:
    """The suite that ranks: the scale's own in its newest version, else the suite of the latest entry."""
    own = SCALES[scale].suite if scale in SCALES else ""
    mine = [row for row in rows if row.suite.rpartition(" v")[0] == own]
    if mine:
        return max(mine, key=lambda row: int(row.suite.rpartition(" v")[2])).suite
    return max(rows, key=lambda row: row.date).suite if rows else own


def _row(key: str, members: list[tuple[str, Entry]]) -> BoardRow:
    kept = _latest(members)
    several = [entry for _, entry in kept]
    first = several[-1]
    repeats = _mean([entry.samples_seen / entry.size.trained_on for entry in several if entry.size.trained_on])
    amounts = {
        "repeats": repeats,
        "arrived": _mean([entry.size.trained_on / entry.size.total for entry in several if entry.size.total]),
        "pool": _mean([entry.size.pool for entry in several]),
        "seconds": _mean([entry.cost.seconds for entry in several]),
        "gpu_hours": _mean([entry.cost.gpu_hours for entry in several]),
        "num_bytes": _mean([entry.cost.num_bytes for entry in several]),
    }
    claimed = {name: value for name, value in amounts.items() if value is not None} if first.submitted else {}
    known: dict[str, Any] = dict.fromkeys(amounts) if first.submitted else amounts
    return BoardRow(
        key=key[:12],
        kind="run",
        method=first.method,
        names=list(dict.fromkeys([first.method, *(entry.method for _, entry in members)])),
        recipe=first.recipe,
        track=first.track,
        suite=_suite_of(first),
        setting=setting_of(first),
        role=role(first),
        num_seeds=len(several),
        seeds=[entry.seeds for entry in several],
        size=float(np.mean([entry.size.total for entry in several])),
        unique=float(np.mean([entry.size.unique for entry in several])),
        **known,
        claimed=claimed,
        by=first.submitted.by if first.submitted else "",
        evaluated_again=bool(first.submitted) and all(e.submitted is not None and e.submitted.evaluated_again for e in several),
        pools=sorted({entry.realised_pool.content[:12] for entry in several if entry.realised_pool}),
        scores=_scores(several),
        date=max(entry.date for entry in several),
        since=min(entry.date for entry in several),
        breaches=sorted({f"{check.rule}: {check.reason}" for e in several for check in e.checks if check.ok is False}),
        **_inputs(several),
        unverified=sorted({check.reason for e in several for check in e.checks if check.rule == POOL_RULE and check.ok is None}),
        entries=[address for address, _ in kept],
        superseded=len(members) - len(kept),
    )


def _inputs(several: Sequence[Entry]) -> dict[str, Any]:
    """The widest class of a row's entries; None where an older one does not state it."""
    classes = [entry.input_class for entry in several if entry.input_class is not None]
    if len(classes) < len(several):
        return {}
    widest = max(classes, key=lambda found: CLASSES.index(found.of))
    why = [why for found in classes for why in found.why]
    return {"inputs": widest.of, "inputs_claimed": widest.claimed, "inputs_why": list(dict.fromkeys(why))}


def setting_of(entry: Entry) -> str:
    """Hash of all but the filter that could move a score, seeds aside: pool, captions, download, training, evaluation."""
    used = {entry.inputs["checkpoint"], entry.inputs["report"]}
    used |= {entry.realised_pool.address} if entry.realised_pool else set()
    links = [link for link in entry.chain if link.address in used or link.kind == Pool.kind]
    found = sorted(fingerprint([link.kind, link.version, seedless(link.meaning)]) for link in links)
    if entry.captions is not None:  # the sets are not the same where a filter had them scored
        found += [*entry.captions.policies, *entry.captions.models]
    return fingerprint(found)


def _newest(members: list[tuple[str, Entry]]) -> Entry:
    """The entry that gives a row its name: the one that `_row` shows first."""
    return _latest(members)[-1][1]


def _latest(members: list[tuple[str, Entry]]) -> list[tuple[str, Entry]]:
    """Of the entries of a row the latest of each choice of seeds, in order of seeds."""
    latest: dict[tuple[tuple[str, int], ...], tuple[str, Entry]] = {}
    for address, entry in sorted(members, key=lambda member: (member[1].date, member[1].format)):
        latest[tuple(sorted(entry.seeds.items()))] = (address, entry)
    return [latest[seeds] for seeds in sorted(latest)]


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


def _score(values: Sequence[float | None]) -> BoardScore | None:
    """None unless every seed has the value: a mean over some of the seeds would compare unlike with like."""
    there = [value for value in values if value is not None]
    if not there or len(there) < len(values):
        return None
    return BoardScore(mean=float(np.mean(there)), std=float(np.std(there, ddof=1)) if len(there) > 1 else None, values=there)


def _scores(several: list[Entry]) -> dict[str, BoardScore]:
    cells = {"average": _score([entry.average for entry in several])}
    for group in several[0].groups:
        cells[f"group:{group}"] = _score([entry.groups.get(group) for entry in several])
    for task in several[0].tasks:
        values = [next((t.value for t in entry.tasks if t.key == task.key), None) for entry in several]
        cells[f"task:{task.key}"] = _score(values)
    return {key: score for key, score in cells.items() if score is not None}


def _columns(several: list[Entry]) -> list[BoardColumn]:
    if not several:
        return []
    columns = {"average": BoardColumn(key="average", title="Average", level="average")}
    for entry in several:
        for group in entry.groups:
            key = f"group:{group}"
            columns.setdefault(key, BoardColumn(key=key, title=group, level="group"))
    for entry in several:
        for task in entry.tasks:
            key = f"task:{task.key}"
            if not task.metric:  # reported, but without a main metric: FairFace and UTKFace
                continue
            columns.setdefault(key, BoardColumn(key=key, title=task.name, level="task", metric=task.metric, scored=task.scored))
    return list(columns.values())


def _set_own(rows: Sequence[BoardRow], found: Mapping[str, Entry], own: OwnOf) -> list[BoardColumn]:
    """Give each row its scores on own tasks; return their columns. A row without one of the scores has no average."""
    scores = {row.key: [own(found[address].inputs["checkpoint"]) for address in row.entries] for row in rows}
    columns = own_tasks.columns(chain.from_iterable(scores.values()))
    for row in rows:
        cells = {column.key: _score([own_tasks.value_of(one, column, columns) for one in scores[row.key]]) for column in columns}
        row.scores |= {key: cell for key, cell in cells.items() if cell is not None}
    return columns


class _Judge:
    """Compares rows of one board, with its noise and the test images of its runs."""

    def __init__(self, columns: Sequence[BoardColumn], noise: SeedNoise, images: ImagesOf) -> None:
        self.tasks = [column.key for column in columns if column.level == "task" and column.scored]
        self.noise, self.images = noise, images

    def against(self, row: BoardRow, other: BoardRow) -> Verdict | None:
        ours, theirs = [{key: side.scores[key].values for key in self.tasks if key in side.scores} for side in (row, other)]
        images = [_by_column(self.images(side)) for side in (row, other)]
        borrowed = (self.noise.borrowed_by(row.by), self.noise.borrowed_by(other.by))
        verdict = compare(ours, theirs, other.method, other.key, borrowed, (images[0], images[1]))
        if verdict is None:
            return None
        notes = _realised_notes(row, other)
        (came, said), (theirs_came, theirs_said) = row.coverage, other.coverage
        if came is not None and theirs_came is not None and abs(came - theirs_came) > SAME_COVERAGE:
            notes.append(f"{came:.1%} of its pairs arrived{said}, {theirs_came:.1%} of the other's{theirs_said}")
        return verdict.model_copy(update={"basis": "; ".join([verdict.basis, *notes])}) if notes else verdict

    def set_verdicts(self, ranked: list[BoardRow]) -> None:
        """Each row against the unfiltered pool and the random subset nearest in size, of the same setting.

        If senders share a board, a sender's own rows are preferred, then rows that the board evaluated itself; among rows of
        several other senders, the oldest. So no sender chooses the row that another sender's row is compared with.
        """
        for row in ranked:
            alike = [other for other in ranked if (other.setting, other.track) == (row.setting, row.track)]
            fair = sorted((other for other in alike if other is not row), key=lambda other: _choice(row, other))
            plain = next((other for other in fair if other.role == "baseline"), None)
            if plain is not None and row.role != "baseline":
                row.baseline = self.against(row, plain)
            controls = [other for other in fair if other.role == "control"]
            nearest = min(controls, key=lambda other: _choice(row, other, abs(_size(other) - _size(row))), default=None)
            if nearest is not None and row.role != "control":
                row.control, row.control_size = self.against(row, nearest), nearest.size

    def set_ranks(self, ranked: list[BoardRow]) -> None:
        """1, 1, 3, ...: a row tied with the leader of the group above it shares the leader's rank."""
        leader: BoardRow | None = None
        for position, row in enumerate((row for row in ranked if not row.breaches + row.unverified), 1):
            verdict = None if leader is None else self.against(row, leader)
            if leader is not None and verdict is not None and verdict.outcome == "tied":
                row.rank, row.tied, leader.tied = leader.rank, True, True
            else:
                row.rank, leader = position, row


def _distance(row: BoardRow, other: BoardRow) -> int:
    """0 for rows of one sender (or of none), 1 for those that the board made or evaluated itself, 2 for the word of another."""
    return 0 if other.by == row.by else 1 if not other.by or other.evaluated_again else 2


def _choice(row: BoardRow, other: BoardRow, apart: float = 0.0) -> tuple[int, float, str]:
    """The order in which a row chooses what it is judged by; `apart` is how far the other's size is from its own."""
    return _distance(row, other), apart, "" if other.by == row.by else other.since


def _realised_notes(row: BoardRow, other: BoardRow) -> list[str]:
    """Whether both used the same downloads; a row that was sent to a board only says which it used."""
    claimed = " (claimed: a bundle cannot prove what arrived)" if row.by or other.by else ""
    if row.pools != other.pools:
        return [f"not on the same realised pools{claimed}"]
    return [f"on the same realised pools{claimed}"] if claimed and row.pools else []


def _size(row: BoardRow) -> float:
    return row.size or 0.0


def _by_column(images: Images) -> Images:
    return [{f"task:{task}": found for task, found in run.items()} for run in images]


def _reference_rows(scale: str) -> list[BoardRow]:
    """Published results: never ranked, and those of another training recipe behind the others."""
    return [
        BoardRow(
            key=f"paper-{scale}-{reference.recipe}" if number < len(references(scale)) else f"published-{scale}-{number}",
            kind="reference",
            method=reference.method,
            recipe=reference.recipe,
            track=reference.track,
            suite=reference.suite,
            role=PAPER_ROLES.get(reference.recipe, "method"),
            num_seeds=1,
            seeds=[],
            size=reference.size,
            unique=reference.size,
            inputs=reference.inputs,
            our_recipe=reference.our_recipe,
            scores={
                **({} if reference.average is None else {"average": BoardScore(mean=reference.average)}),
                **{f"group:{group}": BoardScore(mean=value) for group, value in reference.scores.items()},
            },
            note=" ".join(filter(None, (f"{reference.source}.", "" if reference.our_recipe else NOT_OURS, reference.note))),
        )
        for number, reference in enumerate([*references(scale), *published(scale)])
    ]


def _reference_columns(scale: str) -> list[BoardColumn]:
    found = references(scale)
    if not found:
        return []
    groups = [BoardColumn(key=f"group:{g}", title=g, level="group") for g in found[0].scores]
    return [BoardColumn(key="average", title="Average", level="average"), *groups]
