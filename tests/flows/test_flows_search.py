"""A search over real entries of a small world: proposals, resume, pruning, budgets, and a verdict that knows about selection."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import board_world as world
import numpy as np
import pytest
from pydantic import ValidationError

from datacomp_core.artifacts import BoardEntry
from datacomp_core.errors import DataError, SpecError, StoreError
from datacomp_core.leaderboard.entries import per_image_scores
from datacomp_core.leaderboard.entries.entry import Entry, read
from datacomp_core.leaderboard.entries.per_image_scores import PerImageScores
from datacomp_core.leaderboard.planning.rates import load
from datacomp_core.leaderboard.search.budget import Amounts, Budget, Spent, affordable, spent
from datacomp_core.leaderboard.search.journal import Journal, SeedRuns, Trial, TrialBatch
from datacomp_core.leaderboard.search.page import render, write_page
from datacomp_core.leaderboard.search.space import Space
from datacomp_core.leaderboard.search.study import searches, study_of
from datacomp_core.leaderboard.search.trial_value import ScoredEntry, half_of, judge, scores
from datacomp_core.leaderboard.site.pages import write_site
from datacomp_core.store import Store
from flows.parameters import ExperimentSpec
from flows.search import requested
from flows.search_loop import Measured, SearchLoop
from flows.search_spec import SearchSpec, search_of

SPACE = {"kind": "top_fraction", "score": "tiny", "fraction": {"low": 0.1, "high": 0.9}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


class World:
    """Measures experiments by making entries of a small world; `worth`: how good a filter is, before the noise of its seed."""

    def __init__(self, store: Store, worth: Callable[[float], float], *, spread: float = 0.0) -> None:
        self.store, self.worth, self.spread = store, worth, spread
        self.asked: list[tuple[str, float, int]] = []
        self.fails: Callable[[float], Exception | None] = lambda _: None

    def __call__(self, groups: Sequence[Sequence[ExperimentSpec]]) -> list[Measured]:
        return [self._group(group) for group in groups]

    def _group(self, group: Sequence[ExperimentSpec]) -> Measured:
        found: list[BoardEntry] = []
        for spec in group:
            chosen: Any = spec.subset().filter
            self.asked.append((spec.subset().recipe, chosen.fraction, spec.seed))
            problem = self.fails(chosen.fraction)
            if problem is not None:
                return [], problem
            made = world.results(self.worth(chosen.fraction), spec.seed, self.spread)
            name = f"{spec.subset().recipe}-{chosen.fraction:.6f}"
            found.append(world.run(self.store, name, made, seed=spec.seed))
        return found, None


def _search(**given: Any) -> SearchSpec:
    return SearchSpec.model_validate({"space": SPACE, "trials": 12, "at_once": 3, **given})


def _good(fraction: float) -> float:
    return 0.3 - (fraction - 0.55) ** 2


def _run(spec: SearchSpec, store: Store, measure: World) -> Any:
    loop = SearchLoop(spec, store, measure)
    for _ in loop.run():
        pass
    return study_of(store, loop.address)


def test_a_search_finds_what_is_better_and_says_by_how_much(store: Store) -> None:
    measure = World(store, _good)
    study = _run(_search(), store, measure)
    assert [trial.number for trial in study.trials] == list(range(12))
    best = max(study.trials, key=lambda trial: trial.value)
    assert study.best == best.number
    assert abs(best.params["fraction"] - 0.55) < 0.15
    assert study.judgement.outcome == "better"
    assert study.judgement.sentence.startswith(f"Trial {best.number} is better than clip_score_tiny: +")
    wanted = _good(best.params["fraction"]) - _good(0.3)
    assert study.judgement.leads_by == pytest.approx(wanted, abs=0.012)
    assert study.importance == {"fraction": 1.0}
    assert study.stopped == "all 12 trials are over"
    assert searches(store) == [study.address]
    fresh = {seed for _, fraction, seed in measure.asked if fraction == best.params["fraction"]}
    assert fresh == {0, 1001, 1002, 1003}
    page = render(study)
    assert study.judgement.sentence.replace("'", "&#39;") in page
    assert "<svg" in page
    assert "<a href=" not in page.partition("<main")[2], "nothing that it could link to is there"


def test_every_link_of_a_searchs_page_leads_to_a_page(store: Store, tmp_path: Path) -> None:
    site = tmp_path / "site"
    study = _run(_search(trials=3), store, World(store, _good))
    assert not re.findall(r'<a [^>]*href="([^"#]+)"', write_page(store, study.address, site).read_text())
    write_site(store, site, study.scale)
    page = write_page(store, study.address, site)
    links = set(re.findall(r'<a [^>]*href="([^"#]+)"', page.read_text()))
    rows = {f"../tiny/experiment-{study.rows[entry]}.html" for trial in study.trials for entry in trial.entries}
    assert links == {"../tiny.html", *rows}
    assert len(rows) == 3
    assert all((page.parent / link).exists() for link in links)
    first = study.model_copy(update={"scale": "small"})  # its trials ran at a smaller scale first
    assert set(re.findall(r'<a [^>]*href="([^"#]+)"', render(first, site))) == rows
    (site / "debug").mkdir()  # a search at another scale than its pool's
    for name in rows:
        (site / "debug" / name.rpartition("/")[2]).touch()
    other = study.model_copy(update={"boards": dict.fromkeys(study.boards, "debug")})
    assert set(re.findall(r'<a [^>]*href="([^"#]+)"', render(other, site))) == {
        "../tiny.html",
        *(name.replace("tiny", "debug") for name in rows),
    }


def test_no_better_is_an_answer(store: Store) -> None:
    """Every filter is worth the same: the search leads by luck, and the verdict says so."""
    study = _run(_search(trials=9, seeds=[0]), store, World(store, lambda fraction: 0.2 + 1e-5 * fraction, spread=0.02))
    assert study.judgement.outcome == "no_better"
    assert study.judgement.sentence.startswith("No better than clip_score_tiny: ")
    assert study.judgement.led_by > study.judgement.leads_by
    assert "selection among 9 trials" in study.judgement.sentence


class Killed(BaseException):
    pass


def test_a_killed_search_ends_as_one_that_was_not(tmp_path: Path) -> None:
    stores = [Store.open(str(tmp_path / name)) for name in ("whole", "killed")]
    whole = _run(_search(trials=8), stores[0], World(stores[0], _good))
    count, made = 0, whole

    def kill(_: float) -> None:
        nonlocal count
        count += 1
        if count in {2, 6, 11, 16}:
            raise Killed

    for _ in range(20):
        measure = World(stores[1], _good)
        measure.fails = kill
        try:
            made = _run(_search(trials=8), stores[1], measure)
            break
        except Killed:
            continue
    assert count > 16
    assert [trial.model_dump() for trial in made.trials] == [trial.model_dump() for trial in whole.trials]
    assert made.judgement == whole.judgement
    more = _run(_search(trials=11), stores[0], World(stores[0], _good))
    assert [trial.number for trial in more.trials] == list(range(11))
    assert more.trials[:8] == whole.trials
    assert more.address == whole.address


@pytest.mark.slow
def test_what_lags_behind_the_median_gets_no_further_seed(store: Store) -> None:
    measure = World(store, _good)
    study = _run(_search(trials=15, seeds=[0, 1, 2]), store, measure)
    pruned = [trial for trial in study.trials if trial.state == "pruned"]
    assert pruned
    assert all(len(trial.values) < 3 and trial.value is None for trial in pruned)
    assert all(len(trial.values) == 3 for trial in study.complete)
    assert study.noise is not None
    again = _run(_search(trials=15, seeds=[0, 1, 2], pruning="none", name="all"), store, World(store, _good))
    assert all(trial.state == "complete" for trial in again.trials)


def test_a_filter_that_fails_is_a_failed_trial_and_a_machine_that_fails_is_not(store: Store) -> None:
    measure = World(store, _good)
    measure.fails = lambda fraction: DataError("keeps none of the rows") if fraction > 0.6 else None
    study = _run(_search(), store, measure)
    failed = [trial for trial in study.trials if trial.state == "failed"]
    assert failed
    assert all(trial.params["fraction"] > 0.6 and trial.reason == "keeps none of the rows" for trial in failed)
    broken = World(store, _good)
    broken.fails = lambda fraction: StoreError("the bucket does not answer") if fraction != 0.3 else None
    with pytest.raises(StoreError):
        _run(_search(name="broken", seed=1), store, broken)
    assert not Journal(store.root / _search(name="broken", seed=1).address()).trials()
    broken.fails = lambda fraction: DataError("nothing") if fraction != 0.3 else None
    with pytest.raises(DataError, match="No trial of the search broken has a score. The first one: nothing"):
        _run(_search(name="broken", seed=1), store, broken)


def test_budgets_stop_a_search_and_keep_the_final_runs_back(store: Store) -> None:
    first = _run(_search(trials=3), store, World(store, _good))
    study = _run(_search(trials=50, money=first.spent.money), store, World(store, _good))
    assert len(study.trials) == 3
    assert study.stopped.startswith("the budget of ")
    assert study.stopped.endswith(" with the final runs")
    assert study.judgement is not None
    more = _run(_search(trials=5), store, World(store, _good))
    assert len(more.trials) == 5
    with pytest.raises(DataError, match="has a score. The first one: the budget allows none"):
        _run(_search(name="poor", seed=3, money=1e-12), store, World(store, _good))


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_filter_is_tried_once_and_a_space_that_ends_ends_the_search(store: Store, sampler: str) -> None:
    """Six filters, of which a sampler alone would repeat some and leave out others."""
    fractions = [round(0.1 * tenth, 1) for tenth in range(2, 8)]
    space = {**SPACE, "fraction": {"low": 0.2, "high": 0.7, "step": 0.1}}
    measure = World(store, _good)
    study = _run(_search(space=space, trials=20, sampler=sampler), store, measure)
    assert sorted(trial.params["fraction"] for trial in study.trials) == pytest.approx(fractions)
    assert [trial.number for trial in study.trials] == list(range(6))
    assert study.stopped == "every filter of the space was tried, 6 in all"
    assert "selection among 6 trials" in study.judgement.sentence
    asked = len(measure.asked)
    _run(_search(space=space, trials=30, sampler=sampler), store, measure)
    assert len(measure.asked) == asked


def test_every_filter_of_a_space_is_listed_once() -> None:
    whole = {"kind": "words", "at_least": {"low": 1, "high": 3}}
    tree = {"kind": "all", "filters": [whole, {"choose": ["a", "a", {"kind": "t", "f": {"low": 0.1, "high": 0.3, "step": 0.1}}]}]}
    space = Space(tree)
    fills = [
        {"kind": "all", "filters": [{"kind": "words", "at_least": words}, other]}
        for words in (1, 2, 3)
        for other in ("a", *({"kind": "t", "f": value} for value in (0.1, 0.2, 0.3)))
    ]
    by_text = space.all_filled(12)
    assert by_text is not None
    listed = list(by_text.values())
    assert [space.of_values(values) for values in listed] == list(by_text)
    assert [space.filled(lambda name, _, own=values: own[name]) for values in listed] == fills  # type: ignore[misc]
    assert space.all_filled(11) is None
    assert Space(SPACE).all_filled(10_000) is None
    tried = {space.of_values(values) for values in listed[1:]}
    assert space.untried(tried, 12) == listed[:1]


def test_a_search_that_is_shown_prints_nothing_of_optunas(store: Store) -> None:
    """In a process that proposes nothing."""
    address = _run(_search(trials=6), store, World(store, _good)).address
    shown = "import sys; from datacomp_core.store import Store; from datacomp_core.leaderboard.search.study import study_of; "
    shown += "print(study_of(Store.open(sys.argv[1]), sys.argv[2]).importance)"
    command = [sys.executable, "-c", shown, str(store.root), address]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("{'fraction'")
    assert done.stderr == ""


def test_what_is_left_of_a_budget_is_reckoned_in_trials() -> None:
    one = Amounts(hours=1.0, gpu_hours=2.0, money=10.0)
    so_far = Spent(trials=4, hours=4.0, gpu_hours=8.0, money=40.0, currency="EUR", a_trial=one, a_run=one)
    assert affordable(Budget(trials=10), so_far, 3, 6) == (3, "")
    assert affordable(Budget(trials=5), so_far, 3, 6) == (1, "")
    assert affordable(Budget(trials=4), so_far, 3, 6)[0] == 0
    assert affordable(Budget(trials=99, gpu_hours=24.0), so_far, 3, 6) == (2, "")  # 8 spent, 12 kept back for 6 runs
    assert affordable(Budget(trials=99, gpu_hours=21.9), so_far, 3, 6) == (
        0,
        "the budget of 21.9 GPU-hours is spent: 8, and 12 is reserved for the final runs",
    )
    told = affordable(Budget(trials=99, gpu_hours=21.9), so_far, 3, 6, finished=True)[1]
    assert told == "the budget of 21.9 GPU-hours is spent: 8 with the final runs"
    two = so_far.model_copy(update={"a_run": Amounts(money=5.0)})  # a trial is two runs: 30 kept back
    assert affordable(Budget(trials=99, money=100.0), two, 9, 6) == (3, "")
    nothing = Spent(trials=0, hours=0, gpu_hours=0, money=0, currency="")
    assert affordable(Budget(trials=99, hours=1.0), nothing, 4, 6) == (4, "")


def test_final_runs_are_reserved_by_what_a_run_at_the_searchs_own_scale_costs(store: Store) -> None:
    """Trials that end at a smaller scale cost little; the final runs do not."""
    first = world.run(store, "a", world.results(0.2, 0))
    baseline = world.run(store, "b", world.results(0.2, 0))
    trials = [Trial(number=0, params={}, filter=None, state="pruned", values=[0.1], entries=["entries/tiny/a"])]
    own = read(store, baseline)
    cheap = read(store, first)

    def timed(entry: Entry, seconds: float) -> Entry:
        """Each of the entry's own four steps takes that long; what it shares with others, an hour."""
        new = entry.inputs.values()
        chain = [link.model_copy(update={"seconds": seconds if link.address in new else 3600.0}) for link in entry.chain]
        return entry.model_copy(update={"chain": chain})

    journal = Journal(store.root / "searches/tiny/it--0")
    journal.note_baseline(SeedRuns(name="b", entries=[baseline.address], values=[0.1]))
    journal.note_batch(0, TrialBatch(trials=[], seconds=20.0))
    journal.note_trial(trials[0])
    small = timed(cheap, 9.0).model_copy(update={"scale": "debug"})
    entries = {baseline.address: timed(own, 900.0), "entries/tiny/a": small}
    so_far = spent(store, journal, entries, "tiny", load(None))
    cores = load(None).machine.cpu_cores * load(None).prices.cpu_core_hour
    assert so_far.a_run.money == pytest.approx(4 * 900 / 3600 * cores)
    assert so_far.a_trial.money == pytest.approx(4 * 9 / 3600 * cores)
    assert so_far.a_trial.hours == pytest.approx(20 / 3600)
    assert so_far.a_run.hours == pytest.approx(20 / 3600 * 100)  # a hundred times as long as the trial
    shared = [link for link in own.chain if link.address not in own.inputs.values()]
    assert shared
    assert so_far.money == pytest.approx((len(shared) + 1 + 0.01) * cores)


def test_halves_are_disjoint_and_whole_and_keep_every_class() -> None:
    random = np.random.default_rng(0)
    every = PerImageScores(np.arange(101.0), random.integers(0, 7, 101), "mean")
    sides = [half_of(every, "a", half) for half in ("search", "held_out")]
    assert sorted([*sides[0].values, *sides[1].values]) == list(range(101))
    for stratum in range(7):
        counts = [int((side.strata == stratum).sum()) for side in sides]
        assert counts[0] - counts[1] in {0, 1}
    assert half_of(every, "b", "search").values.tolist() != sides[0].values.tolist()
    for side in sides:
        assert [every.strata[int(place)] for place in side.values] == side.strata.tolist()


def test_the_verdict_is_over_images_that_the_search_did_not_see(store: Store) -> None:
    entries = [
        world.run(store, f"r{k}", world.results(center, k, 0.0), seed=k) for k, center in enumerate((0.3, 0.31, 0.2, 0.21))
    ]
    runs = [ScoredEntry.of(read(store, one), per_image_scores.read(store.folder(one))) for one in entries]
    made = judge(4, "it", 9, ([0.5], [0.1]), runs[:2], runs[2:])
    held = [scores(run, "held_out") for run in runs]
    seen = [scores(run, "search") for run in runs]
    for key, found in runs[0].hits.items():
        whole = found.score() * 400
        assert held[0][key] * 200 + seen[0][key] * 200 == pytest.approx(whole)
    wanted = np.mean([np.mean([held[0][k], held[1][k]]) - np.mean([held[2][k], held[3][k]]) for k in held[0]])
    assert made.leads_by == pytest.approx(wanted)
    assert made.led_by == pytest.approx(0.4)
    assert made.curse == pytest.approx(0.4 - wanted)
    assert made.outcome == "better"
    assert "+40.0" in made.sentence


def test_free_parameters_are_named_and_filled() -> None:
    tree = {
        "kind": "all",
        "filters": [
            {"kind": "words", "at_least": {"low": 1, "high": 9, "step": 2}},
            {"kind": "top_fraction", "score": "tiny", "fraction": {"low": 0.01, "high": 1.0, "log": True}},
            {"choose": ["basic_tiny", {"recipe": "clip_score_tiny", "fraction": {"low": 0.2, "high": 0.4, "name": "inner"}}]},
            {"kind": "top_fraction", "score": "tiny", "fraction": {"low": 0.2, "high": 0.4, "name": "inner"}},
        ],
    }
    space = Space(tree)
    assert list(space.free) == ["at_least", "fraction", "filters", "inner"]
    taken: list[str] = []

    def take(name: str, free: Any) -> Any:
        taken.append(name)
        return free.labels[1] if hasattr(free, "labels") else free.high

    made = space.filled(take)
    assert taken == ["at_least", "fraction", "filters", "inner"]
    assert made["filters"][0]["at_least"] == 9
    assert made["filters"][2] == "clip_score_tiny:fraction=0.4"
    assert made["filters"][3]["fraction"] == 0.4
    assert space.free["filters"].labels == ["basic_tiny", "clip_score_tiny"]  # type: ignore[union-attr]
    assert [one.in_words for one in list(space.free.values())[1:3]] == ["0.01 to 1, by ratio", "basic_tiny | clip_score_tiny"]
    twice = Space([{"a": {"low": 1, "high": 2}}, {"a": {"low": 1, "high": 3}}])
    assert list(twice.free) == ["0.a", "1.a"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("filter: {kind: words, at_least: 3}", "nothing to search"),
        ("filter: {kind: words, at_least: {low: 3, high: 1}}", "The range is empty: low is 3 and high is 1"),
        ("filter: {kind: words, at_least: {low: 3}}", "high: Field required"),
        ("filter: {kind: words, at_least: {low: 3, high: 9, stepp: 1}}", "stepp: Extra inputs"),
        ("filter: {kind: words, at_least: {choose: [3]}}", "at least 2 items"),
        ("filter: {kind: words, at_least: {low: 0, high: 9}}", "words.at_least: .*greater than or equal to 1"),
        (
            "filter: {kind: top_fraction, score: l14, fraction: {low: 0.1, high: 2}}",
            "less than or equal to 1 .*with fraction = 2",
        ),
        ("filter: {kind: top_fraction, score: l14, fraction: {choose: [0.2, best]}}", "valid number.*with fraction = best"),
        ("filter: {kind: words, at_least: {low: 1, high: 9, step: 10}}", "The step 10 is larger than the range from 1 to 9"),
        (
            "filter: {choose: [basic_tiny, {kind: words, at_least: {low: 0, high: 9}}]}",
            "or equal to 1 .*with (filter = words|at_least = 0)",
        ),
        ("filter: {choose: [basic_tiny, {kind: words, at_least: {low: 1, high: 9.5}}]}", "valid integer.*with at_least = 9.5"),
        ("filter: {choose: [basic_tiny, {kind: wordz, at_least: 3}]}", "wordz"),
        ("filter: {kind: wordz, at_least: {low: 1, high: 9}}", "Unknown filter kind|wordz"),
        (
            "filter: {kind: words, at_least: {low: 1, high: 9}}\ntrails: 3",
            "Unknown field of the search file .* 'trails'.*'trials'",
        ),
        ("filter: {kind: words, at_least: {low: 1, high: 9}}\nagainst: clip_scor", "Unknown recipe 'clip_scor'"),
        (
            "filter: {kind: words, at_least: {low: 1, high: 9}}\nfinal_seeds: [0, 1]",
            "The final seed 0 is also a seed of the search",
        ),
        ("filter: {kind: words, at_least: {low: 1, high: 9}}\nfirst_scales: [small]", "first_scales must be smaller than tiny"),
        ("filter: [", "not valid YAML"),
        ("trials: 3", "a mapping with a `filter`"),
    ],
)
def test_a_wrong_search_is_one_sentence(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=told):
        search_of(path)


@pytest.mark.parametrize(("option", "value"), [("hours", 0), ("gpu_hours", -1), ("money", float("nan")), ("trials", 20_000)])
def test_a_wrong_option_is_not_blamed_on_the_file(option: str, value: float, tmp_path: Path) -> None:
    path = tmp_path / "fraction.yaml"
    path.write_text("filter: {kind: words, at_least: {low: 1, high: 9}}\nhours: 2\n")
    with pytest.raises(SpecError) as told:
        search_of(path, **{option: value})
    assert str(told.value).startswith(f"--{option.replace('_', '-')}: Input should be ")
    assert "fraction.yaml" not in str(told.value)


def test_an_end_is_refused_only_if_no_other_parameter_can_make_it_valid(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    np.save(tmp_path / "target.npy", np.eye(4, dtype=np.float32))
    units = "kind: submodular, target: target.npy, active: {low: 1, high: 64}, units: {choose: [32, 128]}"
    path.write_text(f"filter: {{{units}}}\n".replace("target.npy", str(tmp_path / "target.npy")))
    assert list(search_of(path).the_space().free) == ["active", "units"]
    path.write_text(path.read_text().replace("128", "48"))
    with pytest.raises(SpecError, match="use fewer active units.*with active = 64"):
        search_of(path)


def test_a_filter_that_reads_what_the_pool_lacks_is_told_and_not_raised() -> None:
    spec = _search(space={"kind": "threshold", "score": "l14", "at_least": {"low": 0.1, "high": 0.3}})
    asked = spec.experiment(spec.recipe_of({"kind": "threshold", "score": "l14", "at_least": 0.2}, 0), "tiny", 0)
    entries, _, problem = requested(lambda *_, **__: None, [asked])  # pyright: ignore[reportArgumentType]
    assert not entries
    assert isinstance(problem, DataError)
    assert str(problem).startswith("The embedded pool has no clip_l14_similarity_score")


def test_what_a_search_is_and_how_much_it_may_take(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("filter: {kind: words, at_least: {low: 1, high: 9}}\ntrials: 5\n")
    spec = search_of(path, trials=7, hours=None)
    assert (spec.name, spec.trials) == ("mine", 7)
    assert spec.address() == search_of(path, hours=3.0).address()
    assert spec.address() != spec.model_copy(update={"seed": 1}).address()
    assert spec == SearchSpec.model_validate(spec.model_dump(mode="json"))
    with pytest.raises(ValidationError):
        SearchSpec(trials=0)
    with pytest.raises(SpecError, match="There is no search at"):
        study_of(Store.open(str(tmp_path / "store")), "searches/tiny/none--000000000000")
