"""What may not move unseen: the catalog's rows and the protocols of each version, and the files that others' scripts read.

The numbers themselves are held by `tests/parity/test_parity_evaluation.py`. `AGGREGATES` was given by the reference's
unchanged `aggregate_scores.py` for the `eval_results.jsonl` that the first test of files writes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from datacomp_core.evaluation import golden_scores, report
from datacomp_core.evaluation.catalog import suite
from datacomp_core.evaluation.protocols import PROTOCOLS
from datacomp_core.evaluation.report import Report, TaskResult
from datacomp_core.evaluation.zero_shot_model import EXACT, Exactness
from datacomp_core.store import Folder

PROTOCOL_VERSIONS = {
    "classification": 1, "retrieval": 1, "winogavil": 1, "iwildcam": 1, "camelyon17": 1, "fmow": 1, "dollar_street": 1,
    "geode": 1, "faces": 1,
}  # fmt: skip
ROWS = {
    ("datacomp", 1): "c63499303863c2827300ed1d845019a114fd895a12df47bda307b19f9198afc7",
    ("tiny", 2): "eae1b0625206aa119c7f8a44c5d4f1be0186fa36e86b8c155e92527e64deb100",
    ("custom", 1): "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945",
}
RESULTS = "644a42e924c1c0ba045946b80d0633d211b64bf3ad8fe7c80575750cb12bc8a3"
AGGREGATES = {
    "ImageNet": 0.7921,
    "ImageNet dist. shifts": 0.6787000000000001,
    "VTAB": 0.6521538461538461,
    "Retrieval": 0.6078666666666667,
    "Average": 0.6626736842105264,
}


def rows(name: str) -> str:
    """Everything of a suite's tasks that a number depends on."""
    found = [{**asdict(task), "folder": task.folder, "is_scored": task.is_scored} for task in suite(name).tasks]
    assert not any(row.pop("code") for row in found), "a suite's tasks are of protocols of this package"
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


@pytest.mark.parametrize("name", ["datacomp", "tiny", "custom"])
def test_a_suite_that_changes_raises_its_version(name: str) -> None:
    assert ROWS.get((name, suite(name).version)) == rows(name), f"raise the version of {name} in catalog.py, then enter it here"


def test_protocols_have_the_versions_that_were_compared_with_the_reference() -> None:
    assert {name: protocol.version for name, protocol in PROTOCOLS.items()} == PROTOCOL_VERSIONS


def published(exactness: Exactness = EXACT) -> Report:
    """The report of a released checkpoint, as if we had evaluated it; the two tasks without a score have metrics only."""
    datacomp, scores = suite("datacomp"), golden_scores.golden("ViT-L-14/datacomp_xl_s13b_b90k").scores
    results = [
        TaskResult(
            key=task.key,
            name=task.name,
            protocol=task.protocol,
            protocol_version=1,
            main_metric=task.metric,
            value=scores.get(task.name),
            metrics={task.metric: scores[task.name], "acc5": None} if task.metric else {"acc_race_avg": 0.5},
            count=task.size or 1,
        )
        for task in datacomp.tasks
    ]
    return report.make(datacomp, results, model="ViT-L-14", weights="0" * 64, exactness=exactness, batch_size=256, device="cpu")


def test_the_results_are_what_the_references_script_reads_and_its_groups_are_ours(tmp_path: Path) -> None:
    made = published()
    report.write(Folder(tmp_path), made)
    written = (tmp_path / "eval_results.jsonl").read_bytes()
    assert hashlib.sha256(written).hexdigest() == RESULTS
    assert len(written.splitlines()) == 40
    assert set(json.loads(written.splitlines()[0])) == {"key", "dataset", "metrics"}
    assert {**made.groups, "Average": made.average} == pytest.approx(AGGREGATES, abs=1e-12)


def test_the_report_says_in_which_mode_it_was_made() -> None:
    assert published().mode == "exact"
    assert published(Exactness("bf16")).mode == "fast"
    assert published(Exactness("reference", "yes")).mode == "fast"
