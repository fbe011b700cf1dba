"""Provides the data of the page: a sample with its map, clusters, columns and methods; searches; what a filter would keep; one
pair. Everything is computed once per state of the pool and kept in `home`. Methods may be called from several threads.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.errors import DataError, SpecError
from datacomp_core.explore import pool_index
from datacomp_core.explore.clusters import NONE, cluster_names, cluster_words, clustered, num_clusters
from datacomp_core.explore.duplicates import SimilarPairs, groups, near_pairs
from datacomp_core.explore.explore_source import ExploreSource
from datacomp_core.explore.layout import Kind, layout
from datacomp_core.explore.pictures import Pictures
from datacomp_core.explore.sample import PoolSample, draw, map_arrow_file
from datacomp_core.explore.search import ExactIndex, Neighbors, exact_index
from datacomp_core.pictures import pillow_image
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.settings import settings
from datacomp_core.shards import LEDGER
from datacomp_core.store.local import replacing
from datacomp_core.subset_files import SubsetFile
from datacomp_core.uid import locate, open_subset
from deployments.explore.facet_columns import WordColumn, number_columns, word_columns, words_of

Floats = npt.NDArray[np.floating[Any]]
ARRIVED = "arrived"
UIDS_AT_ONCE = 1 << 24


class Explorer:
    """See the module. `features`: the prefix of the features that the map and the searches use; empty for the first available."""

    def __init__(
        self,
        origin: ExploreSource,
        sample: PoolSample,
        home: Path,
        *,
        features: str = "",
        kind: Kind = "pca",
        progress: Progress = NO_PROGRESS,
    ) -> None:
        self.origin, self.sample, self.home, self.kind = origin, sample, home, kind
        self.prefix = _prefix(sample, features)
        self.guard, self._model_guard = threading.RLock(), threading.RLock()
        self._row_of: dict[str, int] | None = None
        self.pictures = Pictures(origin.shards, home / "pictures")
        progress.start(0, "preparing the map, clusters and images")
        self.pictures.locate(sample.rows["uid"])
        self.places = self._kept("map-" + kind, lambda: layout(self.vectors, kind))
        self.clusters, self.centroids = self._clustered()
        self.cluster_words = self._named()
        self.cluster_names = cluster_names(self.cluster_words)
        self.times = [self._times(number) for number in range(len(origin.methods))]
        self.numbers = number_columns(sample.rows)
        self.words: dict[str, WordColumn] = {**word_columns(sample.rows), **self._download()}

    # Features and derived data -------------------------------------------------------------------------------------------

    @property
    def vectors(self) -> npt.NDArray[np.float16]:
        """Return the features for the map: of the images, or of the captions if images have none; (n, 0) without features."""
        for side in ("img", "txt"):
            if f"{self.prefix}_{side}" in self.sample.features:
                return self.sample.vectors(f"{self.prefix}_{side}")
        return np.empty((self.sample.num_rows, 0), np.float16)

    def _kept(self, name: str, make: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        file = self.home / f"{name}-{self.prefix or 'none'}.npy"
        if not file.exists():
            with replacing(file) as temporary, temporary.open("wb") as out:
                np.save(out, make())
        return np.load(file, mmap_mode="r", allow_pickle=False)

    def _clustered(self) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.float32]]:
        numbers, centroids = self.home / f"clusters-{self.prefix}.npy", self.centroid_file
        if not numbers.exists() or not centroids.exists():
            made = clustered(self.vectors, num_clusters(self.sample.num_rows))
            for file, array in ((centroids, made[1]), (numbers, made[0])):
                with replacing(file) as temporary, temporary.open("wb") as out:
                    np.save(out, array)
        return np.load(numbers), np.load(centroids)

    @property
    def centroid_file(self) -> Path:
        return self.home / f"centroids-{self.prefix}.npy"

    def _named(self) -> list[list[str]]:
        file = self.home / f"names-{self.prefix}.json"
        if not file.exists():
            captions = self.sample.rows["text"] if "text" in self.sample.rows.columns else None
            made = [] if captions is None else cluster_words(captions, self.clusters, len(self.centroids))
            with replacing(file) as temporary:
                temporary.write_text(json.dumps(made or [[] for _ in self.centroids]), encoding="utf-8")
        return json.loads(file.read_text(encoding="utf-8"))

    def index(self, side: str) -> ExactIndex:
        """The exact index of pictures (`img`) or captions (`txt`). SpecError if there are no such features."""
        key = f"{self.prefix}_{side}"
        if key not in self.sample.features:
            what = "pictures" if side == "img" else "captions"
            raise SpecError(
                f"This pool has no features of its {what}, so they cannot be searched: embed it first, for "
                "example with `datacomp run`."
            )
        with self.guard:
            if key not in self._indexes:
                self._indexes[key] = exact_index(self.sample.vectors(key))
            return self._indexes[key]

    @cached_property
    def _indexes(self) -> dict[str, ExactIndex]:
        return {}

    @property
    def has_model(self) -> bool:
        return self.prefix in self.origin.models

    @cached_property
    def _clip(self) -> Any:
        if not self.has_model:
            raise SpecError(
                "The model that made these features is not available here, so you cannot search by words or by "
                "your own image: restore its checkpoint."
            )
        from datacomp_core.device import default_device

        return self.origin.models[self.prefix].load(settings().device or default_device())

    def load_model(self) -> None:
        """Load the model before the first search, if it is available; the search reports errors."""
        with self._model_guard, suppress(Exception):
            if self.has_model:
                self.encode_text("a picture")

    def encode_text(self, text: str) -> Floats:
        """Return a text's features from the model of the pool's features, (d,)."""
        with self._model_guard:
            return self._clip.encode_texts([text])[0].float().cpu().numpy()

    def encode_picture(self, data: bytes) -> Floats:
        """A picture's features, (d,). SpecError if it cannot be decoded."""
        try:
            with pillow_image(data) as image:
                image.load()
                picture = image.copy()
        except Exception as problem:  # Pillow's decoders raise a dozen exception types on invalid bytes
            raise SpecError("The image cannot be read: use JPEG, PNG, WebP or a similar format.") from problem
        with self._model_guard:
            clip = self._clip
            return clip.encode_images(clip.pixels(picture)[None])[0].float().cpu().numpy()

    def search(self, query: Floats, count: int, *, side: str = "img", among: npt.NDArray[np.bool_] | None = None) -> Neighbors:
        return self.index(side).search(query, count, among)

    def neighbours(self, row: int, count: int, *, side: str = "img", among: npt.NDArray[np.bool_] | None = None) -> Neighbors:
        """Return the nearest neighbours of a sample, without itself. SpecError if it has no features."""
        index = self.index(side)
        query = self.sample.vectors(f"{self.prefix}_{side}")[row].astype(np.float32)
        if not np.isfinite(query).all():
            raise SpecError("This pair has no features because its image never arrived.")
        found = index.search(query, count + 1, among)
        others = found.rows != row
        return Neighbors(found.rows[others][:count], found.scores[others][:count])

    @cached_property
    def whole_index(self) -> pool_index.PoolIndex | None:
        """The index of the whole pool on disk, if `datacomp explore --index` built it."""
        folder = self.whole_folder
        return pool_index.open_index(folder) if pool_index.is_built(folder) else None

    @property
    def whole_folder(self) -> Path:
        return self.home.parent / f"whole-{self.prefix}"

    @cached_property
    def near_pairs(self) -> SimilarPairs:
        kept = self._kept("near", lambda: _table(near_pairs(self.vectors)))
        return SimilarPairs(kept["first"], kept["second"], kept["cosine"])

    def groups(self, at_least: float) -> list[npt.NDArray[np.int64]]:
        """Groups of near-duplicates in the sample, the largest first."""
        with self.guard:
            return groups(self.near_pairs, self.sample.num_rows, at_least)

    def row_of(self, uid: str) -> int | None:
        """The sample's row of a uid; None if it is not in the sample."""
        with self.guard:
            if self._row_of is None:
                self._row_of = {name: row for row, name in enumerate(self.sample.rows["uid"].to_list())}
            return self._row_of.get(uid)

    # Methods and columns ----------------------------------------------------------------------------------------------

    def _times(self, method: int) -> npt.NDArray[np.uint16]:
        """How often a method uses each sampled row, (n,)."""
        from datacomp_core.store import scratch

        file = self.origin.methods[method].subset
        total = np.zeros(self.sample.num_rows, np.int64)
        with scratch() as local:
            subset = open_subset(_local(file, local))
            for start in range(0, len(subset), UIDS_AT_ONCE):  # a sorted file may be larger than memory
                _, times = locate(np.array(subset[start : start + UIDS_AT_ONCE]), self.sample.packed)
                total += times
        return np.minimum(total, 65535).astype(np.uint16)

    def keep_rates(self) -> list[list[float]]:
        """For each cluster the share of its rows that each method keeps."""
        count = len(self.centroids)
        inside = self.clusters != NONE
        sizes = np.maximum(np.bincount(self.clusters[inside], minlength=count), 1)
        rates = [np.bincount(self.clusters[inside & (times > 0)], minlength=count) / sizes for times in self.times]
        return np.round(np.array(rates).reshape(len(rates), count).T, 4).tolist()

    def _download(self) -> dict[str, WordColumn]:
        """The download outcome of each row."""
        table = self.ledger
        if table is None:
            return {}
        rows = self.sample.rows.select("uid").join(table.select("uid", "reason"), on="uid", how="left", maintain_order="left")
        there = pl.Series([self.pictures.place(one) is not None for one in rows["uid"]])
        told = pl.select(pl.when(there).then(pl.lit(ARRIVED)).otherwise(rows["reason"].fill_null("not requested"))).to_series()
        made = words_of(told.alias("download"), force=True)
        return {} if made is None else {"download": made}

    @cached_property
    def ledger(self) -> pl.DataFrame | None:
        """The ledger's rows of the sample; None without a ledger."""
        where = self.origin.shards
        if where is None or where.ledger is None:
            return None
        file = self.home / "ledger.arrow"
        if not file.exists():
            folder, wanted = where.ledger / LEDGER, self.sample.rows.lazy().select("uid")
            tables = [
                pl.read_parquet(io.BytesIO(folder.read(name))).lazy().join(wanted, on="uid", how="semi").collect()
                for name in list(folder.files(".parquet"))[:20_000]
            ]
            table = pl.concat([one for one in tables if one.height] or tables[:1], how="diagonal_relaxed")
            with replacing(file) as temporary:
                table.unique("uid", keep="first", maintain_order=True).write_ipc(temporary)
        return map_arrow_file(file)


def open_explorer(
    origin: ExploreSource, num_rows: int, home: Path, *, features: str = "", kind: Kind = "pca", progress: Progress = NO_PROGRESS
) -> Explorer:
    """Return the explorer of an origin; draw its sample if it does not exist. Samples of an earlier state of the pool are
    removed."""
    import fcntl
    import hashlib
    import shutil

    name = hashlib.sha256(f"{origin.source.metadata}\0{origin.address}".encode()).hexdigest()[:12]
    folder = home / name / origin.state / f"{num_rows}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (home / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process prepares a pool, and others reuse it
        for other in (home / name).iterdir():
            if other.name != origin.state:
                shutil.rmtree(other, ignore_errors=True)
        sample = draw(origin.source, num_rows, folder, workers=settings().num_workers, progress=progress)
        if not sample.num_rows:
            told = f"A sample of {num_rows:,} of the {sample.num_pool:,} rows of {origin.name} is empty"
            raise DataError(f"{told}: request more rows.")
        return Explorer(origin, sample, folder, features=features, kind=kind, progress=progress)


def _prefix(sample: PoolSample, wanted: str) -> str:
    known = list(dict.fromkeys(key.rpartition("_")[0] for key in sample.features))
    if wanted and wanted not in known:
        raise SpecError(f"The pool has no features {wanted!r}: it has {', '.join(known) or 'none'}.")
    return wanted or next(iter(known), "")


def _local(file: SubsetFile, local: Path) -> Path:
    """A subset file on this machine's disk."""
    if file.folder.is_local:
        return file.folder.path / file.name
    import shutil

    with file.folder.open(file.name) as source, (local / "subset.npy").open("wb") as target:
        shutil.copyfileobj(source, target, 16 << 20)
    return local / "subset.npy"


def _table(pairs: SimilarPairs) -> npt.NDArray[Any]:
    made = np.empty(len(pairs.first), [("first", np.int64), ("second", np.int64), ("cosine", np.float32)])
    made["first"], made["second"], made["cosine"] = pairs
    return made
