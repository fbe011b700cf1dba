"""The catalog and the averages against the released checkpoints' published results, which others computed."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import datacomp_core.evaluation
from datacomp_core.errors import SpecError
from datacomp_core.evaluation import aggregate
from datacomp_core.evaluation.catalog import RETRIEVAL, SHIFTS, SUITES, VTAB, suite
from datacomp_core.evaluation.protocols import PROTOCOLS

GOLDEN = pl.read_csv(Path(datacomp_core.evaluation.__file__).parent / "golden" / "openclip_datacomp_rows.csv")


def test_forty_tasks_of_which_thirty_eight_are_scored() -> None:
    datacomp = suite("datacomp")
    assert (len(datacomp.tasks), len(datacomp.scored)) == (40, 38)
    assert [task.name for task in datacomp.tasks if not task.metric] == ["FairFace", "UTKFace"]
    assert sum(task.size or 0 for task in datacomp.tasks) == 732_026
    assert sum(task.seconds for task in datacomp.tasks) == 5190
    members = {name: sum(task.group == name for task in datacomp.scored) for name in datacomp.groups}
    assert members == {"ImageNet": 1, SHIFTS: 6, VTAB: 13, RETRIEVAL: 3}
    assert sum(not task.near_chance for task in datacomp.scored) == 33


def test_every_task_has_a_protocol_a_folder_of_its_own_and_a_repository() -> None:
    for found in SUITES.values():
        assert {task.protocol for task in found.tasks} <= set(PROTOCOLS)
        assert len({task.folder for task in found.tasks}) == len({task.key for task in found.tasks}) == len(found.tasks)
    datacomp = suite("datacomp")
    assert datacomp.task("wilds/fmow").repository == "djghosh/wds_wilds-fmow_test"
    assert datacomp.task("fairness/dollar_street").folder == "wds_dollar_street_test"
    assert datacomp.task("misc/winogavil").repository == "nlphuji/winogavil"


@pytest.mark.parametrize("row", GOLDEN.to_dicts(), ids=lambda row: f"{row['name']}-{row['pretrained']}")
def test_the_average_is_the_published_one(row: dict[str, float]) -> None:
    datacomp = suite("datacomp")
    values = {task.key: row[task.name] for task in datacomp.scored}
    assert aggregate.average(datacomp, values) == pytest.approx(row["Average perf. on 38 datasets"], abs=1.01e-4)


def test_groups_are_those_of_the_papers_table() -> None:
    """DataComp-XL ViT-L-14 in Table 3: .792 / .679 / .652 / .608 / .663."""
    datacomp = suite("datacomp")
    row = GOLDEN.filter((pl.col("name") == "ViT-L-14") & (pl.col("pretrained") == "datacomp_xl_s13b_b90k")).to_dicts()[0]
    values = {task.key: float(row[task.name]) for task in datacomp.scored}
    found = [round(value or 0, 3) for value in aggregate.groups(datacomp, values).values()]
    assert found == [0.792, 0.679, 0.652, 0.608]


def test_an_average_over_fewer_is_none() -> None:
    tiny = suite("tiny")
    values = {task.key: 0.5 for task in tiny.tasks}
    assert aggregate.average(tiny, values) == 0.5
    del values["tiny/flags"]
    assert aggregate.average(tiny, values) is None
    assert aggregate.missing(tiny, values) == ["tiny/flags"]
    assert aggregate.groups(tiny, values) == {"Recognition": None, "Shift": 0.5, "Retrieval": 0.5}


def test_chance_is_zero_and_perfection_one() -> None:
    datacomp = suite("datacomp")
    assert aggregate.above_chance(datacomp, {t.key: t.chance or 0.0 for t in datacomp.scored}) == pytest.approx(0)
    assert aggregate.above_chance(datacomp, {t.key: 1.0 for t in datacomp.scored}) == pytest.approx(1)


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"Did you mean 'cifar10'"):
        suite("datacomp").task("cifar1O")
