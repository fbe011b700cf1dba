"""Small test sets of every protocol, in the exact layout of the hub repositories, from the tiny pool's real images.

Everything is seeded, so that the reference's frozen metrics (`evaluation.json`) can be compared with ours on the same bytes.
Images are of all kinds that the converters leave: lossless webp, png in several modes, odd sizes; class names repeat and
have blank lines between them, as in the real sets.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from PIL import Image

import datacomp_core.pool

IMAGES = Path(datacomp_core.pool.__file__).parent / "tiny_data" / "images.parquet"
MODEL = "datacomp-tiny"
CHECKPOINTS = ("first", "second")
FOLDERS = {
    "cifar10": "wds_cifar10_test",
    "vtab/caltech101": "wds_vtab-caltech101_test",
    "vtab/pcam": "wds_vtab-pcam_test",
    "vtab/dtd": "wds_vtab-dtd_test",
    "wilds/iwildcam": "wds_wilds-iwildcam_test",
    "wilds/camelyon17": "wds_wilds-camelyon17_test",
    "wilds/fmow": "wds_wilds-fmow_test",
    "fairness/dollar_street": "wds_dollar_street_test",
    "fairness/geode": "wds_geode_test",
    "fairness/fairface": "wds_fairface_test",
    "fairness/utkface": "wds_utkface_test",
}
FLICKR = "retrieval/flickr_1k_test_image_text_retrieval"
COCO = "retrieval/mscoco_2014_5k_test_image_text_retrieval"
WINOGAVIL = "misc/winogavil"
TEMPLATES = ("a photo of a {c}.", "a drawing of the {c}", "{c}")


def checkpoint(path: Path, name: str) -> None:
    """Seeded random weights in the form of a training checkpoint, the second with larger ones.

    Features of random weights all point one way, and every image would get the same class: their mean (rounded, so that it
    is the same on every machine) is taken out through the biases of both towers.
    """
    import open_clip
    import torch

    from datacomp_core import clip

    clip.register()
    torch.manual_seed(CHECKPOINTS.index(name))
    model: Any = open_clip.create_model(MODEL, load_weights=False).eval()
    with torch.no_grad():
        if name == "second":
            for value in model.parameters():
                value.mul_(1.5 if value.ndim > 1 else 1.0)
        maker, random = Maker(Path()), np.random.default_rng(0)
        _, transform = open_clip.create_model_and_transforms(MODEL, load_weights=False)[1:]
        pictures = torch.stack([transform(Image.open(io.BytesIO(maker.image(random)[1]))) for _ in range(64)])  # pyright: ignore
        bias = model.visual.attnpool.c_proj.bias
        bias.sub_(rounded(model.encode_image(pictures).mean(dim=0)))
        tokens = open_clip.get_tokenizer(MODEL)(maker.some_names(random, 64))
        projected = model.encode_text(tokens).mean(dim=0)
        model.ln_final.bias.sub_(rounded(torch.linalg.lstsq(model.text_projection.T, projected[:, None])[0][:, 0]))
    torch.save({"epoch": 1, "state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, path)


def rounded(values: Any) -> Any:
    return (values * 1000).round() / 1000


class Maker:
    """Makes sets below `root` from one stream of random numbers a set."""

    def __init__(self, root: Path) -> None:
        self.root = root
        table = pl.read_parquet(IMAGES, columns=["name", "image"]).head(4000)
        self.images, self.names = table["image"].to_list(), table["name"].to_list()

    def image(self, random: np.random.Generator) -> tuple[str, bytes]:
        """A member's extension and bytes."""
        data = self.images[int(random.integers(len(self.images)))]
        kind = int(random.integers(5))
        if kind < 2:
            return "webp", data
        image = Image.open(io.BytesIO(data)).convert("RGB")
        if kind == 2:
            image = image.resize((int(random.integers(20, 90)), int(random.integers(20, 90))))
        if kind == 3:
            image = image.convert(("L", "P", "RGBA", "1")[int(random.integers(4))])
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return "png", buffer.getvalue()

    def some_names(self, random: np.random.Generator, count: int) -> list[str]:
        return [self.names[int(i)] for i in random.choice(len(self.names), count, replace=False)]

    def write(self, folder: str, samples: list[dict[str, bytes]], num_shards: int) -> None:
        home = self.root / folder / "test"
        home.mkdir(parents=True)
        (home / "nshards.txt").write_text(f"{num_shards}\n")
        size = -(-len(samples) // num_shards)
        for shard in range(num_shards):
            with tarfile.open(home / f"{shard}.tar", "w") as tar:
                for number, members in enumerate(samples[shard * size : (shard + 1) * size], shard * size):
                    for extension, data in members.items():
                        info = tarfile.TarInfo(f"s{number:07d}.{extension}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))

    def labelled(
        self, folder: str, seed: int, classes: int, count: int, fields: tuple[int, ...] = (), blank: bool = False
    ) -> None:
        """Class names with repeats; metadata below the given bounds, the last group of the first field rare."""
        random = np.random.default_rng(seed)
        names = self.some_names(random, classes)
        if classes > 6:
            names[5] = names[2]
        samples: list[dict[str, bytes]] = []
        for number in range(count):
            label = int(random.integers(max(1, classes - 1)))  # the last class never occurs
            extension, data = self.image(random)
            members = {"cls": str(label).encode(), extension: data}
            if fields:
                row = [int(random.integers(bound - 1 if place == 0 else bound)) for place, bound in enumerate(fields)]
                if number in (3, 11):
                    row[0] = fields[0] - 1
                members["npy"] = npy(np.array([*row, label][: len(fields) + 1]))
            samples.append(members)
        self.write(folder, samples, 1 if count < 40 else 3)
        if blank:
            names.insert(2, "  ")
        self.text(folder, names, TEMPLATES[: 1 + seed % 3])

    def text(self, folder: str, names: list[str], templates: tuple[str, ...]) -> None:
        (self.root / folder / "classnames.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
        (self.root / folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n", encoding="utf-8")

    def faces(self, folder: str, seed: int, count: int) -> None:
        random = np.random.default_rng(seed)
        counts = {"race": 7, "gender": 2, "age": 9, "toxic": 22}
        names = [f"{kind}:{name}" for kind, number in counts.items() for name in self.some_names(random, number)]
        samples: list[dict[str, bytes]] = []
        for _ in range(count):
            extension, data = self.image(random)
            race = int(random.integers(7))
            row = np.array([int(random.integers(9)), int(random.integers(2)), race, int(race != 1)])
            samples.append({"cls": b"0", "npy": npy(row), extension: data})
        self.write(folder, samples, 2)
        self.text(folder, names, tuple(f"{kind}:{template}" for kind in counts for template in TEMPLATES[:2]))


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def captioned(seed: int, count: int) -> list[tuple[bytes, list[str]]]:
    """Images with one to five captions, for the retrieval sets."""
    maker, random = Maker(Path()), np.random.default_rng(seed)
    return [
        (maker.image(random)[1], [f"a {name} in a picture" for name in maker.some_names(random, 1 + number % 5)])
        for number in range(count)
    ]


def associations(seed: int, count: int) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Images by name, and instances of WinoGAViL: a cue, candidates, and those among them that go with it."""
    maker, random = Maker(Path()), np.random.default_rng(seed)
    images = {f"picture{number}": maker.image(random)[1] for number in range(40)}
    instances: list[dict[str, Any]] = []
    for number in range(count):
        candidates = [str(name) for name in random.choice(list(images), (5, 6, 10, 12)[number % 4], replace=False)]
        chosen = [str(name) for name in random.choice(candidates, 2 + number % 3, replace=False)]
        instances.append({"cue": maker.some_names(random, 1)[0].title(), "candidates": candidates, "associations": chosen})
    return images, instances


def hub_tables(root: Path) -> None:
    """The three sets that are a table and an archive, as on the hub, each in the folder of its repository."""
    for name, seed in ((FLICKR, 21), (COCO, 22)):
        rows = captioned(seed, 60)
        home = archive(root / name.removeprefix("retrieval/"), {f"{n}.jpg": data for n, (data, _) in enumerate(rows)})
        table(home, [{"filename": f"{n}.jpg", "raw": json.dumps(captions)} for n, (_, captions) in enumerate(rows)])
    images, instances = associations(23, 60)
    home = archive(root / "winogavil", {f"winogavil_images/{name}.jpg": data for name, data in images.items()})
    table(home, [{key: json.dumps(value) if key != "cue" else value for key, value in one.items()} for one in instances])


def archive(home: Path, members: dict[str, bytes]) -> Path:
    home.mkdir(parents=True)
    with zipfile.ZipFile(home / "images.zip", "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return home


def table(home: Path, rows: list[dict[str, str]]) -> None:
    with (home / "test.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def webdatasets(root: Path) -> None:
    """All of FOLDERS below `root`."""
    maker = Maker(root)
    maker.labelled(FOLDERS["cifar10"], 1, 10, 90)
    maker.labelled(FOLDERS["vtab/caltech101"], 2, 30, 80)
    maker.labelled(FOLDERS["vtab/pcam"], 3, 2, 30)
    maker.labelled(FOLDERS["vtab/dtd"], 4, 12, 50, blank=True)
    maker.labelled(FOLDERS["wilds/iwildcam"], 5, 20, 70, (6, 4, 3, 12, 28, 24, 60, 60))
    maker.labelled(FOLDERS["wilds/camelyon17"], 6, 2, 60, (3, 7))
    maker.labelled(FOLDERS["wilds/fmow"], 7, 6, 120, (6, 16))
    maker.labelled(FOLDERS["fairness/dollar_street"], 8, 14, 70, (4, 5, 4))
    maker.labelled(FOLDERS["fairness/geode"], 9, 4, 90, (6, 9))
    maker.faces(FOLDERS["fairness/fairface"], 10, 60)
    maker.faces(FOLDERS["fairness/utkface"], 11, 60)
