"""The rule "training as the scale says", on records as strangers may send them."""

from __future__ import annotations

from typing import Any

import pytest

from datacomp_core.artifacts import Checkpoint
from datacomp_core.leaderboard.entries.provenance import ProvenanceLink
from datacomp_core.leaderboard.entries.rules import RuleCheck, training
from datacomp_core.scales import RANKED_DECODINGS, SCALES, with_decoding
from datacomp_core.store.fingerprint import canonical

MADE = Checkpoint(model="ViT-B-32", seed=0, samples_seen=1, steps=1, address="checkpoints/small/x--0")


def judged(recipe: dict[str, Any]) -> RuleCheck:
    link = ProvenanceLink(
        kind="checkpoints", name="x", address=MADE.address, fingerprint="0", spec={"spec": {"recipe": recipe, "seed": 0}}
    )
    return training([link], MADE)


@pytest.mark.parametrize("scale", sorted(SCALES))
def test_a_row_is_itself_with_and_without_its_defaults(scale: str) -> None:
    row = SCALES[scale]
    assert judged(row.model_dump(mode="json")).ok
    assert judged({**canonical(row)}).ok


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"batch_size": 1}, "batch_size 1 instead of 4096"),
        ({"beta2": 0.5}, "beta2 0.5 instead of None"),  # the row leaves it at the default
        ({"decoding": "scaled"}, "decoding scaled instead of full"),
        ({"decoding": "cuda"}, "decoding cuda instead of full"),
        ({"tricks": 1}, "tricks 1 instead of None"),
    ],
)
def test_a_change_of_any_argument_is_told(change: dict[str, Any], told: str) -> None:
    found = judged({**canonical(SCALES["small"]), **change})
    assert found.ok is False
    assert told in found.reason


def test_every_decoding_that_may_be_ranked_is_named_and_no_other_passes() -> None:
    for way in ("full", "fast", "scaled", "cuda"):
        made = with_decoding(SCALES["small"], way)
        found = judged(made.model_dump(mode="json"))
        assert found.ok is (way in RANKED_DECODINGS)
        assert way == "full" or not found.ok or f"decoding: {way}" in found.reason
