"""Decides the compute scale and the track of a result, and checks that its pool is the one it claims to be. The
training's recipe decides the scale, never the pool. The track follows from where the training data came from: a sample of
anything but a CommonPool scale (or its embedded `tiny`) makes it `byod`. A pool that claims to be a scale's is compared with
that scale's own metadata in the store.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from datacomp_core import parts, uid
from datacomp_core.artifacts import Checkpoint, Pool
from datacomp_core.errors import StoreError
from datacomp_core.leaderboard.entries.provenance import ProvenanceLink, data_of, of_kind
from datacomp_core.scales import SCALES
from datacomp_core.store import Folder, Store
from datacomp_core.store.fingerprint import fingerprint
from datacomp_core.store.folder import scratch
from datacomp_core.store.record import Record
from datacomp_core.subset_files import SUBSET, Overlap, SubsetFile, overlap

Track = Literal["filtering", "byod"]
TRACKS: tuple[Track, ...] = ("filtering", "byod")
FREE = "debug"
"""The scale without a pool."""
OWN = ("byod", "custom", "folder")
ADOPTED = "adopted"
SAMPLES = ("pools/", "shards/", "subsets/")
MAX_POOL_ROWS = 20_000_000
KEPT, CLAIMED = "_uids.json", "_claim.json"


class PoolClaim(BaseModel):
    """The claim of a result's pool to be the scale's pool; `ok` is None if this store cannot check it."""

    model_config = ConfigDict(frozen=True)
    ok: bool | None = True
    reason: str = ""
    foreign: int = 0


def compute_scale(chain: list[ProvenanceLink], checkpoint: Checkpoint) -> str:
    """The scale whose recipe the training followed; for a custom recipe, the scale of the data."""
    link = next((link for link in of_kind(chain, Checkpoint.kind) if link.address == checkpoint.address), None)
    recipes = [spec.get("recipe") for spec in (link.spec.values() if link else ()) if isinstance(spec, dict)]
    name = next((str(recipe.get("name")) for recipe in recipes if isinstance(recipe, dict)), "")
    return name if name in SCALES else checkpoint.scale


def track_of(asked: Track, chain: list[ProvenanceLink], trained_on: str) -> Track:
    """`byod` if it was asked for, or the captions are others than the pool's, or a source of the shards is nobody's scale."""
    own = asked == "byod" or captions_of(chain, trained_on) or any(is_own(pool) for pool in sources(chain, trained_on))
    return "byod" if own else "filtering"


def captions_of(chain: list[ProvenanceLink], trained_on: str) -> list[ProvenanceLink]:
    """Return the caption policies whose captions are in the training shards, without those that only a filter reads."""
    by_address = {link.address: link for link in chain}
    level, seen, found = [trained_on], {trained_on}, list[ProvenanceLink]()
    while level:
        given = [address for one in level if one in by_address for some in by_address[one].inputs.values() for address in some]
        found += [
            by_address[address] for address in dict.fromkeys(given) if address.startswith("captioned/") and address in by_address
        ]
        level = [address for address in dict.fromkeys(given) if address not in seen and address.startswith("shards/")]
        seen.update(level)
    return list({link.address: link for link in found}.values())


def sources(chain: list[ProvenanceLink], trained_on: str) -> list[ProvenanceLink]:
    """The pools that the samples of the training shards came from, without pools that only a score's model saw."""
    by_address = {link.address: link for link in chain}
    level, seen, found = [trained_on], {trained_on}, list[ProvenanceLink]()
    while level:
        links = [by_address[address] for address in level if address in by_address]
        found += of_kind(links, Pool.kind)
        onward = [address for link in links for given in link.inputs.values() for address in given]
        level = [address for address in dict.fromkeys(onward) if address not in seen and address.startswith(SAMPLES)]
        seen.update(level)
    return found


def is_own(pool: ProvenanceLink) -> bool:
    """Whether a pool is the user's own data."""
    return _scale_of(pool) in OWN


def _spec_of(pool: ProvenanceLink | Record) -> dict[str, Any]:
    return next((spec for spec in pool.spec.values() if isinstance(spec, dict) and "scale" in spec), {})


def _scale_of(pool: ProvenanceLink | Record) -> str:
    """The scale that a pool is of, or says it is of."""
    spec = _spec_of(pool)
    return str(spec.get("of") or "custom") if spec.get("scale") == ADOPTED else str(spec.get("scale", ""))


def pool_claim(store: Store | None, chain: list[ProvenanceLink], trained_on: str, scale: str) -> PoolClaim:
    """Whether the pools of a result of the filtering track are those of its scale. Without a store the records alone tell."""
    for pool in sources(chain, trained_on):
        of = _scale_of(pool)
        if of in SCALES and scale in SCALES and scale not in (of, FREE):
            return PoolClaim(ok=False, reason=f"The pool {pool.address} is a pool of {of}, but the training is of {scale}.")
        if _spec_of(pool).get("scale") == ADOPTED and of not in OWN:
            found = _unknown(pool, of) if store is None else _verified(store, pool, of)
            if found.ok is not True:
                return found
    return PoolClaim(reason="The pool is the scale's own.")


def claim_now(store: Store, address: str, chain: list[ProvenanceLink], trained_on: str, scale: str) -> PoolClaim:
    """`claim` by what the store has today, for an entry that was made when it could not be confirmed.

    The answer is kept beside the entry, for as long as the pools that it rests on are the same.
    """
    home, pools = store.home(address), [pool for pool in sources(chain, trained_on) if _spec_of(pool).get("scale") == ADOPTED]
    published = [record.fingerprint for of in sorted({_scale_of(pool) for pool in pools}) for record in _published(store, of)]
    rests_on = fingerprint([[pool.fingerprint for pool in pools], published, scale])
    kept = home.read_json(CLAIMED) if home.exists(CLAIMED) else {}
    if kept.get("rests_on") != rests_on:
        found = pool_claim(store, chain, trained_on, scale)
        kept = {"rests_on": rests_on, "claim": found.model_dump(mode="json")}
        with suppress(StoreError):  # a reader of a board that may not write there compares again
            home.write_json(CLAIMED, kept)
    return PoolClaim.model_validate(kept["claim"])


def _verified(store: Store, pool: ProvenanceLink, of: str) -> PoolClaim:
    """An adopted pool against every pool of that scale in the store: one of them must have all of its uids."""
    folder, misses = data_of(store, pool.address), list[PoolClaim]()
    for record in _published(store, of):
        other = data_of(store, record.address)
        if folder is None or other is None:
            continue
        large = max(_rows(record), _rows(store.record(pool.address))) > MAX_POOL_ROWS
        found = _same(store, pool.address, record.address) if large else _within(folder, other, pool.address, record.address)
        if found.ok:
            return found
        misses.append(found)
    if misses:
        return min(misses, key=lambda miss: miss.foreign)
    return _unknown(pool, of)


def _unknown(pool: ProvenanceLink, of: str) -> PoolClaim:
    what = f"Unverified: {pool.address} states to be {of}, but this store has no metadata of {of} to compare it with: "
    return PoolClaim(
        ok=None, reason=what + f"`datacomp pool --scale {of} --metadata-only` downloads it, and the board compares them."
    )


def _within(pool: Folder, published: Folder, name: str, of: str) -> PoolClaim:
    both = _overlap(pool, published)
    foreign = both.unique[0] - both.shared
    if not foreign:
        return PoolClaim(reason=f"All {both.unique[0]:,} uids of {name} are in {of}.")
    what = f"{foreign:,} of the {both.unique[0]:,} uids of {name} are not in {of}, such as {both.only_first[0]}."
    return PoolClaim(ok=False, reason=what, foreign=foreign)


def _same(store: Store, name: str, of: str) -> PoolClaim:
    """Compare pools that are too large to compare row by row, by a digest of all uids that is stored beside each."""
    one, other = _digest(store, name), _digest(store, of)
    if one == other:
        return PoolClaim(reason=f"{name} has the uids of {of}, all {one[0]:,}.")
    what = (
        f"Unverified: {name} ({one[0]:,} rows) does not have exactly the uids of {of} ({other[0]:,}), and both are too large to "
    )
    return PoolClaim(ok=None, reason=what + "compare row by row.", foreign=abs(one[0] - other[0]))


def _digest(store: Store, address: str) -> tuple[int, str]:
    """Rows of a pool, and a digest of its uids that does not depend on their order, computed once for each fingerprint."""
    home, record, folder = store.home(address), store.record(address), data_of(store, address)
    assert record is not None
    assert folder is not None
    kept = home.read_json(KEPT) if home.exists(KEPT) else {}
    if kept.get("fingerprint") != record.fingerprint:
        rows, sums = 0, [0, 0]
        for part in parts.part_names(folder / parts.METADATA):
            uids = uid.pack(parts.scan(folder / parts.METADATA, part).select("uid").collect()["uid"])
            rows += len(uids)
            for place, mixed in enumerate((_mixed(uids["f0"], uids["f1"]), _mixed(uids["f1"], ~uids["f0"]))):
                sums[place] = (sums[place] + int(mixed.sum(dtype=np.uint64))) % (1 << 64)
        kept = {"fingerprint": record.fingerprint, "rows": rows, "digest": f"{sums[0]:016x}{sums[1]:016x}"}
        home.write_json(KEPT, kept)
    return int(kept["rows"]), str(kept["digest"])


def _mixed(one: npt.NDArray[np.uint64], other: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """64 bits in which every bit of both has a part: splitmix64 of one, then of that and the other."""
    mixed = _splitmix(one)
    return _splitmix(mixed ^ other)


def _splitmix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _published(store: Store, of: str) -> list[Record]:
    """Pools of the store that were made as the scale's own, not adopted."""
    found = [record for record in store.records(Pool.kind) if _spec_of(record).get("scale") == of]
    return [record for record in found if not store.missing(record)]


def _rows(record: Record | None) -> int:
    return 0 if record is None else int(record.artifact.get("num_samples", 0))


def _overlap(one: Folder, other: Folder) -> Overlap:
    """The overlap of all uids of two pools' metadata."""
    with scratch() as folder:
        for name, pool in (("one", one), ("other", other)):
            (folder / name).mkdir()
            metadata = pool / parts.METADATA
            some = [uid.pack(parts.scan(metadata, part).select("uid").collect()["uid"]) for part in parts.part_names(metadata)]
            with (folder / name / SUBSET).open("wb") as file:
                np.save(file, uid.sort(np.concatenate(some)), allow_pickle=False)
        return overlap(SubsetFile(Folder(folder / "one")), SubsetFile(Folder(folder / "other")))
