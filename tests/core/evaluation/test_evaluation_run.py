"""The run: equal to clip_benchmark on the same sets, resumed task by task, and truthful when a set is broken."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datacomp_core import clip
from datacomp_core.artifacts import Checkpoint, EvalSets, Spec
from datacomp_core.errors import DataError, IncompleteError
from datacomp_core.evaluation import run as running
from datacomp_core.evaluation.catalog import suite
from datacomp_core.evaluation.evaluate import EvalSpec, evaluate, evaluate_folder
from datacomp_core.evaluation.report import Report
from datacomp_core.evaluation.zero_shot_model import EvalModel, Exactness
from datacomp_core.store import Folder, Store, step

MODEL = "datacomp-tiny"
CLASSES = ("dog", "cat", "red flag", "house", "boat", "tree")
LABELLED = ("objects", "objects_3d", "coarse", "flags", "clipart", "digits")


def image(seed: int) -> bytes:
    random = np.random.default_rng(seed)
    pixels = np.kron(random.integers(0, 255, (4, 4, 3), dtype=np.uint8), np.ones((10 + seed % 5, 12, 1), np.uint8))
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def write_set(home: Path, samples: list[dict[str, bytes]]) -> None:
    (home / "test").mkdir(parents=True, exist_ok=True)
    (home / "test" / "nshards.txt").write_text("2")
    for shard in range(2):
        with tarfile.open(home / "test" / f"{shard}.tar", "w") as tar:
            for number, members in list(enumerate(samples))[shard::2]:
                for extension, data in members.items():
                    info = tarfile.TarInfo(f"s{number:07d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def write_names(home: Path, classes: tuple[str, ...] = CLASSES) -> None:
    (home / "classnames.txt").write_text("\n".join(classes))
    (home / "zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na {c}\n")


def samples(seed: int, count: int = 24) -> list[dict[str, bytes]]:
    return [{"cls": str(n % len(CLASSES)).encode(), "webp": image(seed * 100 + n)} for n in range(count)]


def write_all(root: Path) -> None:
    for seed, name in enumerate(LABELLED):
        home = root / f"wds_tiny-{name}_test"
        write_set(home, samples(seed))
        write_names(home)
    home = root / "wds_tiny-retrieval_test"
    captions = ["\n".join(f"picture {n} of {i}" for i in range(1 + n % 3)).encode() for n in range(24)]
    write_set(home, [{"txt": text, "webp": image(900 + n)} for n, text in enumerate(captions)])
    (home / "dataset_type.txt").write_text("retrieval")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("prepared")
    write_all(root / "sets")
    clip.register()
    import open_clip

    torch.manual_seed(3)
    model: Any = open_clip.create_model(MODEL, load_weights=False)
    torch.save({"state_dict": model.state_dict()}, root / "checkpoint.pt")
    return root


@pytest.fixture
def sets(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared / "sets", tmp_path / "sets"))


def scored(prepared: Path, sets: Path, out: Path, **options: Any) -> Report:
    return evaluate_folder(
        model=MODEL, checkpoint=prepared / "checkpoint.pt", data=str(sets), out=str(out), device="cpu", **options
    )


def by_clip_benchmark(prepared: Path, sets: Path, name: str) -> dict[str, float]:
    """clip_benchmark's own reader and metrics (1.6.2, without autocast, one line mended for numpy 2.4)."""
    from clip_benchmark.datasets.builder import build_wds_dataset, image_captions_collate_fn
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

    def accuracy(output: torch.Tensor, target: torch.Tensor, topk: tuple[int, ...]) -> list[float]:
        best = output.topk(max(topk), 1, True, True)[1]
        return [(best[:, :k] == target[:, None]).any(dim=1).double().mean().item() for k in topk]

    loaded = clip.load(MODEL, prepared / "checkpoint.pt", "cpu")
    data: Any = build_wds_dataset(name, loaded.preprocess, "test", str(sets / f"wds_tiny-{name}_test"))
    if name == "retrieval":
        loader = torch.utils.data.DataLoader(data.batched(8, collation_fn=image_captions_collate_fn), batch_size=None)
        return zeroshot_retrieval.evaluate(loaded.model, loader, loaded.tokenize, "cpu", amp=False, recall_k_list=[1, 5, 10])
    plain, zeroshot_classification.accuracy = zeroshot_classification.accuracy, accuracy
    try:
        loader = torch.utils.data.DataLoader(data.batched(8), batch_size=None)
        loader.dataset.classes = data.classes  # pyright: ignore
        return zeroshot_classification.evaluate(
            loaded.model, loader, loaded.tokenize, data.classes, data.templates, "cpu", amp=False
        )
    finally:
        zeroshot_classification.accuracy = plain


def test_the_numbers_are_clip_benchmarks(prepared: Path, tmp_path: Path) -> None:
    made = scored(prepared, prepared / "sets", tmp_path / "out", spec=EvalSpec(batch_size=5))
    for result in made.tasks:
        theirs = by_clip_benchmark(prepared, prepared / "sets", result.key.removeprefix("tiny/"))
        for metric, value in theirs.items():
            assert result.metrics[metric] == pytest.approx(value, abs=1e-6), (result.key, metric)
    assert made.complete
    assert made.average == pytest.approx(sum(task.value or 0 for task in made.tasks if task.key != "tiny/digits") / 6)
    lines = [json.loads(line) for line in (tmp_path / "out" / "eval_results.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [task.key for task in made.tasks]
    assert lines[0]["dataset"] == "Objects"
    assert lines[0]["metrics"]["main_metric"] == lines[0]["metrics"]["acc5"]


def test_fast_decoding_moves_features_by_rounding_and_is_told(prepared: Path, tmp_path: Path) -> None:
    """Nothing that was kept of the exact run is taken for it, and the other way round."""
    chosen = ("tiny/coarse",)
    exact = scored(prepared, prepared / "sets", tmp_path / "out", spec=EvalSpec(tasks=chosen))
    fast = scored(prepared, prepared / "sets", tmp_path / "out", spec=EvalSpec(tasks=chosen, decoding="fast"))
    again = scored(prepared, prepared / "sets", tmp_path / "out", spec=EvalSpec(tasks=chosen))
    losses = [made.tasks[0].analysis["calibration"]["negative_log_likelihood"] for made in (exact, fast, again)]
    assert [made.mode for made in (exact, fast, again)] == ["exact", "fast", "exact"]
    assert losses[0] == losses[2] != losses[1]
    assert losses[1] == pytest.approx(losses[0], abs=0.05)


def test_predictions_give_the_metrics_again(prepared: Path, tmp_path: Path) -> None:
    made = scored(prepared, prepared / "sets", tmp_path / "out", spec=EvalSpec(tasks=("tiny/coarse",)))
    kept = np.load(tmp_path / "out" / "predictions" / "tiny-coarse.npz")
    assert (kept["ranked"][:, 0] == kept["labels"]).mean() == made.tasks[0].metrics["acc1"]
    assert made.average is None, "an average over fewer tasks is never called the average"
    assert made.missing == [f"tiny/{name}" for name in (*LABELLED, "retrieval") if name not in ("coarse", "digits")]


def test_workers_change_nothing(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "BYTES_A_WORKER", 2)
    spec = EvalSpec(tasks=("tiny/coarse", "tiny/retrieval"), batch_size=7)
    one = scored(prepared, prepared / "sets", tmp_path / "one", spec=spec, workers=1)
    two = scored(prepared, prepared / "sets", tmp_path / "two", spec=spec, workers=2)
    assert [(t.metrics, t.data) for t in one.tasks] == [(t.metrics, t.data) for t in two.tasks]


def test_two_devices_change_nothing(prepared: Path, tmp_path: Path) -> None:
    """Each in a process of its own, with a model of its own."""
    spec = EvalSpec(tasks=("tiny/coarse", "tiny/retrieval"), batch_size=3)
    one = scored(prepared, prepared / "sets", tmp_path / "one", spec=spec)
    two = evaluate_folder(
        model=MODEL,
        checkpoint=prepared / "checkpoint.pt",
        data=str(prepared / "sets"),
        out=str(tmp_path / "two"),
        spec=spec,
        device="cpu,cpu",
    )
    assert [(t.metrics, t.analysis, t.data) for t in one.tasks] == [(t.metrics, t.analysis, t.data) for t in two.tasks]


def test_classifiers_are_kept_by_what_they_are_made_of(prepared: Path, tmp_path: Path) -> None:
    kept = Folder(tmp_path)
    loaded = clip.load(MODEL, prepared / "checkpoint.pt", "cpu")
    first = EvalModel(loaded, kept=kept).classifier(CLASSES, ("a {c}",))
    (name,) = kept.files()
    encoded: list[int] = []
    again = EvalModel(loaded, kept=kept)
    again.texts = lambda texts: encoded.append(len(texts))  # pyright: ignore
    assert torch.equal(again.classifier(CLASSES, ("a {c}",)), first)
    assert not encoded
    kept.write(name, b"not an array")
    assert torch.equal(EvalModel(loaded, kept=kept).classifier(CLASSES, ("a {c}",)), first)
    EvalModel(loaded, kept=kept).classifier(CLASSES, ("the {c}",))
    EvalModel(loaded, Exactness("bf16"), kept=kept).classifier(CLASSES, ("a {c}",))
    EvalModel(clip.load(MODEL, None, "cpu"), kept=kept).classifier(CLASSES, ("a {c}",))
    assert len(kept.files()) == 4, "other templates, another precision, another tower"


def test_the_image_tower_alone_does_not_make_another_classifier(prepared: Path) -> None:
    loaded = clip.load(MODEL, prepared / "checkpoint.pt", "cpu")
    before = EvalModel(loaded).tower()
    with torch.no_grad():
        next(loaded.model.visual.parameters()).add_(1)  # pyright: ignore
    assert EvalModel(loaded).tower() == before
    with torch.no_grad():
        loaded.model.token_embedding.weight.add_(1)  # pyright: ignore
    assert EvalModel(loaded).tower() != before


def npy(values: list[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values), allow_pickle=True)
    return buffer.getvalue()


BAD_METADATA: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, r"sample s0000003 of .*there is no npy"),
    "cut": (npy([1, 2, 3])[:50], r"sample s0000003 of .*its npy cannot be read"),
    "pickled": (npy([{}]), r"sample s0000003 of .*its npy cannot be read"),
    "too short": (npy([1]), r"sample s0000003: its npy has shape \(1,\)"),
    "another length": (npy([1, 2, 3, 4]), r"sample s0000003: its npy has 4 numbers, others have 3"),
    "another length in a batch of its own": (npy([1, 2, 3, 4]), r"sample s0000003: its npy has 4 numbers, others have 3"),
    "negative": (npy([-1, 2, 3]), r"sample s0000003: the field region of its npy is -1"),
    "absurd": (npy([1 << 40, 2, 3]), r"sample s0000003: the field region of its npy is 1099511627776"),
    "not a number": (npy([float("nan"), 2, 3]), r"sample s0000003: the field region of its npy is nan"),
}


@pytest.mark.parametrize("fault", BAD_METADATA)
def test_bad_metadata_names_the_sample(prepared: Path, tmp_path: Path, fault: str) -> None:
    data, told = BAD_METADATA[fault]
    made = [{**sample, "npy": npy([number % 3, number % 2, 0])} for number, sample in enumerate(samples(1, 8))]
    if data is None:
        del made[3]["npy"]
    else:
        made[3]["npy"] = data
    home = tmp_path / "sets" / "wds_wilds-fmow_test"
    write_set(home, made)
    write_names(home)
    spec = EvalSpec(suite="datacomp", tasks=("wilds/fmow",), expected="any", batch_size=1 if "of its own" in fault else 256)
    with pytest.raises(IncompleteError, match=f"wilds/fmow: .*{told}"):
        scored(prepared, tmp_path / "sets", tmp_path / "out", spec=spec)


def rewrite(home: Path, change: Callable[[list[dict[str, bytes]]], None]) -> None:
    changed = samples(2)
    change(changed)
    write_set(home, changed)


def damaged(samples: list[dict[str, bytes]]) -> None:
    samples[3]["webp"] = samples[3]["webp"][:40]


def far_label(samples: list[dict[str, bytes]]) -> None:
    samples[3]["cls"] = b"6"


def no_label(samples: list[dict[str, bytes]]) -> None:
    del samples[3]["cls"]


def bad_label(samples: list[dict[str, bytes]]) -> None:
    samples[3]["cls"] = b"dog"


def no_image(samples: list[dict[str, bytes]]) -> None:
    samples[3]["txt"] = samples[3].pop("webp")


def truncated(home: Path) -> None:
    path = home / "test" / "1.tar"
    path.write_bytes(path.read_bytes()[:9000])


def emptied(home: Path) -> None:
    write_set(home, [])


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "undecodable image": (lambda home: rewrite(home, damaged), r"sample s0000003 of .*1\.tar: cannot decode the image"),
    "label out of range": (lambda home: rewrite(home, far_label), r"sample s0000003: its label 6 is not one of the 6 classes"),
    "no label": (lambda home: rewrite(home, no_label), r"sample s0000003 of .*there is no cls"),
    "label not a number": (lambda home: rewrite(home, bad_label), r"sample s0000003 of .*its cls cannot be read"),
    "no image": (lambda home: rewrite(home, no_image), r"sample s0000003 of .*there is no image \(it has cls, txt\)"),
    "truncated tar": (truncated, r"1\.tar is damaged: .* at byte \d+"),
    "missing tar": (lambda home: (home / "test" / "1.tar").unlink(), r"1\.tar is not there"),
    "missing set": (shutil.rmtree, r"nshards\.txt is not there"),
    "no test sample": (emptied, r"does not contain a test sample"),
    "no class names": (lambda home: (home / "classnames.txt").write_text("\n \n"), r"classnames\.txt is empty"),
    "class names not UTF-8": (
        lambda home: (home / "classnames.txt").write_bytes(b"caf\xe9"),
        r"classnames\.txt is not UTF-8 text",
    ),
    "bad template": (
        lambda home: (home / "zeroshot_classification_templates.txt").write_text("a {dog}"),
        r"template 'a \{dog\}' is malformed",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_set_ends_its_task_alone_and_the_whole_is_incomplete(
    prepared: Path, sets: Path, tmp_path: Path, fault: str
) -> None:
    break_it, told = FAULTS[fault]
    break_it(sets / "wds_tiny-coarse_test")
    spec = EvalSpec(tasks=("tiny/objects", "tiny/coarse", "tiny/flags"), batch_size=4)
    with pytest.raises(IncompleteError, match=f"1 of 3 evaluation tasks failed.*tiny/coarse: .*{told}"):
        scored(prepared, sets, tmp_path / "out", spec=spec)
    made = Report.model_validate_json((tmp_path / "out" / "report.json").read_bytes())
    assert [bool(task.error) for task in made.tasks] == [False, True, False]
    assert (made.average, made.complete) == (None, False)
    assert len((tmp_path / "out" / "eval_results.jsonl").read_text().splitlines()) == 2


def test_a_rerun_keeps_what_is_done_and_only_that_of_the_same_model_and_data(
    prepared: Path, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truncated(sets / "wds_tiny-coarse_test")
    with pytest.raises(IncompleteError):
        scored(prepared, sets, tmp_path / "out")
    write_set(sets / "wds_tiny-coarse_test", samples(2))
    ran: list[str] = []
    plain = running._Run._opened  # pyright: ignore[reportPrivateUsage]

    def watched(self: Any, task: Any, began: float) -> Any:
        ran.append(task.key)
        return plain(self, task, began)

    monkeypatch.setattr(running._Run, "_opened", watched)  # pyright: ignore[reportPrivateUsage]
    made = scored(prepared, sets, tmp_path / "out")
    assert ran == ["tiny/coarse"]
    assert made.complete
    assert made.average is not None
    ran.clear()
    coarse = suite("tiny").task("tiny/coarse")
    monkeypatch.setattr(EvalSpec, "wanted", lambda spec: [replace(coarse, metric="mean_per_class_recall")])
    again = scored(prepared, sets, tmp_path / "out")
    assert (ran, again.tasks[0].main_metric) == (["tiny/coarse"], "mean_per_class_recall")
    monkeypatch.undo()
    monkeypatch.setattr(running._Run, "_opened", watched)  # pyright: ignore[reportPrivateUsage]
    ran.clear()
    evaluate_folder(model=MODEL, checkpoint=None, data=str(sets), out=str(tmp_path / "out"), device="cpu")
    assert len(ran) == 7, "other weights: nothing may be kept"


@pytest.mark.parametrize("library", ["scikit-learn", "clip-benchmark", "torch"])
def test_a_result_of_another_version_of_a_metric_is_not_kept(
    prepared: Path, sets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, library: str
) -> None:
    """The record of a run with an earlier release, as it would lie in the folder."""
    spec = EvalSpec(tasks=("tiny/coarse",))
    first = scored(prepared, sets, tmp_path / "out", spec=spec)
    kept = tmp_path / "out" / "tasks" / "tiny-coarse.json"
    current = json.loads(kept.read_text())
    assert current["identity"]["made_of"][library] == version(library)
    caplog.clear()
    scored(prepared, sets, tmp_path / "out", spec=spec)
    assert "evaluated again" not in caplog.text
    current["identity"]["made_of"][library] = "0.1"
    kept.write_text(json.dumps(current))
    again = scored(prepared, sets, tmp_path / "out", spec=spec)
    assert f"tiny/coarse is evaluated again: another {library}" in caplog.text
    assert again.tasks[0].metrics == first.tasks[0].metrics


def test_the_catalogs_counts_are_asked_for(prepared: Path, sets: Path, tmp_path: Path) -> None:
    shutil.copytree(sets / "wds_tiny-coarse_test", sets / "wds_cifar10_test")
    with pytest.raises(IncompleteError, match="has 24 samples and the task has 10000"):
        scored(prepared, sets, tmp_path / "out", spec=EvalSpec(suite="datacomp", tasks=("cifar10",)))


def test_a_folder_without_sets_and_a_checkpoint_of_another_model(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="no test set of a known suite"):
        scored(prepared, tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(DataError, match=r"checkpoint\.pt does not fit the model RN50"):
        clip.load("RN50", prepared / "checkpoint.pt", "cpu")


class MadeUp(Spec):
    scale: str = "tiny"
    source: str


@step("evalsets", version=1)
def made_up_sets(spec: MadeUp, *, out: Folder) -> EvalSets:
    for path in sorted(Path(spec.source, "sets").rglob("*")):
        if path.is_file():
            out.write(str(path.relative_to(Path(spec.source, "sets"))), path.read_bytes())
    return EvalSets(suite="tiny", num_tasks=7)


@step("checkpoints", version=1)
def made_up_checkpoint(spec: MadeUp, *, out: Folder) -> Checkpoint:
    out.write("checkpoint.pt", Path(spec.source, "checkpoint.pt").read_bytes())
    return Checkpoint(model=MODEL, seed=3, samples_seen=0, steps=0)


@pytest.mark.s3
def test_the_step_gives_the_same_on_a_disk_and_in_a_bucket(prepared: Path, tmp_path: Path, s3_url: str) -> None:
    found: list[Any] = []
    for place in (str(tmp_path / "store"), s3_url):
        store, spec = Store.open(place), MadeUp(source=str(prepared))
        made = evaluate(
            EvalSpec(), made_up_checkpoint(spec, store=store), made_up_sets(spec, store=store), store=store, device="cpu"
        )
        report = Report.model_validate(store.folder(made).read_json("report.json"))
        assert made.average == report.average is not None
        assert (made.suite, made.num_tasks, made.counts) == ("tiny", 7, {"samples": 168})
        found.append([(task.key, task.metrics, task.data) for task in report.tasks])
    assert found[0] == found[1]
