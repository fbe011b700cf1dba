"""Odd test sets and models that give NaN: the task is named with its sample, the others go on; captions stay as they are."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datacomp_core import clip
from datacomp_core.errors import DataError, IncompleteError
from datacomp_core.evaluation.evaluate import EvalSpec, evaluate_folder
from datacomp_core.evaluation.probes import Probes, probe
from datacomp_core.evaluation.tables import open_associations, open_captions
from datacomp_core.image_preprocessing import Pixels
from datacomp_core.store import Folder

MODEL = "datacomp-tiny"
ODD = ["a \x1c dog", "line one\nline two", "tab\tand\x0bmore\x85end\u2028", "a &amp; b", "  spaces  ", ""]


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def table(home: Path, rows: list[dict[str, str]], pictures: list[str], *, delimiter: str = ",", start: str = "") -> Folder:
    home.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    (home / "set.csv").write_text(start + text.getvalue(), encoding="utf-8", newline="")
    with zipfile.ZipFile(home / "set.zip", "w") as archive:
        for seed, name in enumerate(pictures):
            archive.writestr(name, picture(seed))
    return Folder(home)


def captions_of(folder: Folder) -> list[list[str]]:
    """As they arrive at the protocol."""
    data = open_captions(folder)
    pixels = Pixels(8, 8, (0, 0, 0), (1, 1, 1))
    return [own for batch in data.batches("it", 2, pixels) for own in batch.read().members["txt"]]


def test_captions_reach_the_tokenizer_as_they_are(tmp_path: Path) -> None:
    import open_clip

    found = captions_of(table(tmp_path, [{"filename": "a.png", "raw": json.dumps(ODD)}], ["a.png"]))
    assert found == [ODD]
    assert torch.equal(open_clip.get_tokenizer("ViT-B-32")(found[0]), open_clip.get_tokenizer("ViT-B-32")(ODD))


@pytest.mark.parametrize(
    ("names", "delimiter", "start"),
    [(("filename", "raw"), ",", "\ufeff"), (("filename", "raw"), ";", ""), (("image", "caption"), ",", ""),
     (("image_name", "comment"), "|", "")],
)  # fmt: skip
def test_a_row_a_caption_makes_one_image_of_its_rows(names: tuple[str, str], delimiter: str, start: str, tmp_path: Path) -> None:
    pairs = [("a.png", "a dog"), ("a.png", "an animal"), ("b.png", "a cat"), ("a.png", "a third")]
    rows = [dict(zip(names, pair, strict=True)) for pair in pairs]
    folder = table(tmp_path, rows, ["images/a.png", "images/b.png"], delimiter=delimiter, start=start)
    assert open_captions(folder).names == ("images/a.png", "images/b.png")
    assert captions_of(folder) == [["a dog", "an animal", "a third"], ["a cat"]]


def test_a_caption_may_begin_with_a_bracket(tmp_path: Path) -> None:
    texts = ["(left) a dog", "[sic] a cat", "(a boat)", "[a car"]
    rows = [{"filename": f"{n}.png", "raw": text} for n, text in enumerate(texts)]
    rows.append({"filename": "4.png", "raw": "('a list', \"of two\")"})
    assert captions_of(table(tmp_path, rows, [f"{n}.png" for n in range(5)])) == [*([one] for one in texts), ["a list", "of two"]]
    with pytest.raises(DataError, match=r"row 1: .* is not a list"):
        open_captions(table(tmp_path / "cut", [{"filename": "a.png", "raw": '["one", "tw'}], ["a.png"]))


def test_one_name_in_two_folders_is_told_apart_or_refused(tmp_path: Path) -> None:
    rows = [{"filename": "x/a.png", "raw": '["one"]'}, {"filename": "y/a.png", "raw": '["two"]'}]
    assert open_captions(table(tmp_path / "apart", rows, ["x/a.png", "y/a.png"])).names == ("x/a.png", "y/a.png")
    with pytest.raises(DataError, match=r"row 1: the picture 'a.png' is in the archive more than once \(x/a.png, y/a.png\)"):
        open_captions(table(tmp_path / "same", [{"filename": "a.png", "raw": '["one"]'}], ["x/a.png", "y/a.png"]))


def test_cells_and_captions_that_are_missing_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"row 2: it has no caption"):
        rows = [{"filename": "a.png", "raw": '["one"]'}, {"filename": "b.png", "raw": " "}]
        open_captions(table(tmp_path, rows, ["a.png", "b.png"]))
    (tmp_path / "set.csv").write_text("filename,raw\na.png,one\nb.png\n")
    with pytest.raises(DataError, match=r"row 2: it does not have as many cells as the header"):
        open_captions(Folder(tmp_path))


def instance(**changed: str) -> dict[str, str]:
    return {"cue": "Bark", "candidates": '["a", "b", "c"]', "associations": "['a']"} | changed


@pytest.mark.parametrize(("delimiter", "start"), [(",", ""), (";", "\ufeff")])
def test_instances_of_winogavil_are_read_as_they_are(delimiter: str, start: str, tmp_path: Path) -> None:
    rows = [instance(), instance(cue="é tree", candidates='["c", "b"]', associations='["b"]')]
    found = open_associations(table(tmp_path, rows, ["x/b.png", "x/c.JPG", "x/a.png"], delimiter=delimiter, start=start))
    assert found.names == ("x/a.png", "x/b.png", "x/c.JPG")
    assert [(one.cue, one.candidates, one.associations) for one in found.instances] == [
        ("Bark", ("a", "b", "c"), ("a",)),
        ("é tree", ("c", "b"), ("b",)),
    ]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (instance(associations="[]"), "row 2: no candidate belongs to its cue"),  # all were taken for the right ones before
        (instance(associations='["a", "d"]'), "row 2: the association 'd' is not one of its candidates"),
        (instance(candidates='["a"]'), "row 2: one candidate is not a choice"),
        (instance(candidates='["a", "a"]'), "row 2: one candidate is not a choice"),
        (instance(candidates="[]"), "row 2: it has no cue or no candidates"),
        (instance(cue=" "), "row 2: it has no cue or no candidates"),
        (instance(candidates='["a", "z"]'), "row 2: the picture 'z' is not in the archive"),
        (instance(candidates="a, b"), "row 2: 'a, b' is not a list"),
        (instance(candidates="__import__('os').system('false')"), "row 2: .* is not a list"),
    ],
)
def test_an_instance_of_winogavil_that_cannot_be_scored_is_named(row: dict[str, str], told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"set.csv, {told}"):
        open_associations(table(tmp_path, [instance(), row], ["a.png", "b.png", "c.png"]))


def test_a_class_of_few_images_is_told() -> None:
    """Two classes of five and one of two: of each at most all but one are trained on."""
    labels = np.repeat(np.arange(3, dtype=np.int32), (5, 5, 2))
    features = np.eye(3, dtype=np.float32)[labels]
    found = probe(Probes((1, 4)), features, labels, "cpu")
    assert found["few_shot_1"] == {"mean": 1.0, "std": 0.0, "draws": 3}
    assert found["few_shot_4"] == {"mean": 1.0, "std": 0.0, "draws": 3, "short_classes": 1, "fewest": 1}
    assert probe(Probes((9,)), features, labels, "cpu")["few_shot_9"]["short_classes"] == 3


def test_probes_of_one_image_a_class_have_no_value() -> None:
    features, labels = np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32)
    assert probe(Probes((1,), True), features, labels, "cpu") == {"linear_probe": None, "few_shot_1": None}
    with pytest.raises(ValueError, match="few_shot"):
        EvalSpec(few_shot=(0,))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from test_evaluation_run import write_all

    root = tmp_path_factory.mktemp("sets")
    write_all(root)
    return root


def evaluated(sets: Path, out: Path, checkpoint: Path, *tasks: str) -> Any:
    spec = EvalSpec(suite="tiny", tasks=tasks)
    return evaluate_folder(model=MODEL, checkpoint=checkpoint, data=str(sets), out=str(out), device="cpu", spec=spec)


def weights() -> dict[str, Any]:
    clip.register()
    import open_clip

    torch.manual_seed(3)
    return open_clip.create_model(MODEL, load_weights=False).state_dict()


def test_weights_with_nan_are_refused_and_nothing_is_written(sets: Path, tmp_path: Path) -> None:
    torch.save(weights() | {"text_projection": weights()["text_projection"] * float("nan")}, tmp_path / "nan.pt")
    with pytest.raises(DataError, match=r"nan.pt cannot be used: the weight text_projection has NaN"):
        evaluated(sets, tmp_path / "out", tmp_path / "nan.pt", "tiny/coarse")
    assert not (tmp_path / "out/report.json").exists()


def test_a_finite_model_that_overflows_fails_its_tasks_with_the_sample(sets: Path, tmp_path: Path) -> None:
    large = {
        key: value * 1e30 if key.endswith("weight") and key.startswith("visual.") else value for key, value in weights().items()
    }
    torch.save(large, tmp_path / "large.pt")
    with pytest.raises(IncompleteError, match=r"tiny/coarse: sample s\d+: the model gives NaN or infinity for its image"):
        evaluated(sets, tmp_path / "out", tmp_path / "large.pt", "tiny/coarse")
    assert json.loads((tmp_path / "out/report.json").read_text())["average"] is None


def test_a_template_without_its_place_and_too_few_shards_end_their_tasks(sets: Path, tmp_path: Path) -> None:
    import shutil

    own = Path(shutil.copytree(sets, tmp_path / "own"))
    (own / "wds_tiny-coarse_test/zeroshot_classification_templates.txt").write_text("a photo of a {c}.\na photo.\n")
    (own / "wds_tiny-flags_test/test/nshards.txt").write_text("1")
    torch.save(weights(), tmp_path / "good.pt")
    with pytest.raises(IncompleteError) as failed:
        evaluated(own, tmp_path / "out", tmp_path / "good.pt", "tiny/coarse", "tiny/flags", "tiny/clipart")
    assert "tiny/coarse: The template 'a photo.' does not contain {c}" in str(failed.value)
    assert "nshards.txt says 1 shards and 2 tars exist" in str(failed.value)
    assert "2 of 3 evaluation tasks failed" in str(failed.value)
