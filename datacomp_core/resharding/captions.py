"""Writes new captions while copying: replaces `.txt`, or adds every caption of a draw to the json. Images are never decoded.

Captions come from a policy over a pool (`Captioned`), looked up by uid. The old caption stays in the json. A chosen sample
without a caption is an error: nothing may be trained on a text that the policy left out.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datacomp_core import parts, uid
from datacomp_core.artifacts import Captioned
from datacomp_core.caption_sets import DRAWS, RAW, json_keys
from datacomp_core.driver_files import Reachable, exchange, reachable
from datacomp_core.errors import DataError
from datacomp_core.machine_cache import CachedFile
from datacomp_core.ordered_results import results_in_order
from datacomp_core.parallel import prepared_map
from datacomp_core.resharding.plan import Positions, Rows, locate
from datacomp_core.sample_members import CAPTION, json_object
from datacomp_core.shards import parse_sample
from datacomp_core.store.folder import Folder, scratch
from datacomp_core.tar import BLOCK, header

PARTS_WORTH_A_PROCESS = 8
MOST_PARTS_IN_MEMORY = 16
"""Whose captions wait there for a part before them that takes longer."""
SUMMARY = "captions.json"
Captions = list[tuple[str, str]]
"""Source and text of each caption of a sample."""


@dataclass(frozen=True)
class CaptionSource:
    """The result of a caption policy on a pool, and its folder."""

    made: Captioned
    folder: Folder
    weights: dict[str, float] = field(default_factory=dict[str, float])
    """Of a draw."""


@dataclass(frozen=True)
class CaptionEdits:
    """The captions of one job's rows."""

    draws: bool
    captions: tuple[Captions, ...]

    def concern(self, row: int) -> bool:
        return self.draws or self.captions[row][0][0] != RAW

    def edit(self, row: int, data: bytes, key: str) -> bytes:
        """The framed sample with its caption replaced, or with all of its captions in the json."""
        members = parse_sample(data)
        captions = self.captions[row]
        about = _about(members, key)
        if self.draws:
            about |= {name: text for name, (_, text) in zip(json_keys([one for one, _ in captions]), captions, strict=True)}
        else:
            source, text = captions[0]
            old = members.get(CAPTION, b"").decode("utf-8", "replace")
            if about.get("caption") == old:
                about["caption"] = text
            about |= {"caption_source": source, "original_caption": old, "original_caption_source": RAW}
            members[CAPTION] = text.encode()
        members["json"] = json.dumps(about, ensure_ascii=False).encode("utf-8", "surrogatepass")
        framed = [(header(f"{key}.{name}", len(c)), c, bytes(-len(c) % BLOCK)) for name, c in members.items()]
        return b"".join(piece for member in framed for piece in member)


def _about(members: dict[str, bytes], key: str) -> dict[str, Any]:
    if "json" not in members:
        return {"uid": key.partition("-")[0]}
    found = json_object(members["json"])
    if found is None:
        raise DataError(f"The json of sample {key} cannot be read, so its captions cannot be added: download its shard again.")
    return found


# Captions of a subset ------------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """Chosen samples of one part: their first positions in the subset, and the captions of each."""

    first: Positions
    captions: list[Captions]


class _Wanted(NamedTuple):
    folder: Folder
    draws: bool
    subset: uid.Uids
    held: CachedFile


def _wanted(folder: Folder, draws: bool, subset: Reachable) -> _Wanted:
    held = CachedFile(*subset)
    return _Wanted(folder, draws, np.load(held.path, mmap_mode="r", allow_pickle=False), held)


def _find(wanted: _Wanted, part: str) -> _Found:
    columns = ["uid", "captions"] if wanted.draws else ["uid", "text", "caption_source"]
    folder = wanted.folder / (DRAWS if wanted.draws else parts.SCORES)
    table = parts.scan_tables(folder, f"{part}.parquet").select(columns).collect()
    first, count = locate(wanted.subset, uid.pack(table["uid"]))
    chosen = np.flatnonzero(count > 0)
    rows = table[chosen]
    if wanted.draws:
        lists = [[(one["source"], one["text"]) for one in some or ()] for some in rows["captions"].to_list()]
    else:
        pairs = zip(rows["caption_source"].to_list(), rows["text"].to_list(), strict=True)
        lists = [[(source, text)] if source is not None else [] for source, text in pairs]
    having = [place for place, some in enumerate(lists) if some]
    return _Found(first[chosen][having], [lists[place] for place in having])


class CaptionTexts:
    """The captions of all chosen samples on scratch disk: `place[p]` leads from a position in the subset to their bytes."""

    def __init__(self, source: CaptionSource, subset: uid.Uids, folder: Path) -> None:
        self.source, self.subset = source, subset
        self._place = np.memmap(folder / "caption-place", np.int64, "w+", shape=(max(1, len(subset)),))
        self._path = folder / "captions"
        self._flat: Any = None
        self.most: dict[str, int] = {}
        """How many captions a sample has of a source, at most."""
        self.counts: dict[str, float] = {}

    def fill(self, found: Iterable[_Found]) -> None:
        """A uid in several rows of the pool has the captions of the first."""
        end = 0
        with self._path.open("wb") as file:
            for part in found:
                for first, captions in zip(part.first.tolist(), part.captions, strict=True):
                    if self._place[first]:
                        continue
                    data = json.dumps(captions, ensure_ascii=False).encode("utf-8", "surrogatepass")
                    file.write(len(data).to_bytes(8, "little") + data)
                    self._place[first] = 1 + end
                    end += 8 + len(data)
                    self._note(captions)
        self._flat = np.memmap(self._path, np.uint8, "r") if end else np.empty(0, np.uint8)

    def _note(self, captions: Captions) -> None:
        sources = [source for source, _ in captions]
        for source in set(sources):
            self.most[source] = max(self.most.get(source, 0), sources.count(source))

    def of(self, rows: Rows) -> CaptionEdits:
        """The captions of some rows, which are counted. DataError if the policy gives one of them none."""
        packed = np.empty(len(rows), uid.DTYPE)
        packed["f0"], packed["f1"] = rows["f0"], rows["f1"]
        place = np.asarray(self._place[locate(self.subset, packed)[0]])
        if without := int((place == 0).sum()):
            raise DataError(
                f"{without:,} of {len(rows):,} samples of a new shard have no caption by the policy {self.source.made.policy} "
                f"(uid {uid.unpack(packed[place == 0][:1])[0]}): remove them from the subset, as `datacomp filter "
                f"--captions` does, or end the policy with {RAW}."
            )
        found: list[Captions] = []
        for at in place.tolist():
            size = int.from_bytes(self._flat[at - 1 : at + 7].tobytes(), "little")
            captions = [(one[0], one[1]) for one in json.loads(self._flat[at + 7 : at + 7 + size].tobytes())]
            found.append(captions)
            self._count(captions)
        return CaptionEdits(self.source.made.draws, tuple(found))

    def _count(self, captions: Captions) -> None:
        there = {source: self.source.weights.get(source, 1.0) for source, _ in captions}
        total = sum(there.values())
        shares = {source: weight / total for source, weight in there.items()} if total else {captions[0][0]: 1.0}
        for source, share in shares.items():
            self.counts[source] = self.counts.get(source, 0.0) + share

    def summary(self) -> dict[str, Any]:
        """Return the caption policy of a shard set, and for a draw the values that a reader of the json needs to repeat it."""
        told: dict[str, Any] = {"policy": self.source.made.policy, "sources": {name: round(n) for name, n in self.counts.items()}}
        if not self.source.made.draws:
            return told
        return {**told, **draw_summary(self.source.weights, self.most)}


def draw_summary(weights: dict[str, float], most: dict[str, int]) -> dict[str, Any]:
    """The draw, the json fields of each source, and the same as open_clip's json_text_key and json_text_key_probs."""
    fields = {source: json_keys([source] * most[source]) for source in weights if source in most}
    probs = [weights[source] / len(names) for source, names in fields.items() for _ in names]
    keys = [name for names in fields.values() for name in names]
    draw = {source: weights[source] for source in fields}
    return {"draw": draw, "fields": fields, "json_text_key": ";".join(keys), "json_text_key_probs": probs}


def inherited(folders: Iterable[Folder]) -> dict[str, Any]:
    """Return the caption draw that shards keep when they are resharded again; it is stored in their samples.

    DataError if the draws of several inputs differ: a training can make only one draw of a shard set.
    """
    found = [folder.read_json(SUMMARY) for folder in folders if folder.exists(SUMMARY)]
    draws = [one for one in found if one.get("draw")]
    if any(one["draw"] != draws[0]["draw"] for one in draws):
        raise DataError(
            "The captions of these shard sets are drawn differently: train on the sets separately, or choose one draw."
        )
    if not draws:
        return {}
    most = {source: max(len(one["fields"].get(source, ())) for one in draws) for source in draws[0]["draw"]}
    return {"policy": draws[0]["policy"], "sources": {}, **draw_summary(draws[0]["draw"], most)}


@contextmanager
def texts_of(
    source: CaptionSource, subset: Path, where: str, *, near: Folder | None = None, workers: int
) -> Generator[CaptionTexts]:
    """The captions of a subset's samples, gathered part by part. `subset` is the local copy of the file at `where`."""
    draws = source.made.draws
    names = parts.part_names(source.folder / (DRAWS if draws else parts.SCORES))
    with scratch() as folder, exchange(near) as shared:
        texts = CaptionTexts(source, uid.open_subset(subset), folder)
        workers = min(workers, 1 + len(names) // PARTS_WORTH_A_PROCESS)
        prepare = partial(_wanted, source.folder, draws, reachable(shared, where, subset))
        found = prepared_map(_find, names, prepare=prepare, workers=workers)
        texts.fill(results_in_order(found, names, MOST_PARTS_IN_MEMORY, _save, _load))
        yield texts


def _save(path: Path, found: _Found) -> None:
    captions = json.dumps(found.captions, ensure_ascii=False).encode("utf-8", "surrogatepass")
    with path.open("wb") as file:
        np.savez(file, first=found.first, captions=np.frombuffer(captions, np.uint8))


def _load(path: Path, number: int) -> _Found:
    with np.load(path, allow_pickle=False) as kept:
        captions = json.loads(kept["captions"].tobytes().decode("utf-8", "surrogatepass"))
        return _Found(kept["first"], [[(source, text) for source, text in some] for some in captions])
