"""Tasks of one's own in an experiment: what is planned, what stays as it was, and the sentence for what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_sets import repository, write

from datacomp_core.store import Store
from datacomp_core.store.fingerprint import fingerprint
from flows.chain import experiments, plan
from flows.parameters import ExperimentSpec, SweepSpec

ROW = {"key": "mine/birds", "folder": "birds"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write(tmp_path / "sets" / "birds", repository(20, 4))
    return tmp_path / "sets"


def _steps(store: Store, spec: SweepSpec) -> list[tuple[str, str]]:
    return [(one.kind, one.name) for one in plan(lambda call: experiments(call, spec.experiments()), store)]


def test_they_have_a_report_of_their_own_and_leave_the_suites_as_it_was(data: Path, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    given: dict[str, Any] = {"recipes": ["no_filter", "random_30"], "seeds": [0, 1]}
    plain = SweepSpec.model_validate(given)
    spec = SweepSpec.model_validate({**given, "own_tasks": {"tasks": [ROW], "data": str(data)}})
    assert spec == SweepSpec.model_validate_json(spec.model_dump_json())
    before, now = _steps(store, plain), _steps(store, spec)
    added = [one for one in now if one not in before]
    assert [kind for kind, _ in added] == ["evalsets", "reports", "reports", "reports", "reports"]
    assert [one for one in now if one in before] == before
    one, other = (each.experiments()[0].scoring() for each in (plain, spec))
    assert [fingerprint(x) for x in (one.train, one.evaluate, one.entry)] == [
        fingerprint(x) for x in (other.train, other.evaluate, other.entry)
    ]


def test_another_folder_is_read_anew(data: Path, tmp_path: Path) -> None:
    spec = ExperimentSpec.model_validate({"own_tasks": {"tasks": [ROW], "data": str(data)}})
    write(tmp_path / "other" / "birds", repository(12, 3))
    form = spec.model_dump(mode="json")
    form["own_tasks"]["data"] = str(tmp_path / "other")
    assert ExperimentSpec.model_validate(form).own_tasks.sets[0].place.startswith(f"{tmp_path / 'other' / 'birds'}#")


@pytest.mark.parametrize(
    ("tasks", "more", "told"),
    [
        ([ROW], {}, "need the folder of their test sets"),
        ([{**ROW, "folder": "bees"}], {"data": "sets"}, "No test set exists at .*bees"),
        ([{**ROW, "key": "tiny/objects"}], {"data": "sets"}, "tiny/objects already exists"),
        ([ROW, ROW], {"data": "sets"}, "mine/birds already exists"),
        ([{**ROW, "protocol": "clasification"}], {"data": "sets"}, "clasification"),
        (
            ["mine/bees"],
            {"data": "sets"},
            "mine/bees is neither an existing YAML or Python file nor the key of a registered evaluation task",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tasks: Any, more: dict[str, str], told: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    with pytest.raises(ValueError, match=told):
        ExperimentSpec.model_validate({"own_tasks": {"tasks": tasks, **more}})
