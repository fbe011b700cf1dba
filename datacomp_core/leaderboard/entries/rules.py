"""The rules of the competition, checked on the records: what a result must fulfil to be ranked.

Each rule gives its verdict and its reason in one sentence; a breach is shown on the board, never hidden. What cannot be
checked from the records says so.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from datacomp_core.artifacts import Checkpoint, EvalReport, HoldoutCount, ShardSet, Subset
from datacomp_core.leaderboard.entries.data_check import DataCheck
from datacomp_core.leaderboard.entries.placement import compute_scale, pool_claim
from datacomp_core.leaderboard.entries.provenance import ProvenanceLink, of_kind
from datacomp_core.scales import CUSTOM, RANKED_DECODINGS, SCALES, Scale

# open_clip rounds steps per epoch up to a multiple of the loader's workers: at most 1.4 % more samples at `small`.
ROUNDING = 0.02
POOL_RULE = "pool of the scale"
EXACT_EVALUATION = {"precision": "reference", "compile": "no", "decoding": "full", "expected": "catalog"}
"""The fields of an evaluation's spec that change scores or what they are of, as a ranked result must have them."""
LISTED_UNIQUE, NOT_IN_POOL = "unique, of the lists", "not_in_pool, of the lists"
"""Counts of a subset that was chosen by a list of uids (selection/select.py)."""


class RuleCheck(BaseModel):
    """`ok` is None where the records cannot tell."""

    model_config = ConfigDict(frozen=True)
    rule: str
    ok: bool | None
    reason: str


def check(
    track: str,
    chain: list[ProvenanceLink],
    found: DataCheck,
    report: EvalReport,
    checkpoint: Checkpoint,
    subset: Subset,
    shards: ShardSet,
    captions: str = "",
) -> list[RuleCheck]:
    """Return all rules of a track, in reading order. `found` is the check of the data, `captions` that of the captions."""
    scale = compute_scale(chain, checkpoint)
    of_track = (
        [_own_pool(chain, found, shards.address, scale), _one_pool(chain, subset, found), _captions(found)]
        if track == "filtering"
        else [_decontaminated(chain), *([RuleCheck(rule="captions stated", ok=True, reason=captions)] if captions else [])]
    )
    return [
        _one_chain(chain, report, checkpoint, subset, shards),
        *of_track,
        training(chain, checkpoint),
        _samples_seen(chain, checkpoint),
        _learnt(checkpoint),
        evaluation(report, scale, chain),
        _intact(chain),
    ]


def _one_chain(
    chain: list[ProvenanceLink], report: EvalReport, checkpoint: Checkpoint, subset: Subset, shards: ShardSet
) -> RuleCheck:
    """The report is of this checkpoint, trained on these shards, which hold this subset."""
    rule = "one chain"
    for consumer, used in ((report, checkpoint), (checkpoint, shards), (shards, subset)):
        if used.address not in _inputs(chain, consumer.address):
            return RuleCheck(rule=rule, ok=False, reason=f"{consumer.address} was not made from {used.address}.")
    return RuleCheck(
        rule=rule, ok=True, reason="The report evaluates this checkpoint, which was trained on these shards of this subset."
    )


def _own_pool(chain: list[ProvenanceLink], found: DataCheck, trained_on: str, scale: str) -> RuleCheck:
    """An own pool that carries a scale's name is not ranked with results over that scale."""
    told = found.claim or pool_claim(None, chain, trained_on, scale)
    return RuleCheck(rule=POOL_RULE, ok=told.ok, reason=told.reason)


def _one_pool(chain: list[ProvenanceLink], subset: Subset, found: DataCheck) -> RuleCheck:
    rule = "uids of the pool"
    pools = [a for a in _inputs(chain, subset.address) if a.startswith("pools/")]
    if found.foreign:
        return RuleCheck(
            rule=rule, ok=False, reason=f"{found.foreign:,} of {found.uids:,} uids are not in the pool: {found.example}."
        )
    counts = next((link.counts for link in chain if link.address == subset.address), {})
    if foreign := counts.get(NOT_IN_POOL, 0):
        unique = counts.get(LISTED_UNIQUE, 0)
        return RuleCheck(rule=rule, ok=False, reason=f"{foreign:,} of {unique:,} listed uids are not in the pool.")
    if not pools:
        return RuleCheck(rule=rule, ok=None, reason="The subset was not made by the filter step: its uids were not checked.")
    counted = "they were not looked up there" if found.uids is None else f"all {found.uids:,} uids were found there"
    return RuleCheck(rule=rule, ok=True, reason=f"The subset was selected from {', '.join(pools)} ({counted}).")


def _captions(found: DataCheck) -> RuleCheck:
    """Editing a caption is for the BYOD track (datacomp#43)."""
    rule = "captions unedited"
    if not found.captions:
        return RuleCheck(rule=rule, ok=None, reason="No training sample could be compared with the metadata of the pool.")
    text = f"{found.captions:,} training samples were compared with the pool's metadata"
    if found.edited:
        return RuleCheck(rule=rule, ok=False, reason=f"{text}: {found.edited:,} have another caption, such as {found.example}.")
    return RuleCheck(rule=rule, ok=True, reason=f"{text}: all have its caption.")


def _decontaminated(chain: list[ProvenanceLink]) -> RuleCheck:
    """Whether a step upstream looked for the test images and counted what it dropped."""
    rule = "no evaluation images"
    counted = {name: count for link in chain for name, count in link.counts.items() if name in set(HoldoutCount)}
    if not counted:
        return RuleCheck(rule=rule, ok=None, reason="No step upstream compared these images with the test sets.")
    told = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counted.items())
    return RuleCheck(rule=rule, ok=True, reason=f"Looked for upstream: {told}.")


def recipe_of(chain: list[ProvenanceLink], checkpoint: str) -> dict[str, object] | None:
    link = next((link for link in of_kind(chain, "checkpoints") if link.address == checkpoint), None)
    specs = [] if link is None else [spec.get("recipe") for spec in link.spec.values() if isinstance(spec, dict)]
    return next((recipe for recipe in specs if isinstance(recipe, dict)), None)


def training(chain: list[ProvenanceLink], checkpoint: Checkpoint) -> RuleCheck:
    rule = "training as the scale says"
    recipe = recipe_of(chain, checkpoint.address)
    if recipe is not None and recipe.get("name") == CUSTOM:
        return RuleCheck(rule=rule, ok=False, reason="A custom training recipe: it is shown, not ranked.")
    if recipe is None or recipe.get("name") not in SCALES:
        named = "no recipe" if recipe is None else f"the scale {recipe.get('name')!r}"
        return RuleCheck(rule=rule, ok=None, reason=f"The training's record names {named}: there is nothing to compare with.")
    row, used = SCALES[str(recipe["name"])], recipe.get("decoding", "full")
    if used in RANKED_DECODINGS:
        row = row.model_copy(update={"decoding": used})
    wanted = row.model_dump(mode="json")
    given = {name: field.default for name, field in Scale.model_fields.items()} | recipe  # records leave out defaults
    wrong = [f"{key} {value} instead of {wanted.get(key)}" for key, value in given.items() if wanted.get(key) != value]
    if wrong:
        return RuleCheck(rule=rule, ok=False, reason=f"Changed: {'; '.join(wrong)}.")
    decoding = "" if used == "full" else f", with decoding: {used}, which ranked trainings may use"
    return RuleCheck(rule=rule, ok=True, reason=f"All arguments are those of {recipe['name']}{decoding}.")


def _samples_seen(chain: list[ProvenanceLink], checkpoint: Checkpoint) -> RuleCheck:
    rule = "samples seen"
    recipe = recipe_of(chain, checkpoint.address)
    row = SCALES.get(str((recipe or {}).get("name")))
    if row is None:
        return RuleCheck(rule=rule, ok=None, reason="The scale is unknown.")
    seen, wanted = checkpoint.samples_seen, row.train_num_samples
    ok = wanted <= seen <= wanted * (1 + ROUNDING)
    return RuleCheck(rule=rule, ok=ok, reason=f"{seen:,} seen, {wanted:,} wanted (rounded up to whole steps).")


def _learnt(checkpoint: Checkpoint) -> RuleCheck:
    collapsed = bool(checkpoint.counts.get("collapsed"))
    text = (
        "The loss stayed at the loss of guessing: nothing was learnt."
        if collapsed
        else "The loss fell below the loss of guessing."
    )
    return RuleCheck(rule="training learnt something", ok=not collapsed, reason=text)


def evaluation(report: EvalReport, scale: str, chain: list[ProvenanceLink]) -> RuleCheck:
    """Complete, exact, and of the scale's own suite. That its version is the current one is the board's to say, each time it is
    made."""
    rule = "evaluation complete"
    text = f"{report.num_tasks} tasks of suite {report.suite} version {report.suite_version}."
    row = SCALES.get(scale)
    if row is not None and report.suite != row.suite:
        return RuleCheck(rule=rule, ok=False, reason=f"{text} The scale {row.name} is scored by the suite {row.suite}.")
    if report.average is None:
        return RuleCheck(rule=rule, ok=False, reason=f"Incomplete: {text}")
    specs = [link.spec for link in of_kind(chain, "reports") if link.address == report.address]
    given = {name: value for found in specs for spec in found.values() if isinstance(spec, dict) for name, value in spec.items()}
    wrong = [f"{name} {given[name]}" for name, exact in EXACT_EVALUATION.items() if given.get(name, exact) != exact]
    if wrong:
        return RuleCheck(rule=rule, ok=False, reason=f"{text} Not the exact evaluation: {', '.join(wrong)}.")
    return RuleCheck(rule=rule, ok=True, reason=text)


def _intact(chain: list[ProvenanceLink]) -> RuleCheck:
    lost = [f"{link.address} is {link.state}" for link in chain if link.state != "built"]
    rule = "chain intact"
    return RuleCheck(rule=rule, ok=not lost, reason="; ".join(lost) + "." if lost else f"All {len(chain)} records are there.")


def _inputs(chain: list[ProvenanceLink], address: str) -> list[str]:
    link = next((link for link in chain if link.address == address), None)
    return [] if link is None else [a for given in link.inputs.values() for a in given]
