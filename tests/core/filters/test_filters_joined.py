"""Scores and features from outside, in any order, number and form of files: against a join in plain Python."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import feature_world as features
import filter_world as world
import numpy as np
import polars as pl
import pytest

from datacomp_core import joining, shards
from datacomp_core.errors import DataError, SpecError
from datacomp_core.filters import AllOf, TopCount, Words
from datacomp_core.pool_source import PoolSource
from datacomp_core.scores import score_of
from datacomp_core.scores.compute import compute
from datacomp_core.selection.aligned import aligned
from datacomp_core.selection.select import scores_of
from datacomp_core.store import Folder

TABLE = world.rows(7, 240)
CHANCE = random.Random(11)
SCORES = {row["uid"]: float(np.float32(CHANCE.gauss(0, 1))) for row in TABLE[:200]}
UNKNOWN = [f"{CHANCE.getrandbits(128):032x}" for _ in range(9)]


def shuffled() -> list[tuple[str, float]]:
    pairs = [*SCORES.items(), *((uid, 100.0) for uid in UNKNOWN)]
    CHANCE.shuffle(pairs)
    return pairs


def three_files(folder: Path, form: str) -> None:
    folder.mkdir()
    pairs = shuffled()
    for number in range(3):
        some = pairs[number::3]
        frame = pl.DataFrame({"other": range(len(some)), "score": [s for _, s in some], "uid": [u for u, _ in some]})
        path = folder / f"worker-{2 - number}.{form}"
        if form == "parquet":
            frame.write_parquet(path)
        elif form == "csv":
            frame.write_csv(path)
        elif form == "jsonl":
            frame.write_ndjson(path)
        else:
            np.savez(path, uid=np.array(frame["uid"].to_list()), score=frame["score"].to_numpy())


def values(text: str, folder: Folder, out: Path, **source: Any) -> tuple[list[float | None], dict[str, int]]:
    score = score_of(text)
    assert score is not None
    made = compute(score, PoolSource(folder, **source), Folder(out))
    tables = [pl.read_parquet(made.at(name)) for name in made.files(".parquet")]
    return pl.concat(tables)[score.column_name].to_list(), Folder(out).read_json("join.json")


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl", "npz"])
def test_a_shuffled_table_of_three_files_is_joined_by_uid(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "ROWS_A_BUCKET", 50)
    three_files(tmp_path / "t", form)
    folder = world.write(tmp_path / "m", TABLE)
    found, counts = values(f"column_of:file={tmp_path / 't'}", folder, tmp_path / "out")
    assert found == [SCORES.get(row["uid"]) for row in TABLE]
    assert counts == {"matched": 200, "missing": 40, "repeated": 0, "disagreeing": 0, "unknown": 9}
    tree = AllOf(filters=(Words(at_least=2), TopCount(score={"kind": "column_of", "file": str(tmp_path / "t")}, count=20)))  # pyright: ignore[reportArgumentType]
    [made] = scores_of(tree)
    beside = compute(made, PoolSource(folder), Folder(tmp_path / "kept"))
    kept, _ = world.kept(tree, folder, tmp_path / "subset", [beside])
    long = [row["uid"] for row in TABLE if row["text"] is not None and len(row["text"].split()) >= 2]
    assert sorted(kept) == sorted(sorted((u for u in long if u in SCORES), key=lambda u: -SCORES[u])[:20])


@pytest.mark.parametrize("form", ["parquet", "csv", "npz"])
def test_a_table_of_a_much_larger_pool_is_joined_in_small_buckets(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory holds one bucket, so their number follows the larger side."""
    monkeypatch.setattr(joining, "ROWS_A_BUCKET", 1_000)
    buckets: list[int] = []
    one = joining.Join._one

    def counted(join: joining.Join, number: int) -> joining.JoinCounts:
        buckets.append(len(join.table.read(number)))
        return one(join, number)

    monkeypatch.setattr(joining.Join, "_one", counted)
    chance = np.random.default_rng(2)
    unknown = [row.tobytes().hex() for row in chance.integers(0, 256, (20_000, 16), np.uint8)]
    pairs = [*SCORES.items(), *((uid, 1.0) for uid in unknown)]
    CHANCE.shuffle(pairs)
    frame = pl.DataFrame({"uid": [name for name, _ in pairs], "score": [value for _, value in pairs]})
    path = tmp_path / f"all.{form}"
    if form == "npz":
        np.savez(path, uid=frame["uid"].to_numpy().astype("S32"), score=frame["score"].to_numpy())
    else:
        frame.write_parquet(path) if form == "parquet" else frame.write_csv(path)
    found, counts = values(f"column_of:file={path}", world.write(tmp_path / "m", TABLE), tmp_path / "out")
    assert dict(zip([row["uid"] for row in TABLE], found, strict=True)) == {row["uid"]: SCORES.get(row["uid"]) for row in TABLE}
    assert counts["unknown"] == 20_000
    assert sum(buckets) == 20_200
    assert max(buckets) <= 1_000


def test_a_pair_of_npy_files(tmp_path: Path) -> None:
    pairs = shuffled()
    (tmp_path / "t").mkdir()
    np.save(tmp_path / "t" / "uids.npy", np.array([(int(u[:16], 16), int(u[16:], 16)) for u, _ in pairs], "u8,u8"))
    np.save(tmp_path / "t" / "clip.npy", np.array([s for _, s in pairs], np.float32))
    found, counts = values(f"column_of:file={tmp_path / 't' / 'clip.npy'}", world.write(tmp_path / "m", TABLE), tmp_path / "out")
    assert found == [SCORES.get(row["uid"]) for row in TABLE]
    assert counts["unknown"] == 9


def test_captions_beside_the_scores_need_not_be_utf8(tmp_path: Path) -> None:
    rows = [b"%s,1.5,caf\xe9" % TABLE[0]["uid"].encode(), b"%s,,ok" % TABLE[1]["uid"].encode()]
    (tmp_path / "t.csv").write_bytes(b"uid,score,text\n" + b"\n".join(rows) + b"\n")
    found, _ = values(f"column_of:file={tmp_path / 't.csv'}", world.write(tmp_path / "m", TABLE), tmp_path / "out")
    assert found[:3] == [1.5, None, None]


def test_by_url(tmp_path: Path) -> None:
    folder = world.write(tmp_path / "m", TABLE)
    urls = {row["uid"]: f"http://host/{number}.jpg" for number, row in enumerate(TABLE)}
    for file in (tmp_path / "m").iterdir():
        frame = pl.read_parquet(file)
        frame.with_columns(url=pl.Series([urls[one] for one in frame["uid"]])).write_parquet(file)
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps({"url": urls[one], "score": score}) for one, score in SCORES.items()))
    found, _ = values(f"column_of:file={tmp_path / 't.jsonl'},key=url", folder, tmp_path / "out")
    assert found == [SCORES.get(row["uid"]) for row in TABLE]


@pytest.mark.parametrize("name", ["t.tsv", "t.ndjson", "t.parquet"])
def test_other_names_of_tables_and_of_their_uids(name: str, tmp_path: Path) -> None:
    frame = pl.DataFrame(shuffled(), schema=["UID", "score"], orient="row")
    write = {
        "t.tsv": lambda to: frame.write_csv(to, separator="\t"),
        "t.ndjson": frame.write_ndjson,
        "t.parquet": frame.write_parquet,
    }
    write[name](tmp_path / name)
    found, _ = values(f"column_of:file={tmp_path / name}", world.write(tmp_path / "m", TABLE), tmp_path / "out")
    assert found == [SCORES.get(row["uid"]) for row in TABLE]


def test_the_uids_of_its_name_belong_to_an_array(tmp_path: Path) -> None:
    """Two pairs in one folder, one of which has the general name."""
    pairs = shuffled()
    for name, some in (("scores", pairs[::-1]), ("clip", pairs)):
        np.save(tmp_path / f"{name}.npy", np.array([s for _, s in some]))
        np.save(tmp_path / ("uids.npy" if name == "scores" else f"{name}_uids.npy"), np.array([u for u, _ in some]))
    folder = world.write(tmp_path / "m", TABLE)
    for name in ("scores", "clip"):
        found, _ = values(f"column_of:file={tmp_path / name}.npy", folder, tmp_path / f"out-{name}")
        assert found == [SCORES.get(row["uid"]) for row in TABLE]


def test_a_mean_leaves_out_what_is_missing(tmp_path: Path) -> None:
    uids = [row["uid"] for row in TABLE[:3]]
    table = {"uid": [uids[0], uids[1], uids[0], uids[2], uids[0]], "score": [1.0, None, None, 7.0, 4.0]}
    pl.DataFrame(table).write_parquet(tmp_path / "t.parquet")
    text = f"column_of:file={tmp_path / 't.parquet'},repeated=mean"
    found, _ = values(text, world.write(tmp_path / "m", TABLE), tmp_path / "out")
    assert found[:4] == [2.5, None, 7.0, None]


def test_keys_that_repeat(tmp_path: Path) -> None:
    first = TABLE[0]["uid"]
    folder = world.write(tmp_path / "m", TABLE)
    table = {"uid": [first, TABLE[1]["uid"], first, TABLE[1]["uid"]], "score": [1.0, 5.0, 2.0, 5.0]}
    pl.DataFrame(table).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=f"t.parquet repeats keys .*number of such keys: 1; one is {first}.*`repeated: first`"):
        values(f"column_of:file={tmp_path / 't.parquet'}", folder, tmp_path / "a")
    assert values(f"column_of:file={tmp_path / 't.parquet'},repeated=first", folder, tmp_path / "b")[0][:3] == [1.0, 5.0, None]
    found, counts = values(f"column_of:file={tmp_path / 't.parquet'},repeated=mean", folder, tmp_path / "c")
    assert found[:3] == [1.5, 5.0, None]
    assert (counts["repeated"], counts["disagreeing"]) == (2, 1)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("t.csv", "uid,score\n" + TABLE[0]["uid"] + ",high\n", "row 1: 'high' in the column 'score' is not a number"),
        ("t.csv", "uid,score\nxyz,1\n", "row 1: 'xyz' is not a uid"),
        ("t.csv", "id,score\n1,1\n", "no column 'uid' to join by; it has id, score"),
        ("t.csv", "uid,clip\n" + TABLE[0]["uid"] + ",1\n", "Unknown column of .* 'score'"),
        ("t.jsonl", "{", "cannot be read as a table"),
        ("t.jsonl", '{"uid": 12, "score": 1}', "the column 'uid' is Int64"),
        ("t.csv", "uid,score,score\n", "two columns named 'score'"),
        ("t.jsonl", '{"key": 12, "score": 1}', "no column 'uid' to join by; it has key, score"),
        (
            "t.csv",
            f'uid,text,score\n{TABLE[0]["uid"]},"6 in,1\n{TABLE[1]["uid"]},a,2\n{TABLE[2]["uid"]},b",3\n',
            "takes in the row",
        ),
        ("t.npz", "PK", "is not an npz file"),
    ],
)
def test_what_is_no_table_is_one_sentence(name: str, text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises((DataError, SpecError), match=told):
        values(f"column_of:file={tmp_path / name}", world.write(tmp_path / "m", TABLE), tmp_path / "out")


@pytest.mark.parametrize("rows", [[], [(one, 1.0) for one in UNKNOWN]], ids=["no rows", "other rows"])
def test_a_table_of_which_nothing_is_the_pools_is_refused(rows: list[tuple[str, float]], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("uid,score\n" + "".join(f"{one},{score}\n" for one, score in rows))
    told = f"No row of t.csv is of this pool .joined by uid; unknown keys: {len(rows)}, rows of the pool without a value: 240"
    with pytest.raises(DataError, match=told):
        values(f"column_of:file={tmp_path / 't.csv'}", world.write(tmp_path / "m", TABLE), tmp_path / "out")


@pytest.mark.parametrize(
    ("score", "told"),
    [
        (np.ones((2, 2)), "has shape"),
        (np.array(1.0), "has shape"),
        (np.ones(2, complex), "dtype complex"),
        (np.array(["1", "2"]), "dtype <U1"),
        (np.ones(3), "has shape"),
    ],
)
def test_an_npz_has_a_number_for_each_uid(score: Any, told: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", uid=np.array([TABLE[0]["uid"], TABLE[1]["uid"]]), score=score)
    with pytest.raises(DataError, match=told):
        values(f"column_of:file={tmp_path / 't.npz'}", world.write(tmp_path / "m", TABLE), tmp_path / "out")


def test_scores_beside_plain_metadata_are_joined_by_uid_and_never_taken_by_position(tmp_path: Path) -> None:
    folder = world.write(tmp_path / "m", TABLE)
    three_files(tmp_path / "s", "parquet")
    made, [(_, counts)] = aligned(PoolSource(folder, (Folder(tmp_path / "s"),)), tmp_path / "local")
    found = pl.concat([made.read(part, ["score"]) for part in made.parts()])["score"].to_list()
    assert found == [SCORES.get(row["uid"]) for row in TABLE]
    assert (counts.matched, counts.missing, counts.unknown) == (200, 40, 9)
    assert aligned(made, tmp_path / "again")[0] == made
    with pytest.raises(DataError, match="not in the order of the metadata"):
        world.kept(TopCount(score="score", count=3), folder, tmp_path / "out", [Folder(tmp_path / "s")])


def test_reasons_call_a_table_by_its_name(tmp_path: Path) -> None:
    folder = world.write(tmp_path / "m", TABLE)
    three_files(tmp_path / "t", "parquet")
    ranked = TopCount(score=f"column_of:file={tmp_path / 't'}", count=3)
    score = score_of(ranked.score)
    assert score is not None
    made = compute(score, PoolSource(folder), Folder(tmp_path / "out"))
    _, done = world.kept(ranked, folder, tmp_path / "subset", [made])
    assert any(reason.startswith("no ") for reason in done.explanation.dropped)
    assert not any(str(tmp_path) in reason for reason in done.explanation.dropped)


@pytest.mark.parametrize("name", ["more.csv", "more.jsonl", "_more.parquet"])
def test_scores_beside_plain_metadata_that_would_be_left_out_are_refused(name: str, tmp_path: Path) -> None:
    """The subset would lack their rows."""
    folder = world.write(tmp_path / "m", TABLE)
    three_files(tmp_path / "s", "parquet")
    (tmp_path / "s" / name).write_text("uid,score")
    with pytest.raises(DataError, match=rf"--scores does not read.*{name}.*column_of"):
        aligned(PoolSource(folder, (Folder(tmp_path / "s"),)), tmp_path / "local")


UIDS_AS: dict[str, Any] = {
    "upper case": lambda uids: {"uid": [one.upper() for one in uids]},
    "16 bytes": lambda uids: {"uid": [bytes.fromhex(one) for one in uids]},
    "UID": lambda uids: {"UID": uids},
    "two halves": lambda uids: {
        half: pl.Series([int(one[begin : begin + 16], 16) for one in uids], dtype=pl.UInt64)
        for half, begin in (("f0", 0), ("f1", 16))
    },
}


@pytest.mark.parametrize("form", UIDS_AS)
@pytest.mark.parametrize("order", ["shuffled", "as the rows"])
def test_scores_beside_plain_metadata_have_uids_of_any_form(form: str, order: str, tmp_path: Path) -> None:
    folder = world.write(tmp_path / "m", TABLE)
    uids = [row["uid"] for row in TABLE]
    if order == "shuffled":
        CHANCE.shuffle(uids)
    (tmp_path / "s").mkdir()
    for number, name in enumerate(folder.files(".parquet")):
        some = uids[60 * number : 60 * number + 60]
        made = pl.DataFrame({**UIDS_AS[form](some), "score": [SCORES.get(one) for one in some]})
        made.write_parquet(tmp_path / "s" / name)
    source, joins = aligned(PoolSource(folder, (Folder(tmp_path / "s"),)), tmp_path / "local")
    found = pl.concat([source.read(part, ["score"]) for part in source.parts()])["score"].to_list()
    assert found == [SCORES.get(row["uid"]) for row in TABLE]
    assert [counts.matched for _, counts in joins] == ([240] if order == "shuffled" else [])


def test_rows_without_uids_are_taken_by_position_only_if_it_is_asked_for(tmp_path: Path) -> None:
    folder = world.write(tmp_path / "m", TABLE)
    (tmp_path / "s").mkdir()
    for part in range(4):
        pl.DataFrame({"score": np.arange(60.0) + 60 * part}).write_parquet(tmp_path / "s" / f"{part:08d}.parquet")
    source = PoolSource(folder, (Folder(tmp_path / "s"),))
    with pytest.raises(SpecError, match="no column `uid` to join by: give --by-position"):
        aligned(source, tmp_path / "local")
    assert aligned(source, tmp_path / "local", by_position=True)[0] == source


def test_features_beside_other_metadata_are_joined_by_uid(tmp_path: Path) -> None:
    _, images, _ = features.embedded(tmp_path / "theirs", TABLE)
    known = {row["uid"]: vector for row, vector in zip(TABLE, images, strict=True)}
    mixed = list(TABLE)
    CHANCE.shuffle(mixed)
    ours = [*mixed[:100], *world.rows(99, 5)]
    source = PoolSource(world.write(tmp_path / "m", ours), (), (Folder(tmp_path / "theirs"),))
    made, [(_, counts)] = aligned(source, tmp_path / "local")
    found = np.concatenate([made.whole(part, "l14_img") for part in made.parts()])
    for row, vector in zip(ours, found, strict=True):
        np.testing.assert_array_equal(vector, known.get(row["uid"], np.full(images.shape[1], np.nan)))
    assert (counts.matched, counts.missing) == (100, 5)


@pytest.mark.parametrize("differ", [False, True])
def test_features_of_a_uid_that_repeats_are_used_only_if_they_agree(differ: bool, tmp_path: Path) -> None:
    folder = world.write(tmp_path / "m", TABLE)
    (tmp_path / "f").mkdir()
    uids, vectors = [row["uid"] for row in TABLE], np.arange(2.0 * len(TABLE), dtype=np.float32).reshape(-1, 2)
    again = vectors[:7] + np.float32(differ)
    np.savez(tmp_path / "f" / "t.npz", uid=np.array([*uids, *uids[:7]]), l14_img=np.concatenate([vectors, again]))
    source = PoolSource(folder, (), (Folder(tmp_path / "f"),))
    if differ:
        with pytest.raises(DataError, match=r"number of such keys: 7; .*remove one of each"):
            aligned(source, tmp_path / "local")
        return
    made, [(_, counts)] = aligned(source, tmp_path / "local")
    assert (counts.matched, counts.repeated, counts.disagreeing) == (len(TABLE), 7, 0)
    np.testing.assert_array_equal(np.concatenate([made.whole(part, "l14_img") for part in made.parts()]), vectors)


def test_by_key_of_img2dataset_through_the_index_of_the_shards(tmp_path: Path) -> None:
    """A table that knows img2dataset's keys alone, in another order, with keys that no shard has."""
    folder = world.write(tmp_path / "m", TABLE)
    arrived = [row["uid"] for row in TABLE[:150]]
    keys = {uid: f"{number // 50:05d}{number % 50:04d}" for number, uid in enumerate(reversed(arrived))}
    for number in range(3):
        some = [(uid, key) for uid, key in keys.items() if key.startswith(f"{number:05d}")]
        data = io.BytesIO()
        writer = shards.ShardWriter(data, f"{number:08d}")
        for uid, key in some:
            writer.add(uid, key, {"txt": b"a caption"})
        index = writer.finish()
        Folder(tmp_path / "shards").write(f"{number:08d}.tar", data.getvalue())
        shards.write_index(Folder(tmp_path / "shards"), f"{number:08d}", index)
    scored = {keys[uid]: score for uid, score in SCORES.items() if uid in keys}
    pairs = [*scored.items(), ("999990000", 3.0), ("999990001", 4.0), ("999990001", 4.0)]
    CHANCE.shuffle(pairs)
    later = [(key, score + 1) for key, score in pairs[:40]]
    table = pl.DataFrame(pairs + later, schema=["key", "score"], orient="row")
    table.write_parquet(tmp_path / "t.parquet")
    text = f"column_of:file={tmp_path / 't.parquet'},key=key,repeated=first"
    found, counts = values(text, folder, tmp_path / "out", shards=Folder(tmp_path / "shards"))
    assert found == [SCORES.get(row["uid"]) if row["uid"] in keys else None for row in TABLE]
    assert (counts["matched"], counts["missing"], counts["unknown"]) == (len(scored), len(TABLE) - len(scored), 2)
    table.with_columns(key=pl.col("key").cast(pl.Int64)).write_parquet(tmp_path / "n.parquet")
    with pytest.raises(DataError, match="lost the leading zeros of a key"):
        values(f"column_of:file={tmp_path / 'n.parquet'},key=key", folder, tmp_path / "n", shards=Folder(tmp_path / "shards"))
    with pytest.raises(DataError, match="needs the index of the shards"):
        values(text, folder, tmp_path / "without")


def _moved(tmp_path: Path) -> tuple[list[world.Row], dict[str, Any], Path]:
    """Metadata in another order, with five rows more, beside features that were made of the first; and what each uid has."""
    _, images, _ = features.embedded(tmp_path / "theirs", TABLE)
    known = {row["uid"]: vector for row, vector in zip(TABLE, images, strict=True)}
    mixed = list(TABLE)
    CHANCE.shuffle(mixed)
    ours = [*mixed[:100], *world.rows(99, 5)]
    world.write(tmp_path / "m", ours, 3)
    return ours, known, tmp_path / "theirs"


def _same(source: PoolSource, ours: list[world.Row], known: dict[str, Any]) -> None:
    found = np.concatenate([source.whole(part, "l14_img") for part in source.parts()])
    for row, vector in zip(ours, found, strict=True):
        np.testing.assert_array_equal(vector, known.get(row["uid"], np.full(features.DIMENSIONS, np.nan)))


def test_features_that_embed_wrote_are_joined_by_the_uids_of_its_scores(tmp_path: Path) -> None:
    ours, known, theirs = _moved(tmp_path)
    for name in ("features", "scores"):
        (tmp_path / "out" / name).mkdir(parents=True)
    for file in theirs.iterdir():
        shutil.move(file, tmp_path / "out" / ("features" if file.suffix == ".npz" else "scores") / file.name)
    source = PoolSource(Folder(tmp_path / "m"), (), (Folder(tmp_path / "out" / "features"),))
    made, [(_, counts)] = aligned(source, tmp_path / "local")
    _same(made, ours, known)
    assert (counts.matched, counts.missing) == (100, 5)


@pytest.mark.parametrize("form", ["hex", "pairs", "two columns"])
@pytest.mark.parametrize("names", ["the parts'", "others"])
def test_features_with_uids_inside_are_joined_over_all_files(form: str, names: str, tmp_path: Path) -> None:
    """Every file has rows of every part."""
    ours, known, theirs = _moved(tmp_path)
    uids, vectors = list(known), np.array(list(known.values()))
    halves = [(int(one[:16], 16), int(one[16:], 16)) for one in uids]
    arrays = {"hex": np.array(uids), "pairs": np.array(halves, "u8,u8"), "two columns": np.array(halves, np.uint64)}
    shutil.rmtree(theirs)
    theirs.mkdir()
    order = CHANCE.sample(range(len(uids)), len(uids))
    for number in range(3):
        name = f"{number:08d}" if names == "the parts'" else f"worker{number}"
        rows = order[number::3]
        np.savez(theirs / f"{name}.npz", uid=arrays[form][rows], l14_img=vectors[rows], notes=np.zeros((len(rows), 2), int))
    source = PoolSource(Folder(tmp_path / "m"), (), (Folder(theirs),))
    made, [(_, counts)] = aligned(source, tmp_path / "local")
    _same(made, ours, known)
    assert (counts.matched, counts.missing) == (100, 5)


def test_features_without_any_uid_are_taken_by_position_only_if_it_is_asked_for(tmp_path: Path) -> None:
    _, _, theirs = _moved(tmp_path)
    for file in theirs.glob("*.parquet"):
        file.unlink()
    source = PoolSource(Folder(tmp_path / "m"), (), (Folder(theirs),))
    with pytest.raises(SpecError, match="has no uids .* give --by-position"):
        aligned(source, tmp_path / "local")
    assert aligned(source, tmp_path / "local", by_position=True)[0] == source
