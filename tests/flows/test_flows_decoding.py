"""A decoding of training images: refused before anything runs where no GPU can do it, and told in every name."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from datacomp_core.artifacts import Checkpoint, Pool, ShardSet, Subset
from datacomp_core.device import has_cuda
from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from datacomp_core.store import Folder, Store
from datacomp_core.store.fingerprint import fingerprint
from flows.chain import STAGES, experiments, plan, trained
from flows.experiment import experiment
from flows.naming import filled
from flows.parameters import ExperimentSpec, SweepSpec
from flows.sweep import sweep

REFUSED = r"decodes on the GPU \(decoding: cuda\), but .*set decoding to fast or full\.$"
CUDA = ExperimentSpec(recipe="no_filter", decoding="cuda")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if has_cuda():
        pytest.skip("this machine has a CUDA device")
    monkeypatch.setenv("DATACOMP_STORE", str(tmp_path))
    settings.cache_clear()
    yield Store.open(str(tmp_path))
    settings.cache_clear()


def nothing_may_run(task: Any, /, *_: Any, **__: Any) -> Any:
    raise AssertionError(f"{task.name} is called")


@pytest.mark.parametrize("device", ["", "cpu", "cuda"])
def test_without_a_gpu_it_is_refused_before_the_first_step(store: Store, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATACOMP_DEVICE", device)
    settings.cache_clear()
    with pytest.raises(SpecError, match=REFUSED):
        experiments(nothing_may_run, [ExperimentSpec(recipe="no_filter"), CUDA])
    with pytest.raises(SpecError, match=REFUSED):
        plan(lambda call: experiments(call, [CUDA]), store)
    for stage in ("train", "evaluate"):
        with pytest.raises(SpecError, match=REFUSED):
            STAGES[stage](nothing_may_run, CUDA)


def test_what_comes_before_the_training_and_other_decodings_go_on(store: Store) -> None:
    assert plan(lambda call: STAGES["reshard"](call, CUDA), store)
    assert plan(lambda call: experiments(call, [CUDA.model_copy(update={"decoding": "fast"})]), store)


def test_with_a_gpu_deployment_the_training_is_not_for_this_machine(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATACOMP_GPU_DEPLOYMENT", "gpu-step/gpu")
    settings.cache_clear()
    assert plan(lambda call: experiments(call, [CUDA]), store)


def test_a_training_that_is_built_is_reused(store: Store, tmp_path: Path) -> None:
    """Every step is adopted from a folder, as a machine with a GPU made it; with another seed it is to be built."""
    source = Folder(str(tmp_path / "elsewhere"))
    source.write("data", b"data")
    known: dict[str, Any] = {
        "pools": Pool(num_samples=1, num_parts=1),
        "shards": ShardSet(num_samples=1, num_unique=1, num_shards=1),
        "subsets": Subset(recipe="no_filter", num_samples=1, num_unique=1),
        "checkpoints": Checkpoint(model="datacomp-tiny", seed=0, samples_seen=1, steps=1),
    }

    def adopted(task: Any, /, *identity: Any) -> Any:
        step = task.fn.step
        return step.adopt(*identity, made=known[step.kind], source=source, store=store).artifact

    made = trained(adopted, CUDA)
    assert made.kind == "checkpoints"
    assert all(step.is_built for step in plan(lambda call: STAGES["train"](call, CUDA), store))
    with pytest.raises(SpecError, match=REFUSED):
        plan(lambda call: STAGES["train"](call, CUDA.model_copy(update={"seed": 1})), store)


@pytest.mark.parametrize("command", ["plan", "run", "train"])
def test_the_command_line_says_one_sentence_and_leaves_nothing(store: Store, command: str) -> None:
    arguments = ["-r", "no_filter", "--decoding", "cuda"]
    done = subprocess.run([sys.executable, "-m", "deployments.cli", command, *arguments], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "decodes on the GPU (decoding: cuda)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "starting Prefect" not in done.stdout
    assert list(store.addresses("pools")) == []


def test_a_folder_of_shards_is_not_read_for_it(store: Store, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    Folder(str(data)).write("0.tar", b"no tar at all")
    arguments = ["train", "--data", str(data), "--out", str(out), "--decoding", "cuda"]
    done = subprocess.run([sys.executable, "-m", "deployments.cli", *arguments], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "decodes on the GPU (decoding: cuda)" in done.stderr
    assert not out.exists()


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.parametrize("kind", ["experiment", "sweep"])
def test_a_run_from_a_form_ends_before_its_first_task(store: Store, kind: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    given = {"decoding": "cuda"}  # plain JSON, as a form sends it
    state = (
        experiment(**experiment.validate_parameters({"spec": given}), return_state=True)
        if kind == "experiment"
        else sweep(**sweep.validate_parameters({"spec": given}), return_state=True)
    )
    assert state.is_failed()
    with pytest.raises(SpecError, match=REFUSED):
        state.result()
    assert "decodes on the GPU (decoding: cuda)" in (state.message or "")
    with get_client(sync_client=True) as client:
        flow_run = state.state_details.flow_run_id
        assert flow_run is not None
        ran = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])))
    assert [run.name for run in ran if not run.name.startswith("publish")] == []


def test_arms_that_differ_by_decoding_have_names_of_their_own() -> None:
    arms = [ExperimentSpec(recipe="no_filter", decoding=decoding) for decoding in ("full", "fast", "cuda", "scaled")]
    assert len({arm.label() for arm in arms}) == len(arms)
    assert len({arm.scoring().train.label() for arm in arms}) == len(arms)
    assert len({arm.scoring().entry.method for arm in arms}) == len(arms)
    for spec in (json.loads, ExperimentSpec.model_validate_json):  # a form's parameters, and a spec
        names = [filled("{scale}-{recipe}-seed{seed}", {"spec": spec(arm.model_dump_json())}) for arm in arms]
        assert names == [f"tiny-no_filter{end}-seed0" for end in ("", "-fast", "-cuda", "-scaled")]
    assert filled("{scale}-{recipe}-seed{seed}", {"spec": {"scale": "tiny", "recipe": "no_filter", "seed": 0}}) == names[0]


def test_the_default_decoding_is_in_no_name_and_no_identity() -> None:
    arm = ExperimentSpec(recipe="no_filter", decoding="full")
    assert arm.label() == "tiny-no_filter-seed0"
    assert arm.scoring().train.label() == "tiny-seed0"
    assert fingerprint(arm) == fingerprint(ExperimentSpec(recipe="no_filter"))
    assert fingerprint(SweepSpec(decoding="full")) == fingerprint(SweepSpec())
