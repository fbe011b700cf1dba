"""Makes the trusted set: clean English pairs from art sets outside the pool, to train the scorer. It represents the
high-quality data behind a Data Filtering Network (Fang et al., arXiv 2309.17425). It shares no drawing or caption template
with anything else, and has no look-alike of a test image.
"""

from __future__ import annotations

import hashlib
import json
import random
from typing import Literal

from pydantic import Field

from datacomp_core.artifacts import HoldoutCount, ShardSet, Spec
from datacomp_core.pool import tiny_captions as captions
from datacomp_core.pool.tiny_holdout import holdout
from datacomp_core.pool.tiny_source import TRUSTED_SETS, Drawing, of_sets
from datacomp_core.shards import ShardWriter, shard_name, write_index
from datacomp_core.store import Folder, step
from datacomp_core.uid import uid_of


class TrustedSpec(Spec):
    """Every trusted drawing that does not resemble a test image, with captions of different templates."""

    scale: Literal["tiny"] = "tiny"
    seed: int = Field(default=0, ge=0, description="Varies the choice of keywords and the order.")
    captions_per_drawing: int = Field(default=2, ge=1, le=len(captions.TRUSTED_TEMPLATES))
    num_shards: int = Field(default=4, ge=1, le=100, description="Number of shards, of equal size to within one sample.")

    def label(self) -> str:
        return f"trusted{self.seed}"


@step("shards", version=1)
def build_trusted(spec: TrustedSpec, *, out: Folder) -> ShardSet:
    """Shards `<8 digits>.tar` (webp, txt, json with uid) of equal size to within one sample, with `index/` next to them."""
    chance = random.Random(f"tiny trusted set {spec.seed}")
    split = holdout()
    drawings = [drawing for drawing in of_sets(*TRUSTED_SETS) if split.may_train(drawing)]
    pairs = [(d, captions.fill(template, d, chance)) for d in drawings for template in _some_templates(spec, chance)]
    chance.shuffle(pairs)
    for number in range(spec.num_shards):
        start, end = (len(pairs) * edge // spec.num_shards for edge in (number, number + 1))
        _write(out, shard_name(number), [_sample(number, at, *pair) for at, pair in enumerate(pairs[start:end])])
    uids = {_uid(drawing, text) for drawing, text in pairs}
    counts = {"drawings": len(drawings), HoldoutCount.DROPPED.value: sum(name.source in TRUSTED_SETS for name in split.near)}
    return ShardSet(num_samples=len(pairs), num_unique=len(uids), num_shards=spec.num_shards, counts=counts)


def _some_templates(spec: TrustedSpec, chance: random.Random) -> list[str]:
    return chance.sample(captions.TRUSTED_TEMPLATES, spec.captions_per_drawing)


def _uid(drawing: Drawing, text: str) -> str:
    return uid_of(f"{drawing.source}/{drawing.key}", text)


def _sample(shard: int, at: int, drawing: Drawing, text: str) -> tuple[str, str, dict[str, bytes]]:
    """uid, key and members."""
    key = f"{shard:05d}{at:04d}"  # img2dataset's form
    about = {
        "uid": _uid(drawing, text),
        "key": key,
        "caption": text,
        "source": drawing.source,
        "sha256": hashlib.sha256(drawing.image).hexdigest(),
    }
    members = {"webp": drawing.image, "txt": text.encode(), "json": json.dumps(about, ensure_ascii=False).encode()}
    return about["uid"], key, members


def _write(out: Folder, shard: str, samples: list[tuple[str, str, dict[str, bytes]]]) -> None:
    with out.writing(f"{shard}.tar") as path, path.open("wb") as file:
        writer = ShardWriter(file, shard)
        for uid, key, members in samples:
            writer.add(uid, key, members)
        index = writer.finish()
    write_index(out, shard, index)
