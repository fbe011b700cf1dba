"""What other captions are worth on the embedded `tiny` pool, beside filtering and with it: real trainings, several seeds.

`python benchmarks/caption_effect.py --store FOLDER --seeds 3` takes the true names of the drawings and the English of their
translations from the raw material, imports them as one caption set, and trains each arm. It prints a line for each training, and
after each seed a table of what is there: mean and standard deviation of the average, and the difference to the pool as it is,
seed by seed, each with the number of seeds it is of. A run that was stopped goes on in its store. The sources:

- `noisy`: the true name, for pairs whose caption is junk or of another drawing. Who makes it must know which pairs these are.
- `english`: the English of a foreign caption, piece by piece.
- `name`: the true name of every emoji drawing: a captioner that is always right. No source has a caption for clip art or words.
- `model`: a captioner that is right 7 times in 10, and else names another drawing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

NOISY = ("junk", "mismatch", "near_duplicate")
DRAWINGS = ("alt_text", "translation", *NOISY)
RIGHT = 0.7
TIERS: tuple[dict[str, tuple[str, Any]], ...] = (
    {
        "pool as it is": ("no_filter", "raw"),
        "scorer's top 30 %": ("clip_score_tiny", "raw"),
        "noisy replaced, then top 30 %": ("clip_score_tiny", {"first_of": ["noisy", "raw"]}),
        "noisy replaced": ("no_filter", {"first_of": ["noisy", "raw"]}),
        "foreign translated, then top 30 %": ("clip_score_tiny", {"first_of": ["english", "raw"]}),
    },
    {
        "both, then top 30 %": ("clip_score_tiny", {"first_of": ["noisy", "english", "raw"]}),
        "foreign translated": ("no_filter", {"first_of": ["english", "raw"]}),
        "noisy replaced, foreign translated": ("no_filter", {"first_of": ["noisy", "english", "raw"]}),
        "replace_below, true names": ("no_filter", "replace_below name"),
    },
    {
        "replace_below, captioner right in 70 %": ("no_filter", "replace_below model"),
        "draw of raw and true name": ("no_filter", {"draw": {"raw": 0.5, "name": 0.5}}),
        "true names alone": ("no_filter", {"replace": "name"}),
        "captioner right in 70 % alone": ("no_filter", {"replace": "model"}),
        "captioner right in 70 %, then top 30 %": ("clip_score_tiny", {"replace": "model"}),
    },
)
"""Arms by name: recipe of the filter, and policy. A tier is trained with all seeds before the next."""


def table(seed: int) -> pl.DataFrame:
    """uid, source and text of every caption that the raw material knows to be true (and of `model`, which errs)."""
    from datacomp_core.pool.tiny_pairs import candidates
    from datacomp_core.pool.tiny_server import HOST
    from datacomp_core.uid import uid_of

    pairs = [pair for pair in candidates(seed, 12_000) if pair.kind in DRAWINGS]
    uids = [uid_of(f"http://{HOST}{pair.path}", pair.text) for pair in pairs]
    rows = [(uid, *line) for uid, pair in zip(uids, pairs, strict=True) for line in _captions(uid, pair, pairs)]
    return pl.DataFrame(rows, schema=["uid", "source", "text"], orient="row")


def _captions(uid: str, pair: Any, pairs: list[Any]) -> Iterator[tuple[str, str]]:
    from datacomp_core.pool import tiny_captions

    chance = random.Random(uid)
    name = tiny_captions.english(pair.drawing, tiny_captions.POOL_TEMPLATES, chance)
    yield "name", name
    other = chance.choice(pairs).drawing
    wrong = tiny_captions.english(other, tiny_captions.POOL_TEMPLATES, chance)
    yield "model", name if chance.random() < RIGHT else wrong
    if pair.kind in NOISY:
        yield "noisy", name
    if pair.kind == "translation":
        pieces = [pair.drawing.name, *(word for word in pair.drawing.keywords if word != pair.drawing.name)]
        yield "english", ", ".join(pieces[: pair.text.count(", ") + 1])


def call(task: Any, *identity: Any) -> Any:
    """Run a task's step at once, without a Prefect server."""
    return task.fn(*identity)


def arms(address: str, threshold: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Parameters of an experiment for each arm."""
    for tier in TIERS:
        for name, (recipe, policy) in tier.items():
            plan = {"policy": _whole(policy, threshold), "sets": [] if policy == "raw" else [address]}
            yield name, {"recipe": recipe, "name": name, "captions": plan}


def _whole(policy: Any, threshold: float) -> Any:
    """`replace_below SOURCE` with the threshold of this pool; any other policy as it is."""
    kind, _, source = policy.partition(" ") if isinstance(policy, str) else ("", "", "")
    return {kind: {"threshold": threshold, "score": "tiny", "sources": [source]}} if source else policy


def prepared(seed: int) -> tuple[str, float]:
    """The address of the imported captions, and the scorer's score that 30 % of the pool's own pairs reach."""
    from datacomp_core.captions.import_captions import CaptionImportSpec
    from datacomp_core.parts import SCORES
    from flows import candidate_pool, filter_inputs
    from flows.parameters import ExperimentSpec
    from tasks import captions
    from tasks.run_step import store

    preparation = ExperimentSpec(recipe="clip_score_tiny", pool_seed=seed).preparation()
    found = candidate_pool.candidates(call, preparation)
    with tempfile.TemporaryDirectory() as folder:
        table(seed).write_parquet(path := Path(folder) / "true.parquet")
        spec = CaptionImportSpec(file=str(path), name="true", source_column="source")
        made = call(captions.import_captions, spec, found.pool, None, None)
    scored = filter_inputs.scores(call, preparation, found)
    folder = store().folder(scored) / SCORES
    values = pl.concat([pl.read_parquet(folder.at(name)) for name in folder.files(".parquet")])["clip_tiny_similarity_score"]
    return made.address, float(values.drop_nans().drop_nulls().sort(descending=True)[int(0.3 * len(values)) - 1])


def train(spec: dict[str, Any]) -> dict[str, Any]:
    """One experiment: the number of chosen pairs, the average and each task's main metric."""
    from flows.chain import experiment
    from flows.parameters import ExperimentSpec
    from tasks.run_step import store

    made = experiment(call, ExperimentSpec.model_validate(spec))
    entry = store().folder(made.entry).read_json("entry.json")
    scores = {one["task"]: one["value"] for one in entry.get("scores", []) if isinstance(one, dict)}
    return {"average": made.entry.average, "counts": made.entry.counts, "scores": scores, "address": made.entry.address}


def tell(found: dict[str, dict[int, float]], seeds: int) -> None:
    """The table: an arm a line. Differences are of the seeds that the pool as it is has too."""
    base = found.get("pool as it is", {})
    print(f"\n{'arm':<42} {'seeds':>8} {'average':>14} {'over the pool':>16} {'of seeds':>8}")
    for name, values in sorted(found.items(), key=lambda item: -statistics.mean(item[1].values())):
        gains = [100 * (value - base[seed]) for seed, value in values.items() if seed in base]
        average = _spread([100 * v for v in values.values()])
        print(f"{name:<42} {f'{len(values)} of {seeds}':>8} {average:>14} {_spread(gains, '+'):>16} {len(gains):>8}", flush=True)


def _spread(values: list[float], sign: str = "") -> str:
    several = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):{sign}.1f}{several}" if values else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True, help="Folder of the store; a run that was stopped goes on in it.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pool-seed", type=int, default=0)
    given = parser.parse_args()
    os.environ["DATACOMP_STORE"] = str(Path(given.store).resolve())
    address, threshold = prepared(given.pool_seed)
    print(f"captions: {address}; 30 % of the pool's pairs reach {threshold:.4f}", flush=True)
    found: dict[str, dict[int, float]] = {}
    every = dict(arms(address, threshold))
    for tier in TIERS:
        for seed in range(given.seeds):
            for name in tier:
                spec = every[name]
                told = train({**spec, "seed": seed, "pool_seed": given.pool_seed})
                found.setdefault(name, {})[seed] = told["average"]
                print(json.dumps({"arm": name, "seed": seed, **told}), flush=True)
            tell(found, given.seeds)


if __name__ == "__main__":
    main()
