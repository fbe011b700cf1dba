"""A step handed to another machine is the same step there: its identity survives plain JSON."""

from __future__ import annotations

import json
import typing
from typing import Any

import pytest

from datacomp_core.artifacts import Captioned, Captions, Checkpoint, Embeddings, EvalSets, Pool, ShardSet
from datacomp_core.captions.translate import TranslateSpec
from datacomp_core.embedding.captions import CaptionEmbedSpec
from datacomp_core.embedding.generate import GenerateSpec
from datacomp_core.embedding.spec import EmbedSpec
from datacomp_core.evaluation.evaluate import EvalSpec
from datacomp_core.scales import SCALES
from datacomp_core.scores import MetaClip, NegClipLoss, Score, TextMasked
from datacomp_core.settings import settings
from datacomp_core.store import Step, Store
from datacomp_core.store.step import STEPS
from datacomp_core.training.train import TrainSpec
from tasks import captions, curate, evaluate, train
from tasks.remote import is_for_gpu, key, needs_gpu_worker, packed, unpacked

POOL = Pool(num_samples=10, num_parts=1, fingerprint="1" * 64, scale="tiny")
SHARDS = ShardSet(num_samples=8, num_unique=8, num_shards=2, fingerprint="2" * 64, scale="tiny", counts={"lost": 2})
CHECKPOINT = Checkpoint(model="m", seed=1, samples_seen=2, steps=3, fingerprint="3" * 64, scale="tiny", name="a")
SETS = EvalSets(suite="tiny", num_tasks=7, fingerprint="4" * 64)

EMBEDDINGS = Embeddings(model="m", columns=("a",), num_samples=10, num_embedded=8, fingerprint="5" * 64)

CAPTIONS = Captions(sources=("a",), num_samples=10, num_captions=12, num_captioned=9, fingerprint="6" * 64)
CAPTIONED = Captioned(policy="p", sources=("a",), num_samples=10, num_changed=3, fingerprint="7" * 64)
WRITER: dict[str, Any] = {"name": "w", "library": "server", "model": "m"}

CALLS: list[tuple[Step[Any], tuple[Any, ...]]] = [
    (train.train.fn.step, (TrainSpec(recipe=SCALES["tiny"], seed=3), (SHARDS, SHARDS))),
    (curate.embed.fn.step, (EmbedSpec(), POOL, SHARDS, (CHECKPOINT,))),
    (curate.score.fn.step, (NegClipLoss(temperature=0.07), POOL, EMBEDDINGS, None, None)),
    (curate.score.fn.step, (TextMasked(), POOL, None, SHARDS, CHECKPOINT)),
    (evaluate.evaluate.fn.step, (EvalSpec(), CHECKPOINT, SETS)),
    (captions.score_captioned.fn.step, (NegClipLoss(), POOL, EMBEDDINGS, None, None, CAPTIONED)),
    (captions.embed_captions.fn.step, (CaptionEmbedSpec(), CAPTIONS, POOL, None, (CHECKPOINT,))),
    (captions.generate_captions.fn.step, (GenerateSpec(**WRITER), POOL, SHARDS)),
    (captions.translate_captions.fn.step, (TranslateSpec(**WRITER), POOL, None)),
]


@pytest.mark.parametrize(("step", "identity"), CALLS, ids=lambda value: getattr(value, "kind", ""))
def test_an_identity_survives_plain_json(step: Step[Any], identity: tuple[Any, ...]) -> None:
    from flows.gpu_step import TASKS

    there = unpacked(step, json.loads(json.dumps(packed(identity))))
    assert there == identity
    assert step.fingerprint(*there) == step.fingerprint(*identity)
    assert TASKS[key(step)].fn.step is step


def test_only_what_needs_a_gpu_and_is_not_built_is_handed_on(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(str(tmp_path))
    step, identity = CALLS[0]
    assert not needs_gpu_worker(step, identity, store)
    monkeypatch.setenv("DATACOMP_GPU_DEPLOYMENT", "gpu-step/gpu-step-small")
    settings.cache_clear()
    assert needs_gpu_worker(step, identity, store)
    assert not needs_gpu_worker(curate.reshard.fn.step, (), store)
    for scoring, given in CALLS[2:4]:
        assert needs_gpu_worker(scoring, given, store), "a score that needs a model"
    assert not needs_gpu_worker(curate.score.fn.step, (MetaClip(), POOL, None, None, None), store)


def test_whatever_is_handed_on_is_known_to_the_gpu_step() -> None:
    """Of every step: its kind, or a spec that it takes, may send it to a GPU worker, which must not refuse it."""
    from flows.gpu_step import TASKS
    from tasks.concurrency import ON_THE_GPU

    def may(step: Step[Any]) -> bool:
        spec = typing.get_type_hints(step.function)[step.identity[0]]
        scores = isinstance(spec, type) and issubclass(spec, Score)
        return step.kind in ON_THE_GPU or scores or getattr(spec, "on_gpu", False)

    assert {name for name, step in STEPS.items() if name.startswith("datacomp_core.") and may(step)} == set(TASKS)
    assert all(is_for_gpu(step, identity) for step, identity in CALLS)


def test_a_score_that_needs_a_model_goes_to_a_gpu_worker_unless_it_says_otherwise() -> None:
    class Judged(Score):
        needs = frozenset({"images", "model"})

        def of_part(self, source: Any, part: str, prepared: Any) -> Any: ...

    class Light(Judged):
        on_gpu = False

    step = curate.score.fn.step
    assert is_for_gpu(step, (Judged(), POOL, None, SHARDS, CHECKPOINT))
    assert not is_for_gpu(step, (Light(), POOL, None, SHARDS, CHECKPOINT))
    assert not is_for_gpu(step, (MetaClip(), POOL, None, None, None))
