"""What the chosen samples become: shards, a view, treated faces, a mix with sets of one's own; planned, and run once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from small_chain import at_once

from datacomp_core.errors import SpecError
from datacomp_core.pool.download_images import ImageSpec
from datacomp_core.pool.tiny import TinyPoolSpec, TrustedSpec, build_trusted
from datacomp_core.resharding.reshard import ReshardSpec
from datacomp_core.shards import index_names, read_index, shard_names
from datacomp_core.store import Store
from flows.candidate_pool import candidates
from flows.chain import curate, plan, training_set
from flows.parameters import ExperimentSpec, Layout


@pytest.mark.parametrize(
    ("layout", "last"),
    [
        (Layout(), ["reshard"]),
        (Layout(form="view"), ["view"]),
        (Layout(faces="blur"), ["reshard faces"]),
    ],
)
def test_the_layout_decides_the_last_steps(layout: Layout, last: list[str], tmp_path: Path) -> None:
    store, names = Store.open(str(tmp_path)), list[str]()

    def walk(call: Any) -> None:
        def named(task: Any, /, *identity: Any, **_: Any) -> Any:
            names.append(task.name)
            return call(task, *identity)

        training_set(named, ExperimentSpec(recipe="no_filter", layout=layout))

    steps = plan(walk, store)
    assert names[-len(last) :] == last
    assert steps[-1].kind == "shards"


@pytest.mark.parametrize(
    "given", [{"mix_in": ("shards/x",)}, {"form": "view", "faces": "blur"}, {"form": "view", "mix_in": ("a",), "weights": (1,)}]
)
def test_layouts_that_contradict_themselves_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises((SpecError, ValidationError)):
        Layout.model_validate(given)


@pytest.mark.slow
def test_each_layout_for_real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datacomp_core.settings import settings

    monkeypatch.setenv("DATACOMP_STORE", str(tmp_path))
    monkeypatch.setenv("DATACOMP_WORKERS", "1")
    settings.cache_clear()
    try:
        store, spec = Store.open(str(tmp_path)), ExperimentSpec(recipe="no_filter")
        pool = {"pool": TinyPoolSpec(num_pairs=300, num_parts=2), "images": ImageSpec(image_size=64, samples_per_shard=100)}
        preparation = spec.preparation().model_copy(update=pool)
        found = candidates(at_once, preparation)
        mine = build_trusted(TrustedSpec(), store=store)
        layouts = [Layout(), Layout(form="view"), Layout(faces="inject"), Layout(mix_in=(mine.address,), weights=(2.0,))]
        made: list[Counter[str]] = []
        for layout in layouts:
            curation = spec.curation().model_copy(update={"layout": layout, "reshard": ReshardSpec(samples_per_shard=64)})
            folder = store.folder(curate(at_once, curation, preparation, found).shards)
            made.append(Counter(uid for name in index_names(folder) for uid in read_index(folder, name)["uid"]))
        trusted = store.folder(mine)
        twice = Counter(uid for name in shard_names(trusted) for uid in read_index(trusted, name)["uid"] for _ in range(2))
    finally:
        settings.cache_clear()
    assert made[0].total() == found.shards.num_samples
    assert made[0] == made[1] == made[2]
    assert made[3] == made[0] + twice
