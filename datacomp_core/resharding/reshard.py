"""Subset x ShardSet -> ShardSet: plans from the indices, then copies byte ranges, and counts every chosen sample. The output
has the same bytes for the same inputs, spec and seed, with any number of workers. `<shard>_stats.json` is written last: a shard
with it, a complete index and a tar of the size in the index is finished, so an interrupted reshard continues with the others.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from datacomp_core.artifacts import Captioned, Pool, ShardSet, Subset
from datacomp_core.caption_policy import CaptionPolicy
from datacomp_core.errors import DataError
from datacomp_core.parallel import process_map
from datacomp_core.parts import METADATA
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.resharding.captions import SUMMARY, CaptionEdits, CaptionSource, CaptionTexts, inherited, texts_of
from datacomp_core.resharding.copy import CopyJob, copy_shards
from datacomp_core.resharding.faces import FaceBoxes, FaceSpec, boxes_of
from datacomp_core.resharding.loss_report import LossReport
from datacomp_core.resharding.plan import Rows, shard_sizes
from datacomp_core.resharding.plan_inputs import (
    ACCOUNT,
    PLACES,
    SAMPLE_IDS,
    SUBSET,
    ReshardPlan,
    local_copy,
    planned,
    whole_inputs,
    write_missing,
)
from datacomp_core.resharding.shard_scan import InputShard, ShardFolders, input_shards
from datacomp_core.resharding.spec import ReshardSpec, reshard_of
from datacomp_core.shards import INDEX, read_index, shard_name
from datacomp_core.store import Folder, Store, step
from datacomp_core.store.content_marks import TAR_BYTES, Marks, digest, marks
from datacomp_core.store.fingerprint import canonical, fingerprint
from datacomp_core.store.folder import hash_file
from datacomp_core.tar import ending
from datacomp_core.wids_index import write_wids

__all__ = [
    "FaceSpec",
    "FaceTreatment",
    "LossReport",
    "ReshardSpec",
    "ShardFolders",
    "reshard",
    "reshard_faces",
    "reshard_folders",
    "reshard_of",
]

IDENTITY = "reshard.json"
SAMPLES_WORTH_A_PROCESS = 40_000  # to start one costs as much as to copy half of them
THREADS = 16
GROUP_BYTES = 4 << 30
OVERREAD = 0.1


@dataclass(frozen=True)
class FaceTreatment:
    """The treatment of faces, and the folder of metadata parts with their boxes."""

    spec: FaceSpec
    metadata: Folder


@step("shards", version=1, name=lambda spec, subset, shards: subset.name or subset.recipe)
def reshard(
    spec: ReshardSpec,
    subset: Subset,
    shards: ShardSet,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> ShardSet:
    """The chosen samples as `<shard>.tar` with `index/`, `<shard>_stats.json`, `sample_ids.npy` and the account.

    Samples are keyed `<uid>-<copy>`. IncompleteError if more is missing than the spec tolerates.
    """
    return _as_step(spec, subset, (shards,), None, out, store, workers, progress)


@step("shards", version=1, name=lambda spec, faces, subset, shards, pool: f"{subset.name or subset.recipe}-{faces.label()}")
def reshard_faces(
    spec: ReshardSpec,
    faces: FaceSpec,
    subset: Subset,
    shards: ShardSet,
    pool: Pool,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> ShardSet:
    """`reshard`, with faces blurred or their boxes put into the json, by the face boxes in the pool's metadata."""
    faced = FaceTreatment(faces, store.folder(pool) / METADATA)
    return _as_step(spec, subset, (shards,), faced, out, store, workers, progress)


@step("shards", version=2, name=lambda spec, subset, shards: subset.name or subset.recipe)  # 2: a mix says from where
def reshard_several(
    spec: ReshardSpec,
    subset: Subset,
    shards: tuple[ShardSet, ...],
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> ShardSet:
    """`reshard` out of several shard sets; a uid is taken from where the mix says, and of another subset from the first."""
    return _as_step(spec, subset, shards, None, out, store, workers, progress)


@step("shards", version=1, name=lambda spec, faces, draw, subset, *_: f"{subset.name or subset.recipe}-captioned")
def reshard_captions(
    spec: ReshardSpec,
    faces: FaceSpec | None,
    draw: CaptionPolicy,
    subset: Subset,
    shards: tuple[ShardSet, ...],
    captioned: Captioned,
    pool: Pool | None,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> ShardSet:
    """`reshard` with the captions of a policy (`captions.json` says which), and faces treated where they are to be.

    `draw` is the policy that `captioned` was made by; its weights go with the shards.
    """
    faced = FaceTreatment(faces, store.folder(pool) / METADATA) if faces is not None and pool is not None else None
    source = CaptionSource(captioned, store.folder(captioned), draw.weights)
    return _as_step(spec, subset, shards, faced, out, store, workers, progress, source)


def _as_step(
    spec: ReshardSpec,
    subset: Subset,
    shards: tuple[ShardSet, ...],
    faced: FaceTreatment | None,
    out: Folder,
    store: Store,
    workers: int,
    progress: Progress,
    captions: CaptionSource | None = None,
) -> ShardSet:
    chosen = store.folder(subset)
    inputs, where = whole_inputs(store, shards), f"{chosen}/{SUBSET}"
    if len(inputs.folders) > 1 and chosen.exists(PLACES):
        inputs = replace(inputs, places=f"{chosen}/{PLACES}")
    how: dict[str, Any] = {"faced": faced, "captions": captions, "workers": workers, "progress": progress}
    account = reshard_folders(inputs, where, out, spec, record="files", **how)
    told = out.read_json(SUMMARY)["sources"] if captions is not None else {}
    return ShardSet(
        scale=shards[0].scale,
        num_samples=account.written,
        num_unique=account.written_unique,
        num_shards=-(-account.written // spec.samples_per_shard),
        counts={**account.counts(), **{f"caption: {source}": count for source, count in told.items()}},
    )


def reshard_folders(
    shards: Folder | ShardFolders,
    subset: str,
    out: Folder,
    spec: ReshardSpec,
    *,
    faced: FaceTreatment | None = None,
    captions: CaptionSource | None = None,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
    record: Literal["files", "nothing"] = "nothing",
    group_bytes: int = GROUP_BYTES,
    overread: float = OVERREAD,
) -> LossReport:
    """`reshard` without a store: works on the original tooling's folders, local or in a bucket.

    `subset` is the url or path of a subset file. DataError if `out` holds something else than an unfinished or finished
    reshard of the same inputs. `record="files"` notes sizes and hashes of what is written in `out`'s journal. From a bucket
    a worker writes up to `group_bytes` of shards at once, so that their ranges are closer together, and reads up to
    `overread` times their bytes in vain where that saves requests.
    """
    inputs = shards if isinstance(shards, ShardFolders) else ShardFolders((shards,))
    with ExitStack() as stack:
        chosen = stack.enter_context(local_copy(subset))
        listing = input_shards(inputs)
        _claim(out, _identity(spec, faced, captions, chosen, inputs, listing))
        plan = stack.enter_context(planned(inputs, listing, chosen, subset, spec, near=out, workers=workers, progress=progress))
        write_missing(out, plan.ledger)
        plan.account.check(spec, str(inputs))
        boxes = (
            stack.enter_context(boxes_of(faced.spec, faced.metadata, chosen, subset, near=out, workers=workers))
            if faced
            else None
        )
        texts = stack.enter_context(texts_of(captions, chosen, subset, near=out, workers=workers)) if captions else None
        with out.writing(SAMPLE_IDS) as path:
            shutil.copyfile(chosen, path)
        progress.start(plan.account.written, "samples")
        workers = max(1, min(workers, 1 + plan.account.written // SAMPLES_WORTH_A_PROCESS))
        remote = not all(folder.is_local for folder in inputs.folders)
        size = min(group_bytes, plan.num_bytes // workers) if remote else 0
        jobs = _jobs(plan, out, boxes, texts, progress, group_bytes=size, record=record, overread=overread)
        for _, copied in process_map(copy_shards, jobs, workers=workers):
            for file in copied.files:
                out.note(file)
            progress.advance(copied.samples)
        told = texts.summary() if texts is not None else inherited(inputs.folders)
        if told:
            out.write_json(SUMMARY, told)
        sizes = shard_sizes(plan.account.written, spec.samples_per_shard)
        write_wids(out, ((shard_name(number), size) for number, size in enumerate(sizes)))
        out.write_json(ACCOUNT, asdict(plan.account))
    return plan.account


def account_folders(
    shards: Folder | ShardFolders,
    subset: str,
    spec: ReshardSpec,
    *,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> tuple[LossReport, int]:
    """Return what a reshard would write and miss, and its approximate size in bytes. Writes nothing and raises no refusal."""
    inputs = shards if isinstance(shards, ShardFolders) else ShardFolders((shards,))
    with local_copy(subset) as chosen:
        listing = input_shards(inputs)
        with planned(inputs, listing, chosen, subset, spec, workers=workers, progress=progress) as plan:
            return plan.account, plan.num_bytes


def _identity(
    spec: ReshardSpec,
    faced: FaceTreatment | None,
    captions: CaptionSource | None,
    subset: Path,
    given: ShardFolders,
    inputs: list[InputShard],
) -> dict[str, Any]:
    listing = hashlib.sha256("".join(f"{shard.name} {shard.size}\n" for shard in inputs).encode()).hexdigest()
    faces = {"faces": canonical(faced.spec), "faces_metadata": digest(marks(faced.metadata, suffix=".parquet"))} if faced else {}
    content = [digest(_marks(folder, [shard for shard in inputs if shard.folder == n])) for n, folder in enumerate(given.folders)]
    what = {"spec": canonical(spec), "subset_sha256": hash_file(subset)}
    if given.places:
        with local_copy(given.places) as places:
            what["places_sha256"] = hash_file(places)
    if captions is not None:
        texts = digest(marks(captions.folder, suffix=".parquet"))
        faces = {**faces, "captions": {"policy": captions.made.policy, "weights": captions.weights, "texts": texts}}
    return {**what, **faces, "num_shards": len(inputs), "shards_listing": listing, "shards_content": content}


def _marks(folder: Folder, shards: list[InputShard]) -> Marks:
    """Of the tars and their index; of a large tar a sample is read."""
    tars = marks(folder, only=[f"{shard.name}.tar" for shard in shards], whole_bytes=TAR_BYTES)
    return tars | marks(folder, only=[f"{INDEX}/{shard.name}.parquet" for shard in shards])


def _claim(out: Folder, identity: dict[str, Any]) -> None:
    """Mark `out` as the place of this reshard, or see that it is; without shards in it, it is anybody's."""
    out.sweep_left_behind()
    claimed = out.exists(IDENTITY)
    if claimed and fingerprint(out.read_json(IDENTITY)) == fingerprint(identity):
        return
    if any(name.endswith(".tar") for name in out.files()):
        whose = "contains shards that no reshard of ours made"
        if claimed:
            before = out.read_json(IDENTITY)
            names = [name for name in sorted(before.keys() | identity.keys()) if before.get(name) != identity.get(name)]
            whose = f"contains a reshard of another subset, spec or pool (its {', '.join(names)} differ)"
        raise DataError(f"{out} {whose}: choose an empty folder, or remove it.")
    if claimed:
        out.write_json(IDENTITY, identity)
    elif not out.create(IDENTITY, json.dumps(identity, indent=1, ensure_ascii=False).encode()):
        _claim(out, identity)  # another process was faster


def _finished(out: Folder, sizes: Iterable[int]) -> set[str]:
    """The shards that are whole: a file that was cut short after it was written is written again."""
    there = out.files()

    def is_whole(shard: str, samples: int) -> bool:
        try:
            index = read_index(out, shard)
        except DataError:
            return False
        end = int((index["offset"] + index["length"]).max() or 0)  # pyright: ignore[reportArgumentType]
        return index.height == samples and there[f"{shard}.tar"] == end + len(ending(end))

    named = [(shard_name(number), samples) for number, samples in enumerate(sizes)]
    begun = [(shard, samples) for shard, samples in named if _is_there(shard, there)]
    with ThreadPoolExecutor(THREADS) as pool:  # they wait for a bucket
        return {shard for (shard, _), whole in zip(begun, pool.map(lambda one: is_whole(*one), begun), strict=True) if whole}


def _is_there(shard: str, there: Mapping[str, int]) -> bool:
    return all(there.get(name) for name in (f"{shard}_stats.json", f"{shard}.tar", f"{INDEX}/{shard}.parquet"))


def _jobs(
    plan: ReshardPlan,
    out: Folder,
    boxes: FaceBoxes | None,
    texts: CaptionTexts | None,
    progress: Progress,
    *,
    group_bytes: int,
    record: Literal["files", "nothing"],
    overread: float,
) -> Iterator[CopyJob]:
    """Yield the shards still to be written, in groups of neighbours; each job contains only the input shards it reads."""
    done = _finished(out, shard_sizes(plan.account.written, plan.samples_per_shard))
    shards: list[str] = []
    pieces: list[Rows] = []
    edits: list[CaptionEdits] = []

    def job() -> CopyJob:
        rows = np.concatenate(pieces)
        used, rows["shard"] = np.unique(rows["shard"], return_inverse=True)
        cuts = tuple(np.cumsum([0, *map(len, pieces)]).tolist())
        faces = boxes.of(rows) if boxes else None
        new = CaptionEdits(edits[0].draws, tuple(one for some in edits for one in some.captions)) if edits else None
        return CopyJob(tuple(shards), cuts, rows, tuple(plan.tars[n] for n in used), out, record, overread, faces, new)

    for number, rows in enumerate(plan.shards()):
        captions = texts.of(rows) if texts else None  # those of finished shards are counted too
        if shard_name(number) in done:
            progress.advance(len(rows))
            continue
        if pieces and sum(int(piece["length"].sum()) for piece in (*pieces, rows)) > group_bytes:
            yield job()
            shards.clear()
            pieces.clear()
            edits.clear()
        edits += [captions] if captions is not None else []
        shards.append(shard_name(number))
        pieces.append(rows)
    if pieces:
        yield job()
