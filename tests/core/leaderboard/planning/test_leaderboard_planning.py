"""What a plan says of money and time: from records where there are any, else from documented figures, and within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import board_world as world
import pytest
from pydantic import TypeAdapter

from datacomp_core.errors import SpecError
from datacomp_core.filters import WholeFilter
from datacomp_core.leaderboard.planning.estimate import StepWork, estimate, require_budget, total
from datacomp_core.leaderboard.planning.kept_fraction import share
from datacomp_core.leaderboard.planning.rates import load
from datacomp_core.scales import SCALES
from datacomp_core.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


def works(scale: str, seeds: int = 1) -> list[StepWork]:
    """Images of a pool, and trainings on it with their reports."""
    size, trained = SCALES[scale].train_num_samples, ("checkpoints", "reports")
    kinds = ["shards", *(kind for _ in range(seeds) for kind in trained)]
    return [StepWork(kind, kind, kind, scale, size, False, "never built") for kind in kinds]


def test_documented_figures_give_the_papers_cost(store: Store) -> None:
    """4 GPU-hours for a training at small, ten times that at medium, and 81 hours on 512 GPUs at xlarge, to a sixth."""
    for scale, hours in (("small", 4), ("medium", 40), ("xlarge", 81 * 512)):
        steps = estimate(works(scale), load(), store)
        training = next(step for step in steps if step.kind == "checkpoints")
        assert training.gpu_hours == pytest.approx(hours, rel=0.15)
        images = next(step for step in steps if step.kind == "shards")
        assert images.disk_bytes == pytest.approx({"small": 450e9, "medium": 4.5e12, "xlarge": 450e12}[scale], rel=0.01)


def test_captions_cost_what_makes_them(store: Store) -> None:
    """60,000 images an hour and GPU at small: 213 GPU-hours; at tiny, too, for a model; an import takes minutes of one core."""
    size = SCALES["small"].train_num_samples
    kinds = [("generate", "small", size), ("import", "small", size), ("generate", "tiny", 12_000)]
    made = [StepWork("captions", what, what, scale, number, False, "never built", "m/n") for what, scale, number in kinds]
    written, imported, tiny = estimate(made, load(), store)
    assert written.gpu_hours == pytest.approx(size / 60_000, rel=0.03)
    assert (imported.gpu_hours, imported.core_hours < 0.1) == (0, True)
    assert tiny.gpu_hours == pytest.approx(12_000 / 60_000, rel=0.03)


def test_records_are_believed_before_documents_and_what_is_built_costs_nothing(store: Store) -> None:
    world.run(store, "clip_score", world.results(0.1, 0))
    record = next(iter(store.records("checkpoints")))
    seen = int(record.artifact["samples_seen"])
    new = StepWork("checkpoints", "checkpoints", "new", "tiny", 2 * seen, False, "never built")
    built = StepWork("checkpoints", "checkpoints", "old", "tiny", seen, True, "built")
    first, second = estimate([new, built], load(), store)
    assert first.source == "1 record of this store"
    assert first.core_hours * 3600 == pytest.approx(2 * record.seconds)
    assert first.hours * 3600 == pytest.approx(2 * record.seconds), "as long as this machine took"
    assert first.disk_bytes == pytest.approx(2 * record.outputs.num_bytes)
    assert (second.core_hours, second.disk_bytes, second.money, second.source) == (0, 0, 0, "")
    other = estimate([StepWork("checkpoints", "checkpoints", "new", "small", 1, False, "never built")], load(), store)
    assert other[0].source.startswith("paper"), "a record of another scale says nothing"


def test_prices_of_the_users_own_and_a_budget(store: Store, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("currency: EUR\nprices: {gpu_hour: 10, cpu_core_hour: 0, gb_month: 0}\nmachine: {gpus: 8}\n")
    rates = load(mine)
    whole = total(estimate(works("small", seeds=2), rates, store), rates)
    assert whole.currency == "EUR"
    assert whole.money == pytest.approx(10 * whole.gpu_hours)
    assert whole.gpu_hours == pytest.approx(2 * (4 + 5190 / 3600), rel=0.01)
    require_budget(whole, whole.money + 1)
    with pytest.raises(SpecError, match="the budget is 5.00"):
        require_budget(whole, 5)
    mine.write_text("prices: {gpu_huor: 10}")
    with pytest.raises(SpecError, match="gpu_huor"):
        load(mine)


def test_shares_are_those_of_the_paper_or_what_the_filter_states() -> None:
    def stated(scale: str, recipe: str, tree: dict[str, Any]) -> float:
        wanted = TypeAdapter(WholeFilter).validate_python(tree)
        return share(scale, recipe, wanted.expected_share(SCALES[scale].train_num_samples))

    top = {"kind": "top_fraction", "score": "l14", "fraction": 0.2}
    assert stated("small", "clip_score", top) == pytest.approx(0.3, abs=0.01)
    assert stated("medium", "clip_score:fraction=0.2", top) == 0.2
    both = {"kind": "all", "filters": [{"kind": "words", "at_least": 3}, top, {"kind": "random", "share": 0.5, "seed": 0}]}
    assert stated("medium", "mine.yaml", both) == pytest.approx(0.1)  # half of the survivors
    assert stated("medium", "mine.yaml", {"kind": "any", "filters": [top, top]}) == pytest.approx(0.4)
    assert stated("medium", "mine.yaml", {"kind": "words", "at_least": 3}) == 1.0
    assert stated("small", "mine.yaml", {"kind": "top_count", "score": "l14", "count": 640_000}) == pytest.approx(0.05)
    drawn = {"kind": "sample_to", "filter": top, "num_samples": 25_600_000, "at_most_times": 10}
    assert stated("small", "mine.yaml", drawn) == 2.0
    assert share("medium", "mine.yaml") == 1.0


def test_tiny_is_reckoned_by_its_own_table(store: Store) -> None:
    """Its test sets are drawn from a package, not the hub's hundred gigabytes."""
    kinds = ("pools", "shards", "embeddings", "subsets", "reshard", "checkpoints", "evalsets", "reports", "entries")
    steps = estimate([StepWork(kind, kind, kind, "tiny", 12_000, False, "never built") for kind in kinds], load(), store)
    assert all(0 < step.hours < 0.1 and 0 < step.disk_bytes < 1e9 for step in steps)
    assert sum(step.traffic_bytes for step in steps) == 0
    small = estimate([StepWork(kind, kind, kind, "tiny", 1_200, False, "never built") for kind in kinds], load(), store)
    for before, after in zip(steps, small, strict=True):
        by_samples = before.kind not in ("checkpoints", "evalsets", "reports", "entries")
        assert after.disk_bytes == pytest.approx(before.disk_bytes / (10 if by_samples else 1)), before.kind


def test_the_slowest_of_gpus_cores_and_network_decides_the_time(store: Store, tmp_path: Path) -> None:
    work = [StepWork("shards", "shards", "images", "small", SCALES["small"].train_num_samples, False, "never built")]
    (slow,) = estimate(work, load(), store)
    assert slow.hours == pytest.approx(SCALES["small"].train_num_samples / 112 / 16 / 3600)
    thin = tmp_path / "thin.yaml"
    thin.write_text("machine: {gbit_per_second: 0.1}")
    (slower,) = estimate(work, load(thin), store)
    assert slower.hours == pytest.approx(450e9 * 8 / 1e8 / 3600, rel=0.001)
    assert slower.core_hours == slow.core_hours
