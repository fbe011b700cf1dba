"""A small pool of plain folders to explore: hostile captions, pictures in a shard with an index, a ledger, and two subsets."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from datacomp_core.explore.explore_source import ExploreSource
from datacomp_core.shards import ShardWriter, write_index
from datacomp_core.store import Folder
from datacomp_core.uid import pack, subset_bytes, uid_of
from deployments.explore.explore_sources import of_folders
from deployments.explore.explorer import Explorer, open_explorer

ROWS, SIZE, LOST = 300, 12, 20
COLOURS = ((220, 40, 40), (40, 160, 60), (40, 70, 220))
HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "javascript:alert(1) \u202egnp.exe \x00\x07",
    "';--{{7*7}}${7*7}<svg/onload=alert(1)>",
)


def make_pool(folder: Path) -> Path:
    """Metadata of two parts, features, a tar of all pictures but the last LOST, `kept.npy` and `twice.npy`."""
    random = np.random.default_rng(11)
    texts = [*HOSTILE, None, *[f"a {('red', 'green', 'blue')[row % 3]} square number {row}" for row in range(ROWS - 5)]]
    urls = [f"https://pictures.example/{row}.png" for row in range(ROWS)]
    uids = [uid_of(url, text) for url, text in zip(urls, texts, strict=True)]
    scores = np.round(random.normal(size=ROWS), 3).astype(np.float32)
    vectors = np.eye(3, SIZE)[np.arange(ROWS) % 3] + random.normal(size=(ROWS, SIZE)) * 0.1
    vectors[-LOST:] = np.nan
    table = pl.DataFrame(
        {
            "uid": uids,
            "url": urls,
            "text": texts,
            "original_width": [64 + row % 40 for row in range(ROWS)],
            "original_height": [64] * ROWS,
            "clip_l14_similarity_score": scores,
            "nsfw": [row % 10 / 10 for row in range(ROWS)],
            "face_bboxes": [[[0.0, 0.0, 0.5, 0.5]] * (row % 4) for row in range(ROWS)],
        }
    )
    (folder / "metadata").mkdir(parents=True)
    for part, rows in enumerate((slice(0, 140), slice(140, ROWS))):
        table[rows].write_parquet(folder / "metadata" / f"{part:08d}.parquet")
        features = vectors[rows].astype(np.float16)
        np.savez(folder / "metadata" / f"{part:08d}.npz", l14_img=features, l14_txt=features[::-1])
    _write_shard(folder / "shards", uids[:-LOST])
    chosen = pack(pl.Series(uids))[scores > 0.2]
    (folder / "kept.npy").write_bytes(subset_bytes(chosen))
    (folder / "twice.npy").write_bytes(subset_bytes(np.repeat(chosen[:50], 2)))
    return folder


def _write_shard(folder: Path, uids: list[str]) -> None:
    folder.mkdir()
    with (folder / "00000000.tar").open("wb") as file:
        writer = ShardWriter(file, "00000000")
        for row, uid in enumerate(uids):
            buffer = io.BytesIO()
            colour = COLOURS[row % 3]
            Image.new("RGB", (64 + row % 40, 64), colour).save(buffer, "PNG")
            writer.add(uid, f"{row:09d}", {"png": buffer.getvalue() if row != 3 else b"no picture", "txt": b"x"})
        index = writer.finish()
    write_index(Folder(str(folder)), "00000000", index)


def with_clip(folder: Path) -> Path:
    """Features by a small CLIP of random weights, `clip.pt`, instead of the made-up ones."""
    import torch

    from datacomp_core import clip

    torch.manual_seed(0)
    model = clip.load("datacomp-tiny", None, "cpu")
    torch.save({"state_dict": model.model.state_dict()}, folder / "clip.pt")
    for file in sorted((folder / "metadata").glob("*.parquet")):
        table = pl.read_parquet(file)
        numbers = [int(url.rpartition("/")[2].removesuffix(".png")) for url in table["url"]]
        pictures = [Image.new("RGB", (64 + row % 40, 64), COLOURS[row % 3]) for row in numbers]
        for row, picture in zip(numbers, pictures, strict=True):
            picture.putpixel((row % 60, row // 8), (0, 0, 0))
        images = model.encode_images(np.stack([model.pixels(picture) for picture in pictures])).numpy()
        images[[row >= ROWS - LOST for row in numbers]] = np.nan
        texts = model.encode_texts([text or "" for text in table["text"]]).numpy()
        np.savez(file.with_suffix(".npz"), tiny_img=images.astype(np.float16), tiny_txt=texts.astype(np.float16))
    return folder


def origin_of(folder: Path) -> ExploreSource:
    """With the CLIP of its features, if it has one."""
    from datacomp_core.clip_sources import FileModel

    subsets = [str(folder / name) for name in ("kept.npy", "twice.npy")]
    weights = folder / "clip.pt"
    models = {"tiny": FileModel("datacomp-tiny", "datacomp-tiny", weights)} if weights.exists() else {}
    return of_folders(str(folder / "metadata"), [], [], str(folder / "shards"), subsets, {**models})


def explorer_of(folder: Path, home: Path, num_rows: int = 100_000) -> Explorer:
    return open_explorer(origin_of(folder), num_rows, home)
