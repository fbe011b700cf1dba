"""Whole trainings on a CPU: against plain open_clip_train, killed and resumed, on two ranks, and going wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from training_world import NoiseSpec, kill_at_step, noise, store_at, training

from datacomp_core import clip
from datacomp_core.artifacts import Checkpoint
from datacomp_core.errors import DatacompError, DataError, StoreError
from datacomp_core.store import Folder, Store
from datacomp_core.training.history import read_history
from datacomp_core.training.job import JOB
from datacomp_core.training.resume import RESUME
from datacomp_core.training.train import train

HERE = Path(__file__).parent


def weights(store: Store, made: Checkpoint) -> dict[str, Any]:
    from datacomp_core.clip import state_dict

    return state_dict(store.folder(made).path / "checkpoint.pt", made.model)


def test_killed_and_resumed_it_ends_as_plain_open_clip_train_does(tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch, a rerun, and the same bits as open_clip_train undisturbed on the same batches.

    The first run loads with two processes, the second with one: they write into shared batches, and change no bit.
    """
    import torch

    store, spec = store_at(tmp_path), training(train_num_samples=96)
    folder = kill_at_step(store, spec, 7, 1, "launcher", LOADER_WORKERS="2")
    assert len(read_history(folder / "history.jsonl")) < spec.steps
    job = tmp_path / "job.json"
    job.write_bytes((folder / JOB).read_bytes())
    log = (folder / "run" / "out.log").read_text()
    shards = noise(NoiseSpec(), store=store)
    made = train(spec, (shards,), store=store, device="cpu", threads=1, loader_workers=1)
    out = store.folder(made)
    assert "resuming checkpoint" in out.read("out.log").decode()
    assert "resuming checkpoint" not in log
    assert not out.exists(RESUME)

    plain = tmp_path / "plain"
    plain.mkdir()
    command = [sys.executable, str(HERE / "plain_open_clip.py"), str(job), str(plain)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    theirs = torch.load(plain / "plain" / "checkpoints" / "epoch_latest.pt", weights_only=True)["state_dict"]
    mine = weights(store, made)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)

    curve = [json.loads(line) for line in out.read("history.jsonl").splitlines()]
    assert [row["step"] for row in curve] == list(range(spec.steps))
    assert [row["loss"] for row in curve] == json.loads((plain / "losses.json").read_text())

    from safetensors.torch import load_file

    assert all(torch.equal(value, mine[name]) for name, value in load_file(out.path / "checkpoint.safetensors").items())
    import open_clip

    clip.register()
    for name in ("checkpoint.pt", "checkpoint.safetensors"):
        loaded: Any = open_clip.create_model(made.model, pretrained=str(out.path / name))
        assert all(torch.equal(value, mine[key]) for key, value in loaded.state_dict().items()), name
    record = out.read_json("training.json")
    assert (record["steps"], record["samples_seen"], record["mean_repeats"]) == (12, 96, 2.4)
    assert record["sources"][0]["samples_seen"] == 96
    assert pl.read_parquet(out.path / "preflight.parquet")["num_samples"].to_list() == [24, 16]


def test_two_gloo_ranks_train_one_model(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    shards = noise(NoiseSpec(), store=store)
    made = train(training(), (shards,), store=store, device="cpu", processes=2, threads=1)
    log = store.folder(made).read("out.log").decode()
    assert "total 2" in log
    assert len(store.folder(made).read("history.jsonl").splitlines()) == made.steps == 6
    assert all(not name.startswith("module.") for name in weights(store, made))


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["launcher", "a rank"])
def test_two_ranks_killed_and_resumed_end_as_undisturbed(tmp_path: Path, victim: str) -> None:
    import torch

    spec = training(train_num_samples=96)
    calm, wild = store_at(tmp_path / "calm"), store_at(tmp_path / "wild")
    shards = noise(NoiseSpec(), store=calm)
    undisturbed = train(spec, (shards,), store=calm, device="cpu", processes=2, threads=1)
    for step in (2, 8):
        kill_at_step(wild, spec, step, 2, victim)
    made = train(spec, (noise(NoiseSpec(), store=wild),), store=wild, device="cpu", processes=2, threads=1)
    mine, theirs = weights(wild, made), weights(calm, undisturbed)
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert wild.folder(made).read("checkpoint.pt") == calm.folder(undisturbed).read("checkpoint.pt")


@pytest.mark.slow
def test_worlds_and_accumulation_learn_the_same(tmp_path: Path) -> None:
    """Up to rounding: a model without batch norm does not know how its batch was cut."""
    import torch

    spec = training(model="ViT-S-32-alt", train_num_samples=32, loader_workers=1)
    results = []
    for number, options in enumerate([{}, {"processes": 2}, {"accumulation": 2}, {"loader_workers": 2}]):
        store = store_at(tmp_path / str(number))
        made = train(spec, (noise(NoiseSpec(), store=store),), store=store, device="cpu", threads=1, **options)
        results.append(weights(store, made))
    for other in results[1:]:
        assert all(torch.allclose(value, results[0][name], atol=2e-4) for name, value in other.items())
    assert all(torch.equal(value, results[0][name]) for name, value in results[3].items())


@pytest.mark.slow
def test_a_diverging_run_names_the_step(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    shards = noise(NoiseSpec(), store=store)
    with pytest.raises(DatacompError, match=r"The loss became nan at step \d+: the training diverged"):
        train(training(learning_rate=1e20, warmup=1), (shards,), store=store, device="cpu")


@pytest.mark.slow
def test_a_broken_sample_ends_both_ranks_with_its_name(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    shards = noise(NoiseSpec(), store=store)
    tar = store.folder(shards).path / "00000000.tar"
    data = bytearray(tar.read_bytes())
    data[512:812] = bytes(300)
    tar.write_bytes(data)
    with pytest.raises(DataError, match=r"Sample 0 of shard .*00000000.tar \(byte 0\) cannot be read"):
        train(training(train_num_samples=200), (shards,), store=store, device="cpu", processes=2)


def test_a_training_that_could_not_be_published_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store fails after the last step: what was trained is published by the next run, with the same bytes."""
    store, spec = store_at(tmp_path), training()
    shards = noise(NoiseSpec(), store=store)
    with monkeypatch.context() as there:
        there.setattr(Store, "publish", failing)
        with pytest.raises(StoreError, match="the bucket does not answer"):
            train(spec, (shards,), store=store, device="cpu")
    left = next(store.root.path.glob("checkpoints/*/*/attempt-*/training.json")).parent
    before = {name: (left / name).read_bytes() for name in Folder(left).files()}
    (left / RESUME).mkdir()  # a run may be killed before it has removed this
    outcome = train.run(spec, (shards,), store=store, device="cpu")
    out = store.folder(outcome.artifact)
    assert (outcome.status, {name: out.read(name) for name in out.files()}) == ("built", before)
    assert outcome.artifact.steps == spec.steps


def failing(*_: object, **__: object) -> None:
    raise StoreError("the bucket does not answer")


@pytest.mark.slow
@pytest.mark.s3
def test_it_trains_from_s3_to_s3(s3_url: str) -> None:
    store = Store.open(s3_url)
    shards = noise(NoiseSpec(), store=store)
    made = train(training(), (shards,), store=store, device="cpu", checkpoint_seconds=0)
    names = set(store.folder(made).files())
    assert {"checkpoint.pt", "checkpoint.safetensors", "training.json", "history.jsonl", "out.log"} <= names
