"""Makes the seven zero-shot tasks of suite `tiny`, in the hub's webdataset layout, one folder per task. They do not depend on
the pool's seed. `digits` is the negative control: nothing in the pool teaches it.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from datacomp_core.artifacts import EvalSets, Spec
from datacomp_core.pool import tiny_captions as captions
from datacomp_core.pool.tiny_holdout import HOLDOUT_SEED, directory, holdout
from datacomp_core.pool.tiny_source import Drawing
from datacomp_core.shards import ShardWriter
from datacomp_core.store import Folder, step

COARSE_NAMES = {
    "Smileys & Emotion": "face",
    "People & Body": "person",
    "Animals & Nature": "animal or plant",
    "Food & Drink": "food or drink",
    "Travel & Places": "place or vehicle",
    "Activities": "game or sport",
    "Objects": "everyday object",
    "Symbols": "symbol or sign",
    "Flags": "flag",
}
CLIPART_NAMES = {"signs_and_symbols": "sign", "transportation": "vehicle"}
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUM_DIGITS = 500
SHARD_SAMPLES = 250


class TinyEvalSpec(Spec):
    """All tasks of suite `tiny`. The split is fixed (see `tiny_holdout`): there is nothing to choose."""

    scale: Literal["tiny"] = "tiny"

    def label(self) -> str:
        return "tiny"


@dataclass(frozen=True)
class LabeledImages:
    """Images with labels; label = index into `classes`."""

    name: str
    classes: list[str]
    templates: tuple[str, ...]
    samples: list[tuple[bytes, int]]


@step("evalsets", version=1)
def build_tiny_evalsets(spec: TinyEvalSpec, *, out: Folder) -> EvalSets:
    """`wds_tiny-<task>_test/` for objects, objects_3d, coarse, flags, clipart, digits and retrieval."""
    tasks = holdout().tasks
    sets = [
        _labelled("objects", [(d, d.name) for d in tasks["objects"]], captions.TEST_TEMPLATES),
        _labelled("objects_3d", [(d, d.name) for d in tasks["objects_3d"]], captions.TEST_TEMPLATES),
        _labelled("coarse", [(d, COARSE_NAMES[d.category]) for d in tasks["coarse"]], captions.TEST_TEMPLATES),
        _labelled("flags", [(d, d.name) for d in tasks["flags"]], captions.FLAG_TEMPLATES),
        _labelled("clipart", [(d, _clipart_name(d)) for d in tasks["clipart"]], captions.TEST_TEMPLATES),
        _digits(),
    ]
    counts: dict[str, int] = {}
    for task in sets:
        home = out / f"wds_tiny-{task.name}_test"
        home.write("classnames.txt", _lines(task.classes))
        home.write("zeroshot_classification_templates.txt", _lines(task.templates))
        _write(home, [{"cls": str(label).encode(), "webp": image} for image, label in task.samples])
        counts[task.name] = len(task.samples)
    home = out / "wds_tiny-retrieval_test"
    home.write("dataset_type.txt", b"retrieval\n")
    _write(home, [{"txt": _lines(_descriptions(d)), "webp": d.image} for d in tasks["retrieval"]])
    counts["retrieval"] = len(tasks["retrieval"])
    return EvalSets(suite="tiny", num_tasks=len(counts), counts=counts)


def _labelled(name: str, named: list[tuple[Drawing, str]], templates: tuple[str, ...]) -> LabeledImages:
    classes = sorted({label for _, label in named})
    return LabeledImages(name, classes, templates, [(drawing.image, classes.index(label)) for drawing, label in named])


def _clipart_name(drawing: Drawing) -> str:
    name = directory(drawing)
    return CLIPART_NAMES.get(name, name)


def _digits() -> LabeledImages:
    """Handwritten digits (8 x 8, from scikit-learn) at 32 px."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    chosen = random.Random(HOLDOUT_SEED).sample(range(len(images)), NUM_DIGITS)
    pixels = (255 - images[chosen].reshape(-1, 8, 8) * 255 / 16).astype("uint8")
    samples = [
        (_webp(Image.fromarray(image).resize((32, 32))), int(label)) for image, label in zip(pixels, labels[chosen], strict=True)
    ]
    return LabeledImages("digits", list(DIGITS), captions.DIGIT_TEMPLATES, samples)


def _webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def _descriptions(drawing: Drawing) -> list[str]:
    chance = random.Random(f"{HOLDOUT_SEED} {drawing.key}")
    return [captions.fill(template, drawing, chance) for template in captions.RETRIEVAL_TEMPLATES]


def _lines(lines: list[str] | tuple[str, ...]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _write(home: Folder, members: list[dict[str, bytes]]) -> None:
    random.Random(HOLDOUT_SEED).shuffle(members)
    starts = range(0, len(members), SHARD_SAMPLES)
    for number, start in enumerate(starts):
        with home.writing(f"test/{number}.tar") as path, path.open("wb") as file:
            writer = ShardWriter(file, str(number))
            for at, files in enumerate(members[start : start + SHARD_SAMPLES], start):
                writer.add("", f"s{at:07d}", files)
            writer.finish()
    home.write("test/nshards.txt", str(len(starts)).encode())
