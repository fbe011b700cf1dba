"""The rule "evaluation complete": a ranked score is of the exact evaluation."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from datacomp_core.artifacts import EvalReport
from datacomp_core.evaluation.evaluate import EvalSpec
from datacomp_core.evaluation.zero_shot_model import EXACT
from datacomp_core.leaderboard.entries.provenance import ProvenanceLink
from datacomp_core.leaderboard.entries.rules import EXACT_EVALUATION, RuleCheck, evaluation
from datacomp_core.store.fingerprint import canonical

MADE = EvalReport(suite="tiny", suite_version=1, num_tasks=4, average=0.5, address="reports/tiny/x--0")


def judged(spec: dict[str, Any]) -> RuleCheck:
    link = ProvenanceLink(kind="reports", name="x", address=MADE.address, fingerprint="0", spec={"spec": spec})
    return evaluation(MADE, "tiny", [link])


def test_the_exact_evaluation_passes_with_and_without_its_defaults() -> None:
    assert judged(canonical(EvalSpec())).ok
    assert judged({"suite": "tiny"}).ok
    assert {one.name for one in fields(EXACT)} < set(EXACT_EVALUATION)
    assert {name: canonical(EvalSpec())[name] for name in EXACT_EVALUATION} == EXACT_EVALUATION


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"decoding": "fast"}, "Not the exact evaluation: decoding fast."),
        ({"precision": "bf16", "compile": "yes"}, "Not the exact evaluation: precision bf16, compile yes."),
        ({"expected": "any"}, "Not the exact evaluation: expected any."),
    ],
)
def test_an_evaluation_that_is_not_exact_is_a_breach(change: dict[str, Any], told: str) -> None:
    found = judged(canonical(EvalSpec.model_validate(change)))
    assert found.ok is False
    assert told in found.reason
