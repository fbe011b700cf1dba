"""Lists of uids in every form that participants write, against plain Python: what is kept, how often, what is said."""

from __future__ import annotations

import io
import random
from collections import Counter
from pathlib import Path
from typing import Any

import filter_world as world
import numpy as np
import polars as pl
import pytest

from datacomp_core import external_files, sorted_lookup, uid, uid_lists
from datacomp_core.artifacts import Pool, Spec, Subset
from datacomp_core.errors import DataError, SpecError
from datacomp_core.filters import AllOf, Listed, NotOf, SampleTo, TopFraction, Words
from datacomp_core.recipes.load import load_recipe
from datacomp_core.scores import score_of
from datacomp_core.scores.compute import score_pool
from datacomp_core.selection.select import SubsetSpec, select_subset
from datacomp_core.sorted_lookup import is_in_table, prefix_starts
from datacomp_core.store import Folder, Store, step
from datacomp_core.store.fingerprint import fingerprint, short_places


class SmallPool(Spec):
    scale: str = "small"


CHANCE = random.Random(3)
UIDS = [f"{CHANCE.getrandbits(128):032x}" for _ in range(50)] + ["0" * 31 + "a", "f" * 32]


def halves(uids: list[str]) -> list[tuple[int, int]]:
    return [(int(one[:16], 16), int(one[16:], 16)) for one in uids]


def _npy(array: Any) -> Any:
    return lambda path: np.save(path.with_suffix(".npy"), array)


def _parquet(column: Any) -> Any:
    return lambda path: pl.DataFrame({"uid": column}).write_parquet(path.with_suffix(".parquet"))


def _bytes() -> pl.Series:
    return pl.Series([bytes.fromhex(one) for one in UIDS], dtype=pl.Binary)


def _header_of(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00\x76\x00" + text.encode().ljust(117) + b"\n"


def _array_of(rows: int) -> str:
    return f"{{'descr': '<u8', 'fortran_order': False, 'shape': ({rows}, 2), }}"


def _twice(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return 2 * buffer.getvalue()


WINDOWS = "\r\n".join(["\ufeff" + UIDS[0], *UIDS[1:], ""])
CSV = "row,uid\n" + "".join(f"{number},{one}\n" for number, one in enumerate(UIDS))
FORMS: dict[str, Any] = {
    "pairs": _npy(np.array(halves(UIDS), dtype="u8,u8")),
    "pairs, big-endian": _npy(np.array(halves(UIDS), dtype=">u8,>u8")),
    "two columns": _npy(np.array(halves(UIDS), np.uint64)),
    "two columns, big-endian": _npy(np.array(halves(UIDS), ">u8")),
    "two columns, column by column": _npy(np.asfortranarray(np.array(halves(UIDS), np.uint64))),
    "S32": _npy(np.array(UIDS, "S32")),
    "U32": _npy(np.array(UIDS, "<U32")),
    "U32, big-endian": _npy(np.array(UIDS, ">U32")),
    "upper case": _npy(np.array([one.upper() for one in UIDS])),
    "0x and no leading zeros": _npy(np.array([hex(int(one, 16)) for one in UIDS])),
    "text": lambda path: path.with_suffix(".txt").write_text("\n".join(UIDS)),
    "text, as Windows writes it": lambda path: path.with_suffix(".txt").write_bytes(
        "\r\n".join(["\ufeff" + UIDS[0], *UIDS[1:], ""]).encode()
    ),
    "csv with a header": lambda path: path.with_suffix(".csv").write_text(
        "row,uid\n" + "".join(f"{n},{u}\n" for n, u in enumerate(UIDS))
    ),
    "csv whose captions span lines": lambda path: path.with_suffix(".csv").write_text(
        "text,uid\n" + "".join(f'"a ""dog"",\nand a cat",{u}\n' for u in UIDS)
    ),
    "tsv with quotes inside captions": lambda path: path.with_suffix(".tsv").write_text(
        "uid\ttext\n" + "".join(f'{u}\ta 5" nail\n' for u in UIDS)
    ),
    "csv, semicolons": lambda path: path.with_suffix(".csv").write_text("n;uid\n" + "".join(f"1;{u}\n" for u in UIDS)),
    "csv without a header, keys before the uids": lambda path: path.with_suffix(".csv").write_text(
        "".join(f"{n:09d},{u}\n" for n, u in enumerate(UIDS))
    ),
    "csv, each uid in quotes below a header without": lambda path: path.with_suffix(".csv").write_text(
        "uid\n" + "".join(f'"{u}"\n' for u in UIDS)
    ),
    "halves named low and high": _npy(np.array([(b, a) for a, b in halves(UIDS)], [("lo", "u8"), ("hi", "u8")])),
    "halves of the reference's names, the other way round": _npy(
        np.array([(b, a) for a, b in halves(UIDS)], [("f1", "u8"), ("f0", "u8")])
    ),
    "halves of any names": _npy(np.array(halves(UIDS), [("a", "u8"), ("b", "u8")])),
    "a column of text": _npy(np.array([[one] for one in UIDS], "U32")),
    "parquet, struct with the low half first": _parquet(
        pl.Series([{"f1": b, "f0": a} for a, b in halves(UIDS)], dtype=pl.Struct({"f1": pl.UInt64, "f0": pl.UInt64}))
    ),
    "parquet, two columns of any names": lambda path: pl.DataFrame(
        dict(zip(("a", "b"), zip(*halves(UIDS), strict=True), strict=True)), schema={"a": pl.UInt64, "b": pl.UInt64}
    ).write_parquet(path.with_suffix(".parquet")),
    "parquet, UID beside other columns": lambda path: pl.DataFrame({"UID": UIDS, "score": 1.0}).write_parquet(
        path.with_suffix(".parquet")
    ),
    "parquet, text": _parquet(UIDS),
    "parquet, 16 bytes": _parquet(_bytes()),
    "parquet, struct": _parquet(
        pl.Series([{"a": a, "b": b} for a, b in halves(UIDS)], dtype=pl.Struct({"a": pl.UInt64, "b": pl.UInt64}))
    ),
    "parquet, two columns": lambda path: pl.DataFrame(
        dict(zip(("f0", "f1"), zip(*halves(UIDS), strict=True), strict=True)), schema={"f0": pl.UInt64, "f1": pl.UInt64}
    ).write_parquet(path.with_suffix(".parquet")),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form: str, tmp_path: Path) -> None:
    FORMS[form](tmp_path / "list")
    [file] = tmp_path.iterdir()
    found = np.concatenate(list(uid_lists.read([file])))
    assert found.dtype == uid.DTYPE
    assert [(int(a), int(b)) for a, b in found.tolist()] == halves(UIDS)


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        ("bad.txt", lambda p: p.write_text("\n".join([*UIDS[:5], "xyz", *UIDS[5:]])), r"row 6: 'xyz' is not a uid"),
        ("long.txt", lambda p: p.write_text(UIDS[0] + "0\n"), "row 1: .* is not a uid"),
        ("blank.txt", lambda p: p.write_text(UIDS[0] + "\n\n" + "zz\n"), "row 3: 'zz'"),
        ("object.npy", lambda p: np.save(p, np.array(UIDS, object), allow_pickle=True), "Python objects"),
        ("floats.npy", lambda p: np.save(p, np.zeros((3, 2))), "a list of uids is u8,u8"),
        ("flat.npy", lambda p: np.save(p, np.zeros(4, np.uint64)), "a list of uids is u8,u8"),
        ("junk.npy", lambda p: p.write_bytes(b"not numpy"), "is not an npy file"),
        ("junk.parquet", lambda p: p.write_bytes(b"PAR1 no"), "is not a parquet file"),
        ("other.parquet", lambda p: pl.DataFrame({"a": [1], "b": [2]}).write_parquet(p), "no column `uid`; it has a, b"),
        ("bytes.npy", lambda p: np.save(p, np.array([b"\xff" * 16])), "raw bytes are not read"),
        ("deep.npy", lambda p: p.write_bytes(_header_of("(" * 90)), "is not an npy file"),
        ("huge.npy", lambda p: p.write_bytes(_header_of(_array_of(1 << 62))), "truncated"),
        ("negative.npy", lambda p: p.write_bytes(_header_of(_array_of(-5))), "its shape is"),
        ("twice.npy", lambda p: p.write_bytes(_twice(np.array(halves(UIDS), "u8,u8"))), "continues after its 52 uids"),
        ("gap.csv", lambda p: p.write_text(f"row,uid\n1,{UIDS[0]}\n2,\n"), "row 3: None is not a uid"),
        ("quote.csv", lambda p: p.write_text(f'uid,text\n{UIDS[0]},"6 in\n{UIDS[1]},b\n{UIDS[2]},5"\n'), "takes in the row"),
        ("ragged.csv", lambda p: p.write_text(f"row,uid\n1\n2,{UIDS[0]}\n"), "Expected 2 columns"),
        ("pandas.csv", lambda p: p.write_text(f"0\n{UIDS[0]}\n"), "row 1: '0' may be the name of the column or a uid"),
        (
            "keys.csv",
            lambda p: p.write_text("key,score\n000000001,0.5\n"),
            "row 1: 'key, score' has 2 columns, none .* named `uid`",
        ),
        ("numbers.csv", lambda p: p.write_text("f0,f1\n1234,5678\n"), "row 1: 'f0, f1' has 2 columns, none .* named `uid`"),
        ("two.csv", lambda p: p.write_text(f"{UIDS[0]},{UIDS[1]}\n"), "and 2 of them with 32 hex digits"),
        ("one_line.txt", lambda p: p.write_text(",".join(UIDS)), "has 52 columns, none of which is named `uid`"),
        ("old_mac.txt", lambda p: p.write_text("\r".join(UIDS), newline=""), "carriage returns alone"),
        ("half.parquet", lambda p: pl.DataFrame({"f0": [1, None], "f1": [1, 2]}).write_parquet(p), r"row 2: \(None, 2\)"),
        ("short15.parquet", lambda p: pl.DataFrame({"uid": [b"\xcd" * 15]}).write_parquet(p), "row 1: .*16 bytes"),
        ("utf16.txt", lambda p: p.write_text(UIDS[0], "utf-16"), "text in UTF-16, not UTF-8"),
        (
            "small.parquet",
            lambda p: pl.DataFrame({"f0": [1], "f1": [2]}, {"f0": pl.UInt32, "f1": pl.UInt32}).write_parquet(p),
            "64 bits",
        ),
        ("short.parquet", lambda p: pl.DataFrame({"uid": [b"1" * 16, b"2"]}).write_parquet(p), "row 2: .*16 bytes"),
    ],
)
def test_what_is_no_list_is_one_sentence(name: str, write: Any, told: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(DataError, match=told):
        list(uid_lists.read([tmp_path / name]))


def test_a_list_without_uids_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.empty(0, uid.DTYPE))
    with pytest.raises(DataError, match=r"mine\.npy contains no uids"):
        world.kept(Listed(uids=str(tmp_path / "mine.npy")), world.write(tmp_path / "m", world.rows()), tmp_path / "out")


def test_a_truncated_file_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "list.npy", np.array(halves(UIDS), dtype="u8,u8"))
    (tmp_path / "list.npy").write_bytes((tmp_path / "list.npy").read_bytes()[:-5])
    with pytest.raises(DataError, match="truncated"):
        list(uid_lists.read([tmp_path / "list.npy"]))


@pytest.mark.parametrize("same_high", [False, True])
def test_membership_against_a_set_with_ties_in_the_high_word(same_high: bool) -> None:
    chance = np.random.default_rng(1)
    table, asked = (np.zeros(2000, uid.DTYPE) for _ in range(2))
    for one in (table, asked):
        one["f0"] = chance.integers(0, 3 if same_high else 2**63, 2000)
        one["f1"] = chance.integers(0, 1500, 2000)
    asked[:700] = table[:700]
    there = {(int(a), int(b)) for a, b in table.tolist()}
    ordered = uid.sort(table)
    assert is_in_table(asked, ordered, prefix_starts(ordered)).tolist() == [(int(a), int(b)) in there for a, b in asked.tolist()]
    assert not is_in_table(asked, table[:0], prefix_starts(table[:0])).any()


STRETCHES: dict[str, list[list[int]]] = {
    "sorted, repeats across pieces": [[1, 1, 2], [2, 2], [], [2, 3]],
    "sorted stretches": [[5, 6, 9], [1, 2, 9], [9, 9], [0]],
    "falling": [[9, 8, 7], [6, 5], [4]],
    "one uid": [[3], [3], [3]],
    "nothing": [[], []],
    "no piece": [],
}


@pytest.mark.parametrize("high", [True, False])
@pytest.mark.parametrize("name", STRETCHES)
@pytest.mark.parametrize("at_once", [1, 3, 1 << 20])
def test_a_list_is_sorted_whatever_stretches_it_has(
    name: str, at_once: int, high: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uid_lists, "AT_ONCE", at_once)
    pieces = [[(n << 60, 1) if high else (1, n) for n in piece] for piece in STRETCHES[name]]
    whole = sorted(pair for piece in pieces for pair in piece)
    made = uid_lists.sort_to((np.array(piece, uid.DTYPE) for piece in pieces), tmp_path / "list.npy")
    assert made == (len(whole), len(set(whole)))
    assert (tmp_path / "list.npy").read_bytes() == uid.subset_bytes(np.array(whole, uid.DTYPE))
    assert [path.name for path in tmp_path.iterdir()] == ["list.npy"]


@pytest.mark.parametrize("table_rows", [1, 300, 5000])
@pytest.mark.parametrize("skew", [1, 40, 63])
def test_membership_where_many_uids_share_their_prefix(table_rows: int, skew: int) -> None:
    chance = np.random.default_rng(table_rows + skew)
    table, asked = (np.empty(rows, uid.DTYPE) for rows in (table_rows, 4000))
    for one in (table, asked):
        one["f0"] = chance.integers(0, 2**64 - 1, len(one), np.uint64) >> np.uint64(skew)
        one["f1"] = chance.integers(0, 2, len(one))
    asked[: min(500, table_rows)] = table[:500]
    there, ordered = set(table.tolist()), uid.sort(table)
    want = [pair in there for pair in asked.tolist()]
    assert is_in_table(asked, ordered, prefix_starts(ordered)).tolist() == want
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sorted_lookup, "IN_MEMORY", 0)  # as for a table larger than memory
        assert is_in_table(asked, ordered, prefix_starts(ordered)).tolist() == want


@pytest.mark.parametrize("bad", ["g" * 32, "0x" + "a" * 30, "a" * 31, "é" + "a" * 31, " " * 32, "a" * 15 + "\0" + "a" * 16])
@pytest.mark.parametrize("kind", ["S32", "U32", ">U32"])
def test_text_arrays_with_an_odd_uid_are_read_as_text_is(bad: str, kind: str, tmp_path: Path) -> None:
    """The short way is for 32 hex digits each; what it cannot read is read, or refused with its row, as any text."""
    text = [bad.encode("latin-1")] if kind == "S32" else [bad]
    np.save(tmp_path / "list.npy", np.array([*(UIDS[:3] if kind != "S32" else [u.encode() for u in UIDS[:3]]), *text], kind))
    try:
        number = int(bad, 16)
    except ValueError:
        with pytest.raises(DataError, match=r"row 4: .* is not a uid|not hex digits"):
            list(uid_lists.read([tmp_path / "list.npy"]))
        return
    [*_, last] = np.concatenate(list(uid_lists.read([tmp_path / "list.npy"]))).tolist()
    assert last == (number >> 64, number & (2**64 - 1))


def _listed(tmp_path: Path, uids: list[str]) -> Listed:
    (tmp_path / "mine.txt").write_text("\n".join(uids))
    return Listed(uids=str(tmp_path / "mine.txt"))


def test_alone_it_keeps_repeats_and_says_what_became_of_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uid_lists, "AT_ONCE", 64)
    table = world.rows()
    pool = [row["uid"] for row in table]
    table.append(dict(table[0]))  # a pool may have a uid twice: the list alone says how often it is taken
    chance = random.Random(5)
    given = [*chance.choices(pool[:120], k=400), *UIDS, UIDS[0], pool[0]]
    chance.shuffle(given)
    found, done = world.kept(_listed(tmp_path, given), world.write(tmp_path / "m", table), tmp_path / "out")
    assert Counter(found) == Counter(one for one in given if one in set(pool))
    [told] = done.explanation.lists
    inside = set(given) & set(pool)
    assert (told.listed, told.unique, told.in_pool) == (len(given), len(set(given)), len(inside))
    assert told.not_in_pool == len(set(given) - set(pool))
    assert len(told.examples) == 10
    assert set(told.examples) <= set(given) - set(pool)


def test_inside_other_filters_it_says_yes_or_no(tmp_path: Path) -> None:
    table = world.rows()
    pool = [row["uid"] for row in table]
    mine = _listed(tmp_path, [*pool[:100], *pool[:30], *UIDS])
    folder = world.write(tmp_path / "m", table)
    long = {row["uid"] for row in table if row["text"] is not None and len(row["text"].split()) >= 3}
    both, done = world.kept(AllOf(filters=(mine, Words(at_least=3))), folder, tmp_path / "a")
    assert sorted(both) == sorted(set(pool[:100]) & long)
    assert done.explanation.lists[0].in_pool == 100
    assert sorted(world.kept(NotOf(filter=mine), folder, tmp_path / "b")[0]) == sorted(pool[100:])
    drawn = world.kept(SampleTo(filter=mine, num_samples=250, at_most_times=3), folder, tmp_path / "c")[0]
    assert len(drawn) == 250
    assert set(drawn) == set(pool[:100])


def test_an_interrupted_selection_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datacomp_core.selection import select as selecting
    from datacomp_core.store import Folder

    table = world.rows()
    folder, mine = world.write(tmp_path / "m", table), _listed(tmp_path, [row["uid"] for row in table[::2]] + UIDS)
    whole, once = world.kept(mine, folder, tmp_path / "whole", write="subset")
    real, done = selecting.judge_part, []

    def breaks(job: Any, part: str) -> Any:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(part)
        return real(job, part)

    kept = Folder(tmp_path / "kept")
    monkeypatch.setattr(selecting, "judge_part", breaks)
    with pytest.raises(KeyboardInterrupt):
        world.kept(mine, folder, tmp_path / "again", kept=kept, write="subset")
    monkeypatch.setattr(selecting, "judge_part", real)
    again, twice = world.kept(mine, folder, tmp_path / "again", kept=kept, write="subset")
    assert again == whole
    assert twice.explanation.lists == once.explanation.lists


def test_a_list_is_known_by_its_content(tmp_path: Path) -> None:
    first = _listed(tmp_path, UIDS)
    (tmp_path / "copy.txt").write_bytes((tmp_path / "mine.txt").read_bytes())
    assert fingerprint(Listed(uids=str(tmp_path / "copy.txt"))) == fingerprint(first)
    (tmp_path / "mine.txt").write_text(UIDS[0])
    assert fingerprint(Listed(uids=str(tmp_path / "mine.txt"))) != fingerprint(first)
    with pytest.raises(DataError, match="it has changed"):
        world.kept(first, world.write(tmp_path / "m", world.rows()), tmp_path / "out")
    with pytest.raises(SpecError, match="is not there"):
        load_recipe(f"listed:uids={tmp_path}/nowhere.npy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match=r"give a file with \.npy"):
        load_recipe(f"listed:uids={tmp_path}/empty")


@step("pools", version=1)
def small_pool(spec: SmallPool, *, out: Folder) -> Pool:
    world.write(Path(out.at("metadata")), world.rows())
    return Pool(num_samples=300, num_parts=4, scale="small")


def test_what_a_list_takes_out_is_no_breach(tmp_path: Path) -> None:
    """Nothing of a list below a `not` is trained on, so uids that are not the pool's do not count; below two of them they do."""
    store = Store.open(str(tmp_path / "store"))
    pool, mine = small_pool(SmallPool(), store=store), _listed(tmp_path, [*(row["uid"] for row in world.rows()[:10]), *UIDS])
    counted = "not_in_pool, of the lists"
    taken = select_subset(SubsetSpec(recipe="mine", filter=mine), pool, None, store=store)
    assert taken.counts[counted] == len(UIDS)
    out = select_subset(SubsetSpec(recipe="mine", filter=NotOf(filter=mine)), pool, None, store=store)
    assert (counted in out.counts, out.num_samples) == (False, 290)
    twice = select_subset(SubsetSpec(recipe="mine", filter=NotOf(filter=NotOf(filter=mine))), pool, None, store=store)
    assert twice.counts[counted] == len(UIDS)
    both = AllOf(filters=(Words(at_least=1), NotOf(filter=AllOf(filters=(mine, Words(at_least=2))))))
    assert counted not in select_subset(SubsetSpec(recipe="mine", filter=both), pool, None, store=store).counts


def test_a_list_of_which_nothing_is_the_pools_says_what_became_of_it(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    pool, mine = small_pool(SmallPool(), store=store), _listed(tmp_path, UIDS)
    with pytest.raises(DataError, match=r"keeps none of the 300 .*not on the list mine.txt 300.* 52 listed uids, 0 of them"):
        select_subset(SubsetSpec(recipe="mine", filter=mine), pool, None, store=store)


def _copies(folder: Path, name: str, text: str) -> list[Path]:
    """The same file under another name and in another folder."""
    (folder / "elsewhere").mkdir(exist_ok=True)
    places = [folder / name, folder / f"renamed-{name}", folder / "elsewhere" / name]
    for place in places:
        place.write_text(text)
    return places


def test_files_of_a_folder_that_are_not_read_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A list among files of other kinds: which ones were left out is said, once."""
    folder = tmp_path / "lists"
    folder.mkdir()
    for name, text in {
        "a.txt": UIDS[0],
        "b.json": "[]",
        "c.text": UIDS[1],
        "README.md": "",
        "_done": "",
        "_b.txt": UIDS[2],
    }.items():
        (folder / name).write_text(text)
    listed = Listed(uids=str(folder))
    assert [file.name for file in external_files.local(listed.uids, uid_lists.SUFFIXES)] == ["a.txt"]
    assert [one.getMessage() for one in caplog.records] == [
        f"{folder} has files that are not read, because their names begin with `_` or have other endings (number: 3): "
        "_b.txt, b.json, c.text"
    ]


def test_copies_of_a_list_are_one_subset(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    pool, wanted = small_pool(SmallPool(), store=store), [row["uid"] for row in world.rows()[:10]]

    def address(uids: Path) -> str:
        return select_subset(SubsetSpec(recipe="mine", filter=Listed(uids=str(uids))), pool, None, store=store).address

    assert len({address(one) for one in _copies(tmp_path, "mine.txt", "\n".join(wanted))}) == 1
    assert len({address(one) for one in _copies(tmp_path, "mine.txt", "\n".join(wanted[1:]))}) == 1
    assert len(list((tmp_path / "store" / "subsets" / "small").iterdir())) == 2


def test_copies_of_a_table_are_one_score_that_each_of_them_names(tmp_path: Path) -> None:
    """In a filter's field, in the names of weights, and with another cut-off, which reads the kept score by its content."""
    store, rows = Store.open(str(tmp_path / "store")), world.rows()
    pool, values = small_pool(SmallPool(), store=store), [CHANCE.random() for _ in rows]
    text = "uid,v\n" + "".join(f"{row['uid']},{value!r}\n" for row, value in zip(rows, values, strict=True))
    places = _copies(tmp_path, "v=1, final.csv", text)
    spelled = [f'column_of:column=v,file="{place}"' for place in places]
    scores = [score_pool(score_of(one), pool, None, None, None, store=store) for one in spelled]
    assert len({one.address for one in scores}) == 1
    filters = [TopFraction(score=one, fraction=0.2) for one in spelled]
    assert len({SubsetSpec(recipe="mine", filter=one).label() for one in filters}) > 1
    told = [text for one in filters for text in (one.title(), one.reason(), one.label())]
    assert not [text for text in told if str(tmp_path) in text], "a place on somebody's disk is no title"
    assert all("1, final.csv" in text for text in told[:3])

    def kept(number: int, **given: Any) -> Subset:
        spec = SubsetSpec(recipe="mine", filter=TopFraction(score=spelled[number], **given))
        return select_subset(spec, pool, (scores[0],), store=store)

    assert len({kept(number, fraction=0.2).address for number in range(3)}) == 1
    for number, fraction in ((1, 0.3), (2, 0.5)):
        found = uid.unpack(np.load(store.folder(kept(number, fraction=fraction)).path / "subset.npy"))
        best = sorted(range(len(rows)), key=lambda row: -np.float32(values[row]))[
            : int(len(rows) * fraction) + 1
        ]  # as the reference cuts
        assert sorted(found) == sorted(rows[row]["uid"] for row in best)
    weighted = [
        {"kind": "soft_cap", "filter": {"kind": "everything"}, "num_samples": 9, "weights": {one: 1.0}} for one in spelled
    ]
    assert len({fingerprint(SubsetSpec.model_validate({"recipe": "mine", "filter": one})) for one in weighted}) == 1


def test_no_title_has_the_query_of_a_web_address() -> None:
    """It may be a secret, and titles stand on the board."""
    place = "https://h.org/a/v.csv?token=SECRET#5c27719cb8f8201a"
    for one in (place, f"column_of:column=v,file={place}", f'column_of:column=v,file="{place}"'):
        assert short_places(one) == one.replace(place, "v.csv").replace('"', "")
