"""Entries, provenance and the board, from artifacts of a real store."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import board_world as world
import pytest

from datacomp_core.artifacts import BoardEntry
from datacomp_core.errors import SpecError
from datacomp_core.leaderboard.board.board import board, make_board, scales, setting_of
from datacomp_core.leaderboard.board.published_results import references
from datacomp_core.leaderboard.entries import entry as entries
from datacomp_core.leaderboard.entries.provenance import find, walk
from datacomp_core.scales import scale
from datacomp_core.store import Folder, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"))


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.open(str(tmp_path_factory.mktemp("swept")))
    world.sweep(store)
    return store


def test_an_entry_says_what_its_records_say(store: Store) -> None:
    made = world.run(store, "clip_score", world.results(0.14, 1), seed=1, pool_seed=2, device="cuda:0")
    entry = entries.read(store, made)
    assert (entry.scale, entry.method, entry.recipe, entry.track) == ("tiny", "clip_score", "clip_score", "filtering")
    assert entry.seeds == {"training": 1, "pool": 2}
    kept = sum(world.is_kept("clip_score", i) for i in range(world.NUM))
    assert (entry.size.total, entry.size.unique, entry.size.pool, entry.size.trained_on) == (kept, kept, world.NUM, kept - 1)
    assert entry.realised_pool is not None
    arrived = [world.row_uid(number) for number in range(world.NUM - 4)]
    digest = sum(int(hashlib.sha256(uid.encode()).hexdigest(), 16) for uid in arrived) % 2**256
    assert entry.realised_pool.content == f"{digest:064x}"
    assert [task.key for task in entry.tasks] == [f"tiny/{name}" for name in world.TASKS]
    assert entry.average == pytest.approx(sum(t.value or 0 for t in entry.tasks) / 7)
    records = [store.record(link.address) for link in entry.chain]
    assert entry.cost.seconds == pytest.approx(sum(r.seconds for r in records if r), abs=1e-6)
    assert entry.cost.num_bytes == sum(r.outputs.num_bytes for r in records if r)
    trained = next(r for r in records if r and r.kind == "checkpoints")
    assert entry.cost.gpu_hours == pytest.approx(trained.seconds / 3600, abs=1e-4)
    assert {link.address: link.fingerprint for link in entry.chain} == {r.address: r.fingerprint for r in records if r}


def test_an_entry_made_again_has_the_same_bytes(store: Store) -> None:
    first = world.run(store, "random", world.results(0.05, 0))
    data = store.folder(first).read(entries.ENTRY)
    store.home(first.address).remove()
    again = world.run(store, "random", world.results(0.05, 0))
    assert store.folder(again).read(entries.ENTRY) == data
    assert json.loads(data)["format"] == 2


def test_the_walk_goes_from_the_score_to_the_pool(store: Store) -> None:
    made = world.run(store, "clip_score", world.results(0.14, 0))
    links = walk(store, made.fingerprint[:10])
    kinds = [link.kind for link in links]
    assert kinds[0] == "entries"
    assert kinds[-1] == "pools" or "pools" in kinds[-2:]
    place = {link.address: i for i, link in enumerate(links)}
    assert len(place) == len(links)
    for link in links:
        for given in link.inputs.values():
            assert all(place[address] > place[link.address] for address in given)
    assert {"reports", "checkpoints", "shards", "subsets", "embeddings", "pools", "evalsets"} < set(kinds)
    assert find(store, made.address).address == find(store, made.address.rpartition("--")[2]).address == made.address


def test_a_lost_or_rebuilt_record_is_said_to_be(store: Store) -> None:
    made = world.run(store, "clip_score", world.results(0.14, 0))
    pool = next(link for link in walk(store, made.address) if link.kind == "pools")
    store.home(pool.address).remove()
    states = {link.kind: link.state for link in walk(store, made.address)}
    assert states["pools"] == "missing"
    assert states["subsets"] == "built"


@pytest.mark.parametrize("text", ["zz", "abc", "entries/tiny/none--000000000000", "0000000000000"])
def test_what_cannot_be_found_is_one_sentence(store: Store, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        find(store, text)


def test_seeds_make_one_row(swept: Store) -> None:
    made = board(swept, "tiny")
    assert {row.method: row.num_seeds for row in made.rows} == dict.fromkeys(world.CENTERS, 3)
    row = next(row for row in made.rows if row.method == "clip_score")
    values = [sum(v for v in scores.values() if v is not None) / 7 for scores in (world.results(0.14, seed) for seed in range(3))]
    assert row.average is not None
    assert row.average.values == pytest.approx(values)
    assert row.average.mean == pytest.approx(sum(values) / 3)
    assert scales(swept) == ["tiny"]


def test_ties_share_a_rank_and_verdicts_are_plain(swept: Store) -> None:
    rows = {row.method: row for row in board(swept, "tiny").rows}
    assert rows["clip_score"].rank == rows["intersect"].rank == 1
    assert rows["clip_score"].tied
    assert rows["intersect"].tied
    assert [rows[m].baseline.outcome for m in ("clip_score", "intersect")] == ["better", "better"]  # type: ignore[union-attr]
    assert rows["no_filter"].baseline is None
    assert rows["random"].baseline is not None
    assert rows["random"].baseline.outcome == "tied"
    assert rows["random"].control is None
    assert rows["clip_score"].control is not None
    assert rows["clip_score"].control.against == "random"
    assert rows["no_filter"].rank == rows["random"].rank == 3


def test_other_settings_make_another_row(store: Store) -> None:
    world.run(store, "no_filter", world.results(0.05, 0))
    changed = scale("tiny").model_copy(update={"learning_rate": 0.5})
    world.run(store, "no_filter", world.results(0.05, 0), scale_row=changed)
    made = board(store, "tiny")
    assert len(made.rows) == 2
    assert sorted(row.place for row in made.rows) == ["", "1"]
    assert sorted(row.method for row in made.rows) == ["no_filter (learning_rate 0.002)", "no_filter (learning_rate 0.5)"]
    assert [row.baseline for row in made.rows] == [None, None], "each is the baseline of its own setting"
    breaches = [row.breaches for row in made.rows if row.breaches]
    assert len(breaches) == 1
    assert "learning_rate 0.5 instead of 0.002" in breaches[0][0]


def test_an_incomplete_or_older_evaluation_is_shown_but_not_ranked(store: Store) -> None:
    world.run(store, "no_filter", world.results(0.05, 0))
    world.run(store, "clip_score", {**world.results(0.14, 0), "flags": None})
    world.run(store, "random", world.results(0.05, 0), version=2)
    made = board(store, "tiny")
    assert made.suite == "tiny v2"
    assert {row.method: row.rank for row in made.rows} == {"random": 1, "no_filter": None, "clip_score": None}
    incomplete = next(row for row in made.rows if row.method == "clip_score")
    assert incomplete.average is None
    assert any(breach.startswith("evaluation complete") for breach in incomplete.breaches)


@pytest.mark.s3
def test_a_bucket_has_the_same_board(s3_url: str) -> None:
    store = Store.open(s3_url)
    made = world.run(store, "no_filter", world.results(0.05, 0))
    assert [row.method for row in board(store, "tiny").rows] == ["no_filter"]
    assert walk(store, made.fingerprint[:8])[0].address == made.address


def test_reference_rows_are_those_of_the_paper(store: Store) -> None:
    assert [len(references(name)) for name in ("tiny", "small", "medium", "large", "xlarge")] == [0, 8, 8, 8, 4]
    made = board(store, "xlarge")
    assert next(row.method for row in made.rows) == "Image-based ∩ CLIP score"
    assert {row.kind for row in made.rows} == {"reference"}
    assert made.rows[0].scores["group:ImageNet"].mean == 0.792
    assert all(row.rank is None for row in made.rows)


def test_a_published_row_of_another_recipe_is_marked_and_leads_nothing(store: Store) -> None:
    """DFN-2B has a higher average than every filter of the paper; another trainer made it, so that it is not comparable."""
    made = board(store, "xlarge")
    dfn = next(row for row in made.rows if row.method.startswith("DFN-2B"))
    comparable = [row for row in made.rows if row.our_recipe]
    assert not dfn.our_recipe
    assert dfn.rank is None
    assert dfn.average is not None
    assert dfn.average.mean > max(row.average.mean for row in comparable if row.average)
    assert made.rows[-1] is dfn, "behind all that follow the benchmark's recipe"
    assert "Not our recipe" in dfn.note
    assert len({row.key for row in made.rows}) == len(made.rows)


def test_published_rows_stand_in_their_track_with_what_their_source_says(store: Store) -> None:
    rows = {row.method: row for row in board(store, "small").rows}
    assert rows["CC12M"].track == "byod"
    assert rows["CC12M"].size is None
    assert rows["T-MARS"].average is None
    assert rows["T-MARS"].scores["group:Retrieval"].mean == 0.118
    assert rows["CLIP B/32 score (30 %)"].inputs == "released"
    assert rows["CLIP B/32 score (30 %)"].note == "DataComp paper, Table 25."


def test_several_names_of_one_filter_are_one_row_that_has_them_all(store: Store) -> None:
    """The name of a recipe is no part of what a run is: it stands in the entry."""
    for seed, name in enumerate(("clip_score", "clip_score_l14", "clip_score:score=l14,fraction=0.3")):
        world.run(store, "clip_score", world.results(0.14, seed), seed=seed, method=name)
    world.run(store, "no_filter", world.results(0.05, 0))
    rows = {len(row.names): row for row in board(store, "tiny").rows}
    assert sorted(rows) == [1, 3]
    assert sorted(rows[3].names) == ["clip_score", "clip_score:score=l14,fraction=0.3", "clip_score_l14"]
    assert rows[3].num_seeds == 3
    assert all(name in rows[3].method for name in rows[3].names)


def test_the_board_is_plain_json(swept: Store) -> None:
    data = json.loads(board(swept, "tiny").to_json())
    assert next(column["key"] for column in data["columns"]) == "average"
    assert len(data["rows"]) == 4


def test_a_store_without_entries_has_an_empty_board(tmp_path: Path) -> None:
    store = Store(Folder(tmp_path / "none"))
    assert board(store, "tiny").rows == []
    assert scales(store) == []


def sent(store: Store, recipe: str, center: float, by: str, *, evaluated: bool = False) -> tuple[str, entries.Entry]:
    """An entry as a board has it that was sent to it."""
    entry = entries.read(store, world.run(store, recipe, world.results(center, 0)))
    submitted = entries.SubmissionInfo(id=f"{by}-{recipe}", by=by, evaluated_again=evaluated)
    return f"entries/tiny/{by}-{recipe}", entry.model_copy(update={"submitted": submitted})


def test_nobody_chooses_what_another_is_judged_by(tmp_path: Path) -> None:
    """A weak and a strong "unfiltered pool" of strangers: one's own comes first, then what the board evaluated itself."""
    stores = [Store.open(str(tmp_path / name)) for name in ("one", "weak", "strong")]
    alice = sent(stores[0], "clip_score", 0.14, "alice")
    own = sent(stores[0], "no_filter", 0.12, "alice")
    weak = sent(stores[1], "no_filter", 0.02, "mallory")
    strong = sent(stores[2], "no_filter", 0.3, "bob", evaluated=True)

    def against(*rows: tuple[str, entries.Entry]) -> str:
        [mine] = [row for row in make_board("tiny", [alice, *rows]).rows if row.recipe == "clip_score"]
        assert mine.baseline is not None
        assert "on the same realised pools (claimed: a bundle cannot prove what arrived)" in mine.baseline.basis
        return mine.baseline.against

    assert "alice" in against(weak, strong, own)
    assert "bob" in against(weak, strong)


def seeds_of(sample: entries.Entry, recipe: str, by: str, *averages: float) -> list[tuple[str, entries.Entry]]:
    """Rows as a board has them: an entry that was made, with these scores by seed (on every task alike)."""
    made = []
    for seed, average in enumerate(averages):
        tasks = [task.model_copy(update={"value": average}) for task in sample.tasks]
        told = {"tasks": tasks, "average": average, "groups": {}, "seeds": {"training": seed}, "recipe": recipe, "method": recipe}
        key = {"same_but_for_seeds": f"{by}-{recipe}", "submitted": entries.SubmissionInfo(id=f"{by}{recipe}{seed}", by=by)}
        made.append((f"entries/tiny/{by}-{recipe}-{seed}", sample.model_copy(update=told | key)))
    return made


def test_a_stranger_does_not_choose_the_noise_of_others(store: Store) -> None:
    """Rows whose seeds lie wildly apart, or not at all, move no verdict and no rank between rows of other senders."""
    sample, plain = [sent(store, recipe, 0.1, "x")[1] for recipe in ("clip_score", "no_filter")]
    honest = [
        *seeds_of(plain, "no_filter", "alice", 0.100, 0.102, 0.098),
        *seeds_of(sample, "good", "alice", 0.140),
        *seeds_of(sample, "close", "alice", 0.139),
        *seeds_of(sample, "single", "bob", 0.180),
        *seeds_of(plain, "no_filter", "bob", 0.150),
        *seeds_of(sample, "single", "carol", 0.160),
        *seeds_of(plain, "no_filter", "carol", 0.159),
    ]
    others = [*seeds_of(sample, "a", "dora", 0.07, 0.072, 0.068), *seeds_of(sample, "a", "emil", 0.06, 0.063, 0.057)]
    wild = [entry for n in range(9) for entry in seeds_of(sample, f"wild{n}", "mallory", 0.0, 0.05, 0.02, 0.09, 0.03, 0.07)]
    still = [entry for n in range(9) for entry in seeds_of(sample, f"still{n}", "mallory", 0.02, 0.02, 0.02, 0.02, 0.02)]
    few = seeds_of(sample, "few", "mallory", 0.061, 0.064)  # as honest as the others, but of two seeds: one degree of freedom

    def outcomes(*rows: tuple[str, entries.Entry]) -> dict[str, tuple[str, str]]:
        made = [row for row in make_board("tiny", [*honest, *rows]).runs() if row.by in ("alice", "bob", "carol")]
        return {f"{row.by} {row.recipe}": (row.place, row.baseline.outcome if row.baseline else "") for row in made}

    before = outcomes()
    assert {name: outcome for name, (_, outcome) in before.items() if outcome} == {
        "alice good": "better",
        "alice close": "better",
        "bob single": "better",
        "carol single": "better",  # by a hair: with one sender's noise known, nobody's is borrowed
    }
    for attack in (wild, still, few):
        assert outcomes(*attack) == before
    known = outcomes(*others)  # three senders have seeds: now one seed is not enough for carol's hair
    assert known["carol single"][1] == "tied"
    assert known["bob single"][1] == known["alice good"][1] == "better"
    for attack in (wild, still, few):
        assert outcomes(*others, *attack) == known


def test_a_later_baseline_of_a_stranger_changes_no_verdict(store: Store) -> None:
    mine = seeds_of(sent(store, "clip_score", 0.1, "x")[1], "good", "alice", 0.14)
    plain = sent(store, "no_filter", 0.1, "x")[1]

    def dated(found: list[tuple[str, entries.Entry]], date: str) -> list[tuple[str, entries.Entry]]:
        return [(address, entry.model_copy(update={"date": date})) for address, entry in found]

    first = dated(seeds_of(plain, "no_filter", "bob", 0.10), "2026-01-01T00:00:00Z")
    later = dated(seeds_of(plain, "no_filter", "mallory", 0.20), "2026-01-02T00:00:00Z")
    [row] = [row for row in make_board("tiny", [*later, *mine, *first]).runs() if row.by == "alice"]
    assert row.baseline is not None
    assert row.baseline.outcome == "better"
    assert "bob" in row.baseline.against


def test_realised_pools_that_differ_are_told_and_are_claims_of_senders(swept: Store, store: Store) -> None:
    found = [(address, read_entry(swept, address)) for address in swept.addresses("entries")]
    rows = {row.recipe: row for row in make_board("tiny", found).runs()}
    assert rows["clip_score"].baseline is not None
    assert "realised" not in rows["clip_score"].baseline.basis
    own = sent(store, "clip_score", 0.14, "alice")
    other = sent(store, "no_filter", 0.05, "alice")
    assert other[1].realised_pool is not None
    moved = other[1].model_copy(update={"realised_pool": other[1].realised_pool.model_copy(update={"content": "0" * 64})})
    [row] = [row for row in make_board("tiny", [own, (other[0], moved)]).rows if row.recipe == "clip_score"]
    assert row.baseline is not None
    assert "not on the same realised pools (claimed: a bundle cannot prove what arrived)" in row.baseline.basis


def read_entry(store: Store, address: str) -> entries.Entry:
    record = store.record(address)
    assert record is not None
    return entries.read(store, store.artifact(BoardEntry, record))


def test_an_unfiltered_pool_with_other_captions_is_not_what_a_filter_is_compared_with(store: Store) -> None:
    plain = entries.read(store, world.run(store, "no_filter", world.results(0.1, 0)))
    use = entries.CaptionUse(policies=["replace_blip"], shares={"blip": 1.0}, models=["small/blip"], sets=["captions/tiny/blip"])
    replaced = plain.model_copy(update={"captions": use})
    scored = plain.model_copy(update={"captions": use.model_copy(update={"sets": ["captions/tiny/blip-scored"]})})
    drawn = plain.model_copy(update={"captions": use.model_copy(update={"policies": ["draw_raw0.5_blip0.5"]})})
    assert setting_of(replaced) == setting_of(scored)
    assert len({setting_of(plain), setting_of(replaced), setting_of(drawn)}) == 3
