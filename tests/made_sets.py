"""Small test sets in the layout of the hub's repositories, from the tiny pool's real images."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import polars as pl

import datacomp_core.pool

POOL = Path(datacomp_core.pool.__file__).parent / "tiny_data" / "images.parquet"


def pool_images(count: int) -> list[bytes]:
    return pl.read_parquet(POOL, columns=["image"], n_rows=count)["image"].to_list()


def tar(samples: list[dict[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for number, members in enumerate(samples):
            for extension, data in members.items():
                info = tarfile.TarInfo(f"s{number:07d}.{extension}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def repository(count: int, classes: int) -> dict[str, bytes]:
    """In the layout of the hub, with what a hub's repository has beside."""
    images = pool_images(count)
    samples = [{"cls": str(row % classes).encode(), "webp": image} for row, image in enumerate(images)]
    return {
        "README.md": b"---\nlicense: other\n---\n",
        ".gitattributes": b"*.tar filter=lfs\n",
        "loader.py": b"raise SystemExit('a hub\\'s code was run')\n",
        "classnames.txt": "\n".join(f"thing {n}" for n in range(classes)).encode(),
        "zeroshot_classification_templates.txt": b"a photo of {c}.\n",
        "test/nshards.txt": b"2",
        "test/0.tar": tar(samples[: count // 2]),
        "test/1.tar": tar(samples[count // 2 :]),
    }


def write(root: Path, files: dict[str, bytes]) -> None:
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
