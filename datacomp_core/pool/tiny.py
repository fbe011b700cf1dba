"""Makes the embedded `tiny` CommonPool: candidate pairs in DataComp's schema, and the images behind its urls. From its
metadata on it is a normal pool: its urls have a non-existent host, and `serve` answers for it as a local HTTP proxy, so the
metadata is the same on every machine. The evaluation sets and the trusted set are included.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from typing import Literal

import polars as pl
from pydantic import Field

from datacomp_core.artifacts import HoldoutCount, Pool, Spec
from datacomp_core.parts import METADATA, SCHEMA
from datacomp_core.pool.tiny_evalsets import TinyEvalSpec, build_tiny_evalsets
from datacomp_core.pool.tiny_holdout import holdout
from datacomp_core.pool.tiny_pairs import Candidate, candidates
from datacomp_core.pool.tiny_pixels import is_jpeg
from datacomp_core.pool.tiny_server import HOST, ORIGIN, serve
from datacomp_core.pool.tiny_source import open_image
from datacomp_core.pool.tiny_trusted import TrustedSpec, build_trusted
from datacomp_core.store import Folder, step
from datacomp_core.uid import uid_of

__all__ = ["TinyEvalSpec", "TinyPoolSpec", "TrustedSpec", "build_tiny_evalsets", "build_tiny_pool", "build_trusted", "serve"]

TRUTH = "truth.parquet"


class TinyPoolSpec(Spec):
    """A seeded pool of real drawings with captions of the web's quality."""

    scale: Literal["tiny"] = "tiny"
    seed: int = Field(default=0, ge=0, description="Varies everything random in the pool; the held-out images stay the same.")
    num_pairs: int = Field(default=12_000, ge=100, le=100_000, description="Candidate pairs, dead urls included.")
    num_parts: int = Field(default=8, ge=1, le=1_000, description="Metadata parquets.")

    def label(self) -> str:
        return f"pool{self.seed}"


@step("pools", version=2)
def build_tiny_pool(spec: TinyPoolSpec, *, out: Folder) -> Pool:
    """`metadata/<8 digits>.parquet`; `origin.parquet` (path, media_type, image: what `serve` answers); `truth.parquet`.

    `truth.parquet` has the kind of pair of each uid, for analysis of filters; no filter may read it. The same spec
    gives the same bytes on every machine with the pinned versions of Pillow and polars.
    """
    pairs = candidates(spec.seed, spec.num_pairs)
    rows = _metadata(pairs)
    for number in range(spec.num_parts):
        start, end = (len(rows) * edge // spec.num_parts for edge in (number, number + 1))
        out.write(f"{METADATA}/{number:08d}.parquet", parquet(rows[start:end]))
    out.write(ORIGIN, parquet(_origin(pairs), compression="uncompressed"))
    out.write(TRUTH, parquet(_truth(rows["uid"], pairs)))
    split = holdout()
    counts = Counter(pair.kind for pair in pairs) + Counter(f"url_{pair.fate}" for pair in pairs)
    counts |= {"held_out_drawings": len(split.tests), HoldoutCount.DROPPED.value: len(split.near)}
    return Pool(num_samples=len(rows), num_parts=spec.num_parts, counts=dict(sorted(counts.items())))


def parquet(frame: pl.DataFrame, compression: Literal["zstd", "uncompressed"] = "zstd") -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression=compression, row_group_size=1_000)
    return buffer.getvalue()


def _metadata(pairs: list[Candidate]) -> pl.DataFrame:
    sizes = [open_image(pair.crawled).size for pair in pairs]
    urls = [f"http://{HOST}{pair.path}" for pair in pairs]
    return pl.DataFrame(
        {
            "uid": [uid_of(url, pair.text) for url, pair in zip(urls, pairs, strict=True)],  # the url contains the seed
            "url": urls,
            "text": [pair.text for pair in pairs],
            "original_width": [width for width, _ in sizes],
            "original_height": [height for _, height in sizes],
            "clip_b32_similarity_score": [None] * len(pairs),
            "clip_l14_similarity_score": [None] * len(pairs),
            "face_bboxes": [[] for _ in pairs],
            "sha256": [hashlib.sha256(pair.crawled).hexdigest() for pair in pairs],
        },
        schema=SCHEMA,
    )


def _origin(pairs: list[Candidate]) -> pl.DataFrame:
    alive = sorted((pair for pair in pairs if pair.served), key=lambda pair: pair.path)
    media = ["image/jpeg" if is_jpeg(pair.served) else "image/webp" for pair in alive]
    return pl.DataFrame(
        {"path": [pair.path for pair in alive], "media_type": media, "image": [pair.served for pair in alive]},
        schema={"path": pl.String, "media_type": pl.String, "image": pl.Binary},
    )


def _truth(uids: pl.Series, pairs: list[Candidate]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "uid": uids,
            "kind": [pair.kind for pair in pairs],
            "shape": [pair.shape for pair in pairs],
            "url_is": [pair.fate for pair in pairs],
            "lang": [pair.lang for pair in pairs],
            "source": [pair.drawing.source for pair in pairs],
            "key": [pair.drawing.key for pair in pairs],
        }
    )
