"""An entry made again from a bundle's lowest evidence: its records, predictions and uids.

What is published is what comes out here, never what the bundle says of itself; what it says must be equal or it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datacomp_core import recomputed_scores
from datacomp_core.arrays import read_npz
from datacomp_core.artifacts import Checkpoint, EvalReport, ShardSet, Spec, Subset
from datacomp_core.errors import DataError
from datacomp_core.leaderboard.entries import per_image_scores
from datacomp_core.leaderboard.entries.data_check import DataCheck
from datacomp_core.leaderboard.entries.entry import Entry, EntryTask, Size
from datacomp_core.leaderboard.entries.make_entry import OWN_WORD, EntrySpec, chain_of, compose
from datacomp_core.leaderboard.entries.recorded_call import RecordedCall
from datacomp_core.leaderboard.submission import bundle as names
from datacomp_core.leaderboard.submission.unpack import results
from datacomp_core.recomputed_scores import RecomputedScores
from datacomp_core.store import Store
from datacomp_core.store.record import Record
from datacomp_core.subset_files import SUBSET
from datacomp_core.uid import num_unique, open_subset
from datacomp_core.untrusted_documents import parse_json

TOLERANCE = 1e-6
MAX_PREDICTIONS = 256 << 20
"""Bytes of one task's predictions when decoded; the largest of DataComp's has 4 million."""
Made = tuple[EvalReport, Checkpoint, Subset, ShardSet]
FROM_SPEC = ("seed", "samples_seen", "steps", "suite", "suite_version", "recipe")


@dataclass(frozen=True)
class RecomputedEntry:
    """The entry recomputed from the predictions, and the score of every test image."""

    entry: Entry
    hits: dict[str, per_image_scores.PerImageScores]


def rescored(folder: Path) -> RecomputedScores:
    """The scores from the bundle's predictions. DataError if they are not there or make no sense."""
    compute = recomputed_scores.registered()
    if compute is None:
        raise DataError("The evaluation's code is not loaded: cannot compute scores again.")
    return compute((folder / names.REPORT).read_bytes(), lambda key: predictions(folder, key))


def predictions(folder: Path, key: str) -> dict[str, Any] | None:
    """The arrays that were kept of a task; None if the bundle has none."""
    file = folder / per_image_scores.prediction_file(key)
    return read_npz(file, per_image_scores.prediction_file(key), max_bytes=MAX_PREDICTIONS) if file.is_file() else None


def count_subset(folder: Path) -> tuple[int, int]:
    """Rows of the bundle's subset, and distinct uids."""
    uids = open_subset(folder / names.SAMPLES / SUBSET)
    return len(uids), num_unique(uids)


def prove(store: Store, folder: Path, spec: EntrySpec, made: Made, scores: RecomputedScores) -> RecomputedEntry:
    """Make the entry again. `store` has the bundle's records, `made` the four artifacts that its record was made from."""
    reported = [score for score in scores.tasks if score.in_report]
    tasks = [EntryTask(key=s.key, name=s.name, metric=s.metric, scored=s.scored, value=s.value) for s in reported]
    entry = compose(
        spec,
        made,
        chain_of(store, [artifact.address for artifact in made]),
        tasks,
        average=scores.average,
        groups=scores.groups,
        found=DataCheck(),
        record=store.record,
        said=lambda address, name: _said(folder, made, address, name),
    )
    found = {
        task.key: one
        for task in tasks
        if task.value is not None
        and (one := _hits(folder, task)) is not None
        and abs(one.score() - task.value) < per_image_scores.TOLERANCE
    }
    return RecomputedEntry(entry, found)


def _said(folder: Path, made: Made, address: str, name: str) -> dict[str, Any]:
    """Return the machine that the entry's own training and report state; the bundle has no such file for other steps."""
    files = {made[0].address: names.REPORT, made[1].address: names.TRAINING}
    file = folder / files.get(address, "")
    found = parse_json(file.read_bytes(), name) if address in files and file.is_file() and name in OWN_WORD.values() else {}
    return found if isinstance(found, dict) else {}


def _hits(folder: Path, task: EntryTask) -> per_image_scores.PerImageScores | None:
    kept = predictions(folder, task.key)
    found = None if kept is None else per_image_scores.of_predictions(task.metric, kept)
    return found if found is not None and len(found.values) else None


# What the bundle says beside that -----------------------------------------------------------------------------------


def score_differences(folder: Path, claimed: Entry, scores: RecomputedScores) -> Iterator[str]:
    """Where entry and results in the original's form have other scores, tasks, metrics or flags than the predictions give."""
    known = {score.key: score for score in scores.tasks}
    if len({task.key for task in claimed.tasks}) != len(claimed.tasks):
        yield "the entry has a task twice"
    left_out = [score.key for score in scores.tasks if score.in_report and score.key not in {task.key for task in claimed.tasks}]
    if left_out:
        yield f"the entry leaves out {', '.join(left_out[:3])}"
    for task in claimed.tasks:
        score = known.get(task.key)
        if score is None:
            if task.scored:
                yield f"the entry counts {task.key[:60]}, which is not a task of the suite {scores.suite}"
            elif task.key not in scores.outside or not close(task.value, scores.outside[task.key]):
                yield f"the entry does not have the score of {task.key[:60]} that its report has"
            continue
        if (task.name, task.metric, task.scored) != (score.name, score.metric, score.scored):
            yield f"the entry has another name, metric or flag of {task.key}"
        if not close(task.value, score.value):
            yield f"the entry has {task.value} for {task.key}, and its predictions give {score.value}"
    given = results((folder / names.RESULTS).read_bytes())
    for score in scores.tasks:
        if not close(given.get(score.key), score.value):
            yield f"results.jsonl has {given.get(score.key)} for {score.key}, and its predictions give {score.value}"
    if not close(claimed.average, scores.average):
        yield f"the entry has the average {claimed.average}, and its predictions give {scores.average}"
    if claimed.groups.keys() != scores.groups.keys() or any(
        not close(claimed.groups[g], scores.groups[g]) for g in scores.groups
    ):
        yield "the entry has other averages of groups than its predictions give"


def entry_differences(claimed: Entry, proved: Entry) -> Iterator[str]:
    """Where an entry says something else than what it was made from; scores and rules are compared elsewhere."""
    apart = {"tasks", "average", "groups", "checks", "submitted"}
    said, known = (entry.model_dump(mode="json", exclude=apart) for entry in (claimed, proved))
    for name, value in known.items():
        if said[name] != value:
            yield f"{name} {_short(said[name])} instead of {_short(value)}"
    if claimed.submitted is not None:
        yield "who submitted it, which is the board's to say"
    rules = [check.rule for check in proved.checks]
    if [check.rule for check in claimed.checks] != rules:
        yield f"other rules than {', '.join(rules)}"
    for check in claimed.checks:
        if check.ok is False:
            yield f"itself that it breaks the rule {check.rule!r}: {check.reason[:200]}"


def artifact_differences(record: Record, call: RecordedCall | None) -> Iterator[str]:
    """Where a record's artifact says something else than the specs that it was made from."""
    for spec in [] if call is None else [value for value in call.identity if isinstance(value, Spec)]:
        for name in FROM_SPEC:
            asked = getattr(spec, name, None)
            if isinstance(asked, (int, str)) and name in record.artifact and record.artifact[name] != asked:
                yield f"{record.address} has the {name} {_short(record.artifact[name])}, and was made with {asked!r}"
        model = getattr(getattr(spec, "recipe", None), "model", None)
        if model is not None and record.artifact.get("model", model) != model:
            yield f"{record.address} has the model {_short(record.artifact['model'])}, and was made with {model!r}"


def amounts_differ(size: Size, made: Made, board: Mapping[str, Any], proved: Entry, uids: tuple[int, int]) -> Iterator[str]:
    """Counts of uids, and what the entry's own record says of it."""
    subset = made[2]
    if uids != (size.total, size.unique) or uids != (subset.num_samples, subset.num_unique):
        yield f"{uids[0]:,} uids, {uids[1]:,} distinct, and says {size.total:,} and {size.unique:,}"
    if made[3].num_samples > subset.num_samples or made[3].num_samples < 0:
        yield f"{made[3].num_samples:,} pairs trained on, and {subset.num_samples:,} chosen"
    if not close(made[0].average, proved.average):
        yield f"a record of the report with the average {made[0].average}, and its predictions give {proved.average}"
    wanted = {"recipe": proved.method, "seed": made[1].seed, "scale": proved.scale}
    for name, value in wanted.items():
        if board.get(name) != value:
            yield f"a record with the {name} {_short(board.get(name))} instead of {value!r}"
    if not close(board.get("average"), proved.average):
        yield f"a record with the average {board.get('average')}, and its predictions give {proved.average}"


def hits_differ(folder: Path, known: Mapping[str, per_image_scores.PerImageScores]) -> bool:
    """Return whether the bundle's `hits.npz` differs from the one that its predictions give."""
    file = folder / per_image_scores.HITS
    if not file.is_file():
        return False
    said = per_image_scores.of_arrays(read_npz(file, per_image_scores.HITS, max_bytes=MAX_PREDICTIONS))
    return not all(key in known and _same(said[key], known[key]) for key in said)


def _same(one: per_image_scores.PerImageScores, other: per_image_scores.PerImageScores) -> bool:
    return (
        one.pairs_with(other) and len(one.values) == len(other.values) and bool(abs(one.values - other.values).max() < TOLERANCE)
    )


def close(one: Any, other: Any) -> bool:
    """Equal up to `TOLERANCE`, or both None."""
    if one is None or other is None:
        return one is None and other is None
    if isinstance(one, bool) or not isinstance(one, (int, float)):
        return False
    return math.isfinite(one) and abs(one - other) <= TOLERANCE


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
