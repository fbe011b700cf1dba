"""Finds what to explore in the store (a pool, a subset, an entry of the board, or a scale) or in plain folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from datacomp_core.artifacts import Captions, Checkpoint, Embeddings, Pool, ShardSet, Subset
from datacomp_core.clip_sources import ModelSource
from datacomp_core.embedding.embed import local_models
from datacomp_core.embedding.spec import EmbedSpec
from datacomp_core.errors import DatacompError, SpecError, unknown
from datacomp_core.explore.explore_source import ExploreSource, Method, Shards
from datacomp_core.parts import FEATURES, METADATA, SCORES
from datacomp_core.pool_source import PoolSource
from datacomp_core.shards import LEDGER, index_names, tars_of
from datacomp_core.store import Folder, Store
from datacomp_core.store.content_marks import hash_json
from datacomp_core.store.record import Record
from datacomp_core.subset_files import SubsetFile

MAX_METHODS = 16


def of_store(store: Store, targets: Sequence[str], scale: str, local: Path) -> ExploreSource:
    """Return the pool that all `targets` (addresses of pools, subsets and entries, names of methods) belong to; without
    targets, the newest.

    Without a subset among the targets, all methods of the pool are shown, the newest MAX_METHODS.
    """
    found = [_record(store, target, scale) for target in targets]
    pools = {record.address: record for record in (_pool_of(store, record) for record in found)}
    if len(pools) > 1:
        raise SpecError(f"The targets belong to different pools ({', '.join(pools)}): give targets of one pool.")
    record = next(iter(pools.values()), None) or _newest_pool(store, scale)
    named = [record for record in found if record.kind == Subset.kind]
    methods = named or sorted(_of_pool(store, Subset.kind, record), key=lambda one: one.started, reverse=True)[:MAX_METHODS]
    return _origin(store, record, methods, local)


def _origin(store: Store, record: Record, methods: Sequence[Record], local: Path) -> ExploreSource:
    pool = store.artifact(Pool, record)
    embeddings = _of_pool(store, Embeddings.kind, record)
    scores, captions = _of_pool(store, "scores", record), _of_pool(store, Captions.kind, record)
    pictures = _pictures(store, record)
    made = [store.artifact(Embeddings, one) for one in embeddings]
    beside = [store.data(one) for one in (*embeddings, *scores)]
    folders = [store.folder(one) for one in made]
    source = PoolSource(
        store.folder(pool) / METADATA,
        tuple(folder / SCORES for folder in beside if folder.exists(SCORES)),
        tuple(folder / FEATURES for folder in folders),
    )
    state = [record, *embeddings, *scores, *captions, *([pictures[0]] if pictures else [])]
    return ExploreSource(
        name=f"{pool.scale} {pool.name}".strip(),
        address=record.address,
        source=source,
        state=hash_json([[one.address, one.fingerprint, one.generation, one.data] for one in state]),
        shards=pictures[1] if pictures else None,
        captions=tuple(store.folder(store.artifact(Captions, one)) for one in captions),
        methods=_methods(store, methods),
        models=_models(store, embeddings, local),
        is_harmless="num_pairs" in record.spec.get("spec", {}),  # the embedded pool
    )


def of_folders(
    metadata: str,
    scores: Sequence[str],
    features: Sequence[str],
    shards: str | None,
    subsets: Sequence[str],
    models: dict[str, ModelSource],
) -> ExploreSource:
    """Plain folders of the original tooling; `subsets` are files of uids, each a method."""
    folders = [Folder(url) for url in (metadata, *scores, *features)]
    state = [[str(folder), sorted((name, *detail) for name, detail in folder.details().items())] for folder in folders]
    source = PoolSource(folders[0], tuple(Folder(url) for url in scores), tuple(Folder(url) for url in features))
    where = None
    if shards:
        folder = Folder(shards)
        if not index_names(folder):
            raise SpecError(f"{shards} has no index of the images: write it with `datacomp pool adopt`, or omit --shards.")
        where = Shards(folder, folder, folder if folder.exists(LEDGER) else None)
        state.append([str(folder), sorted((name, *detail) for name, detail in (folder / "index").details().items())])
    return ExploreSource(
        name=metadata.rstrip("/").rpartition("/")[2] or metadata,
        source=source,
        state=hash_json(state),
        shards=where,
        methods=tuple(_of_file(file) for file in subsets),
        models=models,
    )


def _of_file(given: str) -> Method:
    folder, _, name = given.rpartition("/")
    file = SubsetFile(Folder(folder or "."), name)
    if not name.endswith(".npy") or not file.folder.exists(name):
        raise SpecError(
            f"{given} is not a subset file (.npy): give one, or make it from your list with `datacomp filter --recipe "
            f"listed:uids={given} --out subset.npy`."
        )
    return Method(name.removesuffix(".npy"), file, address=given)


def _record(store: Store, target: str, scale: str) -> Record:
    """The record of an address, or of the newest subset of a method's name at the scale."""
    if "/" in target:
        record = store.record(target.strip("/"))
        if record is None:
            raise SpecError(f"Nothing is built at {target!r} in {store.root}: list what is built with `datacomp show`.")
        if record.kind not in (Pool.kind, Subset.kind, "entries"):
            raise SpecError(
                f"{target} is of kind {record.kind}, which cannot be explored: give a pool, a subset, or an entry of the board."
            )
        return _inputs(store, record, "subset", Subset.kind) if record.kind == "entries" else record
    known = [one for one in store.records(Subset.kind) if one.address.startswith(f"{Subset.kind}/{scale}/")]
    fits = [one for one in known if one.artifact.get("recipe") == target]
    if not fits:
        raise unknown(
            "method", target, sorted({str(one.artifact.get("recipe")) for one in known}) or ["(no subset is built yet)"]
        )
    return max(fits, key=lambda one: one.started)


def _pool_of(store: Store, record: Record) -> Record:
    return record if record.kind == Pool.kind else _inputs(store, record, "pool", Pool.kind)


def _inputs(store: Store, record: Record, name: str, kind: str) -> Record:
    for given in record.inputs.get(name, []):
        found = store.record(given["address"])
        if found is not None and found.kind == kind:
            return found
    raise SpecError(f"The {name} of {record.address} is no longer in {store.root}: give a pool that is.")


def _newest_pool(store: Store, scale: str) -> Record:
    known = [record for record in store.records(Pool.kind) if record.address.startswith(f"{Pool.kind}/{scale}/")]
    used = [one for one in known if any(True for _ in _of_pool(store, Subset.kind, one))] or known
    if not used:
        raise SpecError(f"{store.root} has no pool of {scale} yet: run `datacomp pool --scale {scale}` first.")
    return max(used, key=lambda record: record.started)


def _of_pool(store: Store, kind: str, pool: Record) -> list[Record]:
    """Return artifacts made from the pool itself whose data exists, oldest first, so that newer scores override older ones."""
    found = [one for one in store.records(kind) if _is_of(one, pool) and not store.missing(one)]
    return sorted(found, key=lambda one: one.started)


def _is_of(record: Record, pool: Record) -> bool:
    return any(given["address"] == pool.address for given in record.inputs.get("pool", []))


def _pictures(store: Store, pool: Record) -> tuple[Record, Shards] | None:
    """Return the pool's download; one with a ledger is preferred, then the newest."""
    made: list[tuple[bool, str, Record, Shards]] = []
    for record in _of_pool(store, ShardSet.kind, pool):
        artifact = store.artifact(ShardSet, record)
        folder = store.folder(artifact)
        has_ledger = folder.exists(LEDGER)
        made.append(
            (has_ledger, record.started, record, Shards(folder, tars_of(store, artifact), folder if has_ledger else None))
        )
    best = max(made, key=lambda one: one[:2], default=None)
    return None if best is None else best[2:]


def _methods(store: Store, records: Iterable[Record]) -> tuple[Method, ...]:
    made: list[Method] = []
    for record in sorted(records, key=lambda one: one.started):
        subset = store.artifact(Subset, record)
        folder = store.folder(subset)
        name = subset.recipe
        if any(name == other.name for other in made):
            name = f"{name} ({record.address.rpartition('--')[2][:6]})"
        told = folder.read_json("explain.json") if folder.exists("explain.json") else {}
        captioned = any("captioned/" in given["address"] for some in record.inputs.values() for given in some)
        made.append(
            Method(name, SubsetFile(folder), record.address, told.get("filter"), subset.num_samples, own_captions=captioned)
        )
    return tuple(made)


def _models(store: Store, records: Sequence[Record], local: Path) -> dict[str, ModelSource]:
    """Return the CLIP of each prefix. A model whose weights no longer exist is skipped and cannot be used for searches."""
    models: dict[str, ModelSource] = {}
    for number, record in enumerate(records):
        spec = EmbedSpec.model_validate(record.spec.get("spec", record.spec))
        given = [store.record(each["address"]) for each in record.inputs.get("scorers", [])]
        scorers = tuple(store.artifact(Checkpoint, one) for one in given if one is not None)
        place = local / f"models-{number}"
        place.mkdir(parents=True, exist_ok=True)
        try:
            sources = local_models(spec, scorers, store, place)
        except (DatacompError, StopIteration):
            continue
        models.update({encoder.prefix: made for encoder, made in zip(spec.encoders, sources, strict=True)})
    return models
