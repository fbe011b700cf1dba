"""Computes what facets and filters keep: immediately for the sample, exactly for the whole pool, and the difference to a
method. The code of `datacomp filter` evaluates each facet as the filter of its recipe; for this, the sample is a separate pool.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datacomp_core.errors import DatacompError, SpecError
from datacomp_core.pool_source import PoolSource
from datacomp_core.progress import LogProgress
from datacomp_core.recipes.base import Recipe
from datacomp_core.recipes.load import load_recipe
from datacomp_core.selection.review import Review, review
from datacomp_core.settings import settings
from datacomp_core.store import Folder
from datacomp_core.store.local import replacing
from deployments.explore import facets as asked
from deployments.explore.explorer import Explorer
from deployments.explore.facets import Facet, FacetSelection, Tree

Mask = npt.NDArray[np.bool_]
PART = "sample"
MOST_KEPT = 64
"""Number of facet verdicts kept in memory."""
AUTOMATIC_ROWS = 3_000_000
"""Pools up to this size are counted, and their drops explained, automatically."""


@dataclass
class PoolCount:
    """A pass over the whole pool: running, done or failed."""

    wanted: FacetSelection
    progress: LogProgress
    review: Review | None = None
    error: str = ""
    done: threading.Event = field(default_factory=threading.Event)


class FacetCounts:
    """Verdicts of an explorer's facets and methods."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self._guard = threading.Lock()
        self._masks: dict[str, tuple[Mask, int]] = {}
        self._counts: dict[str, PoolCount] = {}
        self._reviews: dict[int, tuple[npt.NDArray[np.int16], list[str]]] = {}

    # As filters -------------------------------------------------------------------------------------------------------

    def tree_of(self, facet: Facet) -> Tree | None:
        """Return the filter of a facet; None if it is for viewing only."""
        explorer = self.explorer
        if isinstance(facet, asked.RangeFacet):
            self._require(facet.column, explorer.numbers)
            return asked.range_filter(facet) if self.has_filter(facet.column) else None
        if isinstance(facet, asked.ClusterFacet):
            return asked.cluster_filter(facet, explorer.centroid_file, self._targets(facet), explorer.prefix)
        if isinstance(facet, asked.MethodFacet):
            return asked.method_filter(facet, str(self._method(facet).subset))
        if isinstance(facet, asked.ValuesFacet) and facet.column == "language":
            return asked.language_filter(facet)
        return None

    def has_filter(self, column: str) -> bool:
        """Whether a filter can read a column of numbers. The page also shows the length of each list, such as num_face_bboxes."""
        return column in asked.COMPUTED or column in self._pool_columns

    @cached_property
    def _pool_columns(self) -> frozenset[str]:
        source = self.explorer.origin.source
        return frozenset(source.columns(source.parts()[0]))

    def tree(self, wanted: FacetSelection) -> Tree:
        """Return the filter of everything that a recipe can express."""
        found = [self.tree_of(facet) for facet in wanted.facets]
        return asked.joined(wanted.base, [tree for tree in found if tree is not None])

    def _require(self, column: str, known: Any) -> None:
        if column not in known:
            raise SpecError(f"The pool has no column {column[:80]!r}.")

    def _method(self, facet: asked.MethodFacet) -> Any:
        methods = self.explorer.origin.methods
        if facet.method >= len(methods):
            raise SpecError(f"Method number {facet.method} does not exist: there are {len(methods)}.")
        return methods[facet.method]

    def _targets(self, facet: asked.ClusterFacet) -> Path:
        """A file with the centroids of the chosen clusters."""
        chosen = sorted(set(facet.clusters))
        centroids = self.explorer.centroids
        if chosen[-1] >= len(centroids):
            raise SpecError(f"Cluster number {chosen[-1]} does not exist: there are {len(centroids)}.")
        digits = hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:12]
        file = self.explorer.home / f"chosen-{self.explorer.prefix}-{digits}.npy"
        if not file.exists():
            temporary = file.with_name(f".{digits}-{threading.get_ident()}.npy")
            np.save(temporary, centroids[chosen])
            temporary.replace(file)
        return file

    # The sample -------------------------------------------------------------------------------------------------------

    @cached_property
    def source(self) -> PoolSource:
        """The sample as a pool: one part of metadata with all columns, and its features."""
        sample, home = self.explorer.sample, self.explorer.home / "as_pool"
        if not (home / "metadata" / f"{PART}.parquet").exists():
            shutil.rmtree(home, ignore_errors=True)
            (home / "features").mkdir(parents=True)
            (home / "metadata").mkdir()
            if sample.features:
                with zipfile.ZipFile(home / "features" / f"{PART}.npz", "w", zipfile.ZIP_STORED) as archive:
                    for key in sample.features:
                        archive.write(sample.folder / f"{key}.npy", f"{key}.npy")
            temporary = home / ".rows"
            sample.pool_rows.write_parquet(temporary)
            temporary.replace(home / "metadata" / f"{PART}.parquet")
        return PoolSource(Folder(home / "metadata"), (), (Folder(home / "features"),))

    def mask(self, facet: Facet) -> tuple[Mask, int]:
        """Return which sampled rows a facet keeps, (n,), and how many have no value to judge."""
        key = facet.model_dump_json()
        with self._guard:
            if key in self._masks:
                return self._masks[key]
        tree = self.tree_of(facet)
        found = self._looked_at(facet) if tree is None else self._judged(tree)
        with self._guard:
            while len(self._masks) >= MOST_KEPT:
                self._masks.pop(next(iter(self._masks)))
            self._masks[key] = found
        return found

    def _judged(self, tree: Tree) -> tuple[Mask, int]:
        explorer = self.explorer
        if explorer.origin.methods and tree.get("kind") == "listed":
            number = next(n for n, one in enumerate(explorer.origin.methods) if str(one.subset) == tree["uids"])
            return explorer.times[number] > 0, 0
        made = review(recipe_of(tree), self.source)
        return made.kept, made.explanation.steps[-1].without_value

    def _looked_at(self, facet: Facet) -> tuple[Mask, int]:
        """Evaluate a facet that no filter can express."""
        explorer = self.explorer
        if isinstance(facet, asked.RangeFacet):
            asked.range_filter(facet)  # refuses a range without limits
            values = explorer.numbers[facet.column]
            low, high = (-np.inf if facet.at_least is None else facet.at_least), (np.inf if facet.below is None else facet.below)
            return (values >= low) & (values < high), int(np.isnan(values).sum())
        if isinstance(facet, asked.TextFacet):
            captions = explorer.sample.rows["text"] if "text" in explorer.sample.rows.columns else None
            if captions is None:
                raise SpecError("This pool has no captions to search.")
            found = captions.str.to_lowercase().str.contains(facet.contains.lower(), literal=True)
            return found.fill_null(False).to_numpy(), captions.null_count()
        assert isinstance(facet, asked.ValuesFacet)
        self._require(facet.column, explorer.words)
        words = explorer.words[facet.column]
        wanted = [place for place, value in enumerate(words.values) if value in facet.values]
        inside, known = np.isin(words.codes, wanted), words.codes < len(words.values)
        return (known & ~inside if facet.drop else inside), int((~known).sum())

    def verdict(self, wanted: FacetSelection) -> dict[str, Any]:
        """Return what the facets keep of the sample, together and each alone."""
        mask, alone = self.kept(wanted)
        rows, pool = self.explorer.sample.num_rows, self.explorer.sample.num_pool
        share = mask.mean()
        margin = 1.96 * np.sqrt(share * (1 - share) / rows * (1 - rows / pool))
        return {
            "mask": mask,
            "kept": int(mask.sum()),
            "rows": rows,
            "pool": pool,
            "estimate": round(float(share) * pool),
            "margin": int(np.ceil(margin * pool)),
            "alone": alone,
            "only_looking": [number for number, facet in enumerate(wanted.facets) if self.tree_of(facet) is None],
        }

    def kept(self, wanted: FacetSelection) -> tuple[Mask, list[dict[str, int]]]:
        mask, alone = np.ones(self.explorer.sample.num_rows, np.bool_), list[dict[str, int]]()
        if wanted.base is not None:
            mask &= self._base(wanted.base)
        for facet in wanted.facets:
            found, missing = self.mask(facet)
            alone.append({"kept": int(found.sum()), "missing": missing})
            mask = mask & found
        return mask, alone

    def _base(self, tree: Tree) -> Mask:
        key = "base:" + json.dumps(tree, sort_keys=True, default=str)
        with self._guard:
            if key in self._masks:
                return self._masks[key][0]
        made = review(recipe_of(tree), self.source)
        with self._guard:
            self._masks[key] = made.kept, made.explanation.steps[-1].without_value
        return made.kept

    # The whole pool ---------------------------------------------------------------------------------------------------

    def count(self, wanted: FacetSelection) -> tuple[str, PoolCount]:
        """Return the pass over the whole pool for a request; start it if it is neither running nor done."""
        key = hashlib.sha256(wanted.model_dump_json().encode()).hexdigest()[:16]
        tree = self.tree(wanted)
        recipe = recipe_of(tree)
        with self._guard:
            if key in self._counts and not self._counts[key].error:
                return key, self._counts[key]
            if sum(not one.done.is_set() for one in self._counts.values()) >= 2:
                raise SpecError("Two passes over the pool are already running: wait until one of them ends.")
            while len(self._counts) >= MOST_KEPT:
                self._counts.pop(next(iter(self._counts)))
            made = self._counts[key] = PoolCount(wanted, LogProgress("count", every=3600))
        threading.Thread(target=self._pass, args=(made, recipe), daemon=True).start()
        return key, made

    def counted(self, key: str) -> PoolCount | None:
        with self._guard:
            return self._counts.get(key)

    def _pass(self, made: PoolCount, recipe: Recipe) -> None:
        try:
            sample = self.explorer.sample
            made.review = review(
                recipe, self.explorer.origin.source, last=sample.last, workers=settings().num_workers, progress=made.progress
            )
        except DatacompError as problem:
            made.error = str(problem)
        except Exception as problem:  # report any failure to the waiting page
            made.error = f"The pass over the pool ended with {type(problem).__name__}: {problem}"
        finally:
            made.done.set()

    # Methods ----------------------------------------------------------------------------------------------------------

    def reasons(self, method: int) -> tuple[npt.NDArray[np.int16], list[str]]:
        """Return why a method drops each sampled row: codes (n,), 0 for kept, and their words. Computed once, by a pass over
        the pool. SpecError if its filter is unknown, or if it now keeps other rows than its subset contains.
        """
        explorer, told = self.explorer, self.explorer.origin.methods[method]
        if told.filter is None or told.own_captions:
            why = "saw other captions" if told.own_captions else "has no filter on record"
            raise SpecError(f"{told.name} {why}, so the reasons for drops are unknown.")
        with self._guard:
            if method in self._reviews:
                return self._reviews[method]
        digits = hashlib.sha256(f"{told.address}{told.subset}".encode()).hexdigest()[:12]
        codes, words = explorer.home / f"reasons-{digits}.npy", explorer.home / f"reasons-{digits}.json"
        if not codes.exists() or not words.exists():
            made = review(
                recipe_of(told.filter), explorer.origin.source, last=explorer.sample.last, workers=settings().num_workers
            )
            with self._guard, replacing(words) as temporary:
                temporary.write_text(json.dumps(made.words), encoding="utf-8")
            with self._guard, replacing(codes) as temporary, temporary.open("wb") as out:
                np.save(out, made.codes)
        found = np.load(codes), json.loads(words.read_text(encoding="utf-8"))
        if not np.array_equal(found[0] == 0, explorer.times[method] > 0):
            raise SpecError(
                f"The filter of {told.name} now keeps other rows of this pool than its subset contains, so reasons would be "
                "wrong."
            )
        with self._guard:
            self._reviews[method] = found
        return found


def recipe_of(tree: Tree, name: str = "explored") -> Recipe:
    """A filter given as plain data. SpecError with one sentence."""
    return load_recipe(json.dumps({"name": name, "filter": tree}))


def flips(before: Mask, after: Mask) -> dict[str, int]:
    """Count what changes from one to the other."""
    return {"gained": int((after & ~before).sum()), "lost": int((before & ~after).sum()), "both": int((after & before).sum())}


def word_counts(codes: npt.NDArray[np.int16], words: Sequence[str]) -> list[dict[str, Any]]:
    """Reasons with their rows, the most frequent first."""
    counts = np.bincount(codes[codes > 0], minlength=len(words))
    order = sorted(range(1, len(words)), key=lambda place: -int(counts[place]))
    return [{"reason": words[place], "rows": int(counts[place])} for place in order if counts[place]]
