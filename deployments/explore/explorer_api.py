"""Answers the page's requests to one explorer: plain requests in, plain answers out. `app` contains the web part."""

from __future__ import annotations

import base64
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.errors import SpecError
from datacomp_core.explore.clusters import NONE
from deployments.explore import pair_details as pairs
from deployments.explore.explorer import Explorer
from deployments.explore.facet_columns import histogram
from deployments.explore.facet_counts import AUTOMATIC_ROWS, FacetCounts, flips, recipe_of, word_counts
from deployments.explore.facets import NAME, ClusterFacet, Facet, FacetSelection, RangeFacet, Tree, ValuesFacet, recipe_text

MAX_HITS = 500
MAX_GROUPS = 200
MAX_IN_GROUP = 24
REQUESTS = "takedown-requests.txt"
Answer = dict[str, Any]


class _Ask(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SearchRequest(_Ask):
    """A text, or a sampled row to find similar rows for; `within`: search only what these facets keep."""

    text: str = Field(default="", max_length=2000)
    row: int | None = Field(default=None, ge=0)
    side: Literal["img", "txt"] = "img"
    count: int = Field(default=60, ge=1, le=MAX_HITS)
    scope: Literal["sample", "pool"] = "sample"
    within: FacetSelection | None = None


class FacetRequest(_Ask):
    """Facets; the method (or none) to compare with; columns whose kept rows are counted per bin."""

    wanted: FacetSelection
    against: int | None = Field(default=None, ge=0)
    columns: tuple[str, ...] = Field(default=(), max_length=60)


class SaveRequest(_Ask):
    """A recipe file to write."""

    name: str
    wanted: FacetSelection
    replace: bool = False


class TakedownRequest(_Ask):
    """Rows whose removal is requested."""

    rows: tuple[int, ...] = Field(min_length=1, max_length=1000)


class ExplorerApi:
    """An explorer with its verdicts; `out` is the folder that recipes and requests are written into."""

    def __init__(self, explorer: Explorer, out: Path) -> None:
        self.explorer, self.judging, self.out = explorer, FacetCounts(explorer), out
        self._writing = threading.Lock()

    def about(self) -> Answer:
        """Everything that does not change while the page is open."""
        explorer = self.explorer
        sample, origin = explorer.sample, explorer.origin
        shown = np.isfinite(explorer.places[:, 0])
        return {
            "name": origin.name,
            "address": origin.address,
            "rows": sample.num_rows,
            "pool": sample.num_pool,
            "on_map": int(shown.sum()),
            "map": explorer.kind,
            "features": explorer.prefix,
            "can_search": explorer.has_model,
            "sides": [side for side in ("img", "txt") if f"{explorer.prefix}_{side}" in sample.features],
            "whole_index": explorer.whole_index is not None,
            "pictures": origin.shards is not None,
            "harmless": origin.is_harmless,
            "nsfw": next((name for name in explorer.numbers if "nsfw" in name.lower() or "unsafe" in name.lower()), ""),
            "automatic": sample.num_pool <= AUTOMATIC_ROWS,
            "out": str(self.out.resolve()),
            "methods": [self._method(number) for number in range(len(origin.methods))],
            "numbers": [
                {"name": name, "looking": not self.judging.has_filter(name), **histogram(values)}
                for name, values in explorer.numbers.items()
            ],
            "words": [self._words(name) for name in explorer.words],
            "clusters": self._clusters(),
        }

    def _method(self, number: int) -> Answer:
        method, times = self.explorer.origin.methods[number], self.explorer.times[number]
        return {
            "name": method.name,
            "address": method.address,
            "kept": int((times > 0).sum()),
            "samples": method.num_samples,
            "repeats": int(times.max()) > 1,
            "filter": None if method.own_captions else method.filter,
        }

    def _words(self, name: str) -> Answer:
        words = self.explorer.words[name]
        counts = np.bincount(words.codes[words.codes < len(words.values)], minlength=len(words.values))
        return {"name": name, "values": words.values, "counts": counts.tolist(), "has_other": words.has_other}

    def _clusters(self) -> list[Answer]:
        explorer = self.explorer
        count = len(explorer.centroids)
        inside = explorer.clusters != NONE
        numbers = explorer.clusters[inside]
        sizes = np.bincount(numbers, minlength=count)
        sums = [np.bincount(numbers, explorer.places[inside, axis], minlength=count) / np.maximum(sizes, 1) for axis in (0, 1)]
        rates = explorer.keep_rates()
        return [
            {
                "name": explorer.cluster_names[n],
                "words": explorer.cluster_words[n],
                "size": int(sizes[n]),
                "rates": rates[n] if rates else [],
                "x": float(sums[0][n]),
                "y": float(sums[1][n]),
            }
            for n in range(count)
        ]

    # Arrays -----------------------------------------------------------------------------------------------------------

    def points(self) -> bytes:
        """x and y of every row, float32, NaN where it has no position."""
        return np.ascontiguousarray(self.explorer.places, np.float32).tobytes()

    def column(self, name: str) -> bytes | None:
        """A column's values: float32 of numbers, uint16 of words and clusters, uint8 of a method (0 or 1)."""
        explorer = self.explorer
        if name == "cluster":
            return explorer.clusters.tobytes()
        if name.startswith("method:") and name[7:].isdecimal() and int(name[7:]) < len(explorer.times):
            return (explorer.times[int(name[7:])] > 0).astype(np.uint8).tobytes()
        if name in explorer.numbers:
            return np.ascontiguousarray(explorer.numbers[name], np.float32).tobytes()
        return explorer.words[name].codes.tobytes() if name in explorer.words else None

    # Questions --------------------------------------------------------------------------------------------------------

    def search(self, asked: SearchRequest) -> Answer:
        if asked.row is None and not asked.text.strip():
            raise SpecError("The search is empty: give some words.")
        among = self.judging.kept(asked.within)[0] if asked.within is not None else None
        if asked.row is not None:
            hits = self.explorer.neighbours(self._row(asked.row), asked.count, side=asked.side, among=among)
            return self._hits(hits)
        return self.found(self.explorer.encode_text(asked.text), asked, among)

    def search_picture(self, data: bytes, count: int) -> Answer:
        return self.found(self.explorer.encode_picture(data), SearchRequest(count=count), None)

    def found(self, query: npt.NDArray[np.floating[Any]], asked: SearchRequest, among: npt.NDArray[np.bool_] | None) -> Answer:
        """Return the nearest neighbours of a vector."""
        if asked.scope == "sample":
            return self._hits(self.explorer.search(query, asked.count, side=asked.side, among=among))
        index = self.explorer.whole_index
        if index is None:
            raise SpecError("There is no index of the whole pool: build one with `datacomp explore --index`.")
        if asked.side == "txt" or asked.within is not None:
            raise SpecError("The index of the whole pool has pictures only: search captions, or within a filter, in the sample.")
        return {"places": [self._outside(*place) for place in index.search(query, asked.count)]}

    def _outside(self, part: str, row: int, score: float) -> Answer:
        """A row of the pool that may not be in the sample."""
        import polars as pl

        from datacomp_core import parts

        source = self.explorer.origin.source
        columns = [name for name in ("uid", "text", "url") if name in source.columns(part)]
        found = parts.scan(source.metadata, part).select(pl.col(columns)).slice(row, 1).collect().row(0, named=True)
        rows = self.explorer.row_of(str(found["uid"]))
        return {"row": rows, "score": round(score, 4), **{name: pairs.plain_value(value) for name, value in found.items()}}

    def _hits(self, hits: Any) -> Answer:
        return {"cards": pairs.cards(self.judging, hits.rows.tolist(), hits.scores.tolist())}

    def _row(self, row: int) -> int:
        if row >= self.explorer.sample.num_rows:
            raise SpecError(f"The sample has {self.explorer.sample.num_rows:,} rows: row {row:,} does not exist.")
        return row

    def cards(self, rows: list[int]) -> Answer:
        return {"cards": pairs.cards(self.judging, [self._row(row) for row in rows[:MAX_HITS]])}

    def judge(self, asked: FacetRequest) -> Answer:
        made = self.judging.verdict(asked.wanted)
        mask = made.pop("mask")
        before = np.ones_like(mask) if asked.against is None else self.explorer.times[self._known_method(asked.against)] > 0
        explorer = self.explorer
        count = len(explorer.centroids)
        shown = np.flatnonzero(mask)[:MAX_HITS]
        return {
            **made,
            "mask": base64.b64encode(np.packbits(mask, bitorder="little").tobytes()).decode("ascii"),
            "flips": flips(before, mask),
            "numbers": {name: self._binned(name, mask) for name in asked.columns if name in explorer.numbers},
            "words": {name: self._tallied(name, mask) for name in explorer.words},
            "clusters": np.bincount(explorer.clusters[mask & (explorer.clusters != NONE)], minlength=count).tolist(),
            "cards": pairs.cards(self.judging, shown[:60].tolist()),
        }

    def _known_method(self, number: int) -> int:
        if number >= len(self.explorer.times):
            raise SpecError(f"Method number {number} does not exist: there are {len(self.explorer.times)}.")
        return number

    def _binned(self, name: str, mask: npt.NDArray[np.bool_]) -> list[int]:
        values = self.explorer.numbers[name]
        edges = histogram(values)["edges"]
        kept = values[mask & np.isfinite(values)]
        return np.histogram(np.clip(kept, edges[0], edges[-1]), edges)[0].tolist() if edges else []

    def _tallied(self, name: str, mask: npt.NDArray[np.bool_]) -> list[int]:
        words = self.explorer.words[name]
        codes = words.codes[mask]
        return np.bincount(codes[codes < len(words.values)], minlength=len(words.values)).tolist()

    def count(self, wanted: FacetSelection) -> Answer:
        key, _ = self.judging.count(wanted)
        return self.counted(key)

    def counted(self, key: str) -> Answer:
        """Return the progress of a pass over the pool, or its result."""
        made = self.judging.counted(key)
        if made is None:
            raise SpecError("This pass over the pool is no longer known: request it again.")
        if made.error:
            raise SpecError(made.error)
        if made.review is None:
            return {"key": key, "done": False, "told": made.progress.line()}
        told = made.review.explanation
        return {
            "key": key,
            "done": True,
            "kept": told.kept,
            "rows": told.rows,
            "dropped": told.dropped,
            "steps": [step.model_dump() for step in told.steps],
        }

    def reasons(self, method: int) -> Answer:
        """Return why a method drops rows of the sample, and the codes of the reasons (uint16, base64)."""
        codes, words = self.judging.reasons(self._known_method(method))
        return {
            "words": ["kept", *words[1:]],
            "counts": word_counts(codes, words),
            "codes": base64.b64encode(codes.astype(np.uint16).tobytes()).decode("ascii"),
        }

    def pair(self, row: int) -> Answer:
        return pairs.pair(self.judging, self._row(row))

    def groups(self, at_least: float) -> Answer:
        found = self.explorer.groups(max(0.9, min(at_least, 1.0)))
        return {
            "num_groups": len(found),
            "num_rows": sum(len(rows) for rows in found),
            "groups": [
                {"size": len(rows), "cards": pairs.cards(self.judging, rows[:MAX_IN_GROUP].tolist())}
                for rows in found[:MAX_GROUPS]
            ],
        }

    def picture(self, row: int, size: int) -> bytes:
        uid = str(self.explorer.sample.rows["uid"][self._row(row)])
        return self.explorer.pictures.picture(uid, size)

    # Writing ----------------------------------------------------------------------------------------------------------

    def recipe(self, wanted: FacetSelection, name: str = "explored") -> tuple[Tree, str]:
        """Return the chosen filter and the text of its recipe file."""
        tree = self.judging.tree(wanted)
        recipe_of(tree, name)
        looking = [_named(facet) for facet in wanted.facets if self.judging.tree_of(facet) is None]
        left_out = f" Not saved, for viewing only: {', '.join(looking)}." if looking else ""
        return tree, recipe_text(name, tree, f"Chosen in datacomp explore over {self.explorer.origin.name}.{left_out}")

    def save(self, asked: SaveRequest) -> Answer:
        """Write a recipe file, and the vectors it names next to it."""
        if not NAME.fullmatch(asked.name):
            recipe_text(asked.name, {}, "")
        file = self.out / f"{asked.name}.yaml"
        if file.exists() and not asked.replace:
            raise SpecError(f"{file} already exists: choose another name, or choose to overwrite it.")
        with self._writing:
            self.out.mkdir(parents=True, exist_ok=True)
            _, text = self.recipe(asked.wanted, asked.name)
            for number, facet in enumerate(one for one in asked.wanted.facets if isinstance(one, ClusterFacet)):
                tree: Mapping[str, Any] = self.judging.tree_of(facet) or {}
                inner: Mapping[str, Any] = tree.get("filter", tree)
                for field in ("centroids", "target"):
                    copy = (self.out / f"{asked.name}-{field}{number or ''}.npy").resolve()
                    shutil.copyfile(inner[field], copy)
                    text = text.replace(str(inner[field]), str(copy))
            temporary = file.with_name(f".{file.name}")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(file)
        return {"file": str(file.resolve()), "text": text, "command": f"datacomp filter --recipe {file.resolve()} --explain"}

    def takedown(self, asked: TakedownRequest) -> Answer:
        """Add uids to the file of requests; each is listed once."""
        uids = [str(self.explorer.sample.rows["uid"][self._row(row)]) for row in asked.rows]
        file = self.out / REQUESTS
        with self._writing:
            self.out.mkdir(parents=True, exist_ok=True)
            there = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
            fresh = [uid for uid in dict.fromkeys(uids) if uid not in set(there)]
            temporary = file.with_name(f".{file.name}")
            temporary.write_text("".join(f"{line}\n" for line in [*there, *fresh]), encoding="utf-8")
            temporary.replace(file)
        command = f"datacomp pool takedown {file.resolve()}"
        return {"file": str(file.resolve()), "added": len(fresh), "all": len(there) + len(fresh), "command": command}


def _named(facet: Facet) -> str:
    """How a facet is called in a recipe's description: its column, if it has one."""
    return facet.column if isinstance(facet, RangeFacet | ValuesFacet) else facet.kind
