"""Captions from outside joined to a pool, against a join in plain Python."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path

import caption_world as world
import polars as pl
import pytest
from pydantic import ValidationError

from datacomp_core.captions import joins, tables
from datacomp_core.captions.import_captions import CaptionImportSpec, import_folder_captions
from datacomp_core.errors import DataError, SpecError
from datacomp_core.shards import index_shard, write_index
from datacomp_core.store import Folder

POOL = world.pool()


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "ROWS_A_BUCKET", 37)
    monkeypatch.setattr(joins, "BUFFER_BYTES", 2000)
    monkeypatch.setattr(tables, "BATCH_ROWS", 50)
    monkeypatch.setattr(tables, "BLOCK_BYTES", 4000)


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize("form", ["parquet", "csv", "tsv.gz", "jsonl", "jsonl.bz2", "csv.xz"])
@pytest.mark.parametrize("key", ["uid", "url", "sha256"])
def test_three_unsorted_files_are_joined_as_by_brute_force(form: str, key: str, tmp_path: Path) -> None:
    given = world.table(POOL, key)
    world.write_table(tmp_path / "t", given, form, key)
    metadata = world.write_pool(tmp_path / "m", POOL)
    spec = CaptionImportSpec.model_validate({"file": str(tmp_path / "t"), "name": "blip2", "key": key})
    made = import_folder_captions(spec, metadata, Folder(tmp_path / "out"))
    wanted, counts = world.brute_force(POOL, given, key)
    assert world.read_captions(tmp_path / "out", POOL) == wanted
    assert made.counts == counts
    assert (made.num_captions, made.num_captioned) == (sum(map(len, wanted)), counts["captioned"])
    assert made.sources == ("blip2",)


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize("indexed", [True, False])
def test_by_img2dataset_key_through_the_shards(indexed: bool, tmp_path: Path) -> None:
    metadata = world.write_pool(tmp_path / "m", POOL)
    (tmp_path / "s").mkdir()
    keyed = [{**row, "key": f"{place % 3:05d}{place:04d}"} for place, row in enumerate(POOL)]
    arrived = [row for place, row in enumerate(keyed) if place % 10]
    for shard in range(3):
        name = f"{shard:08d}"
        with tarfile.open(tmp_path / f"s/{name}.tar", "w") as tar:
            for row in (row for row in arrived if int(row["key"][:5]) == shard):
                for extension, content in (("jpg", b"x"), ("json", json.dumps({"uid": row["uid"]}).encode()), ("txt", b"raw")):
                    member = tarfile.TarInfo(f"{row['key']}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, BytesIO(content))
        if indexed:
            write_index(Folder(tmp_path / "s"), name, index_shard(Folder(tmp_path / "s"), name).rows)
    given = world.table(keyed, "key")
    world.write_table(tmp_path / "t", given, "csv", "key")
    spec = CaptionImportSpec(file=str(tmp_path / "t"), name="blip2", key="key")
    made = import_folder_captions(spec, metadata, Folder(tmp_path / "out"), shards=Folder(tmp_path / "s"))
    reached = {row["key"] for row in arrived}
    wanted, counts = world.brute_force(
        [{**row, "key": row["key"] if row["key"] in reached else "?"} for row in keyed], given, "key"
    )
    assert world.read_captions(tmp_path / "out", POOL) == wanted
    assert made.counts == counts
    with pytest.raises(SpecError, match="give the shards of this pool"):
        import_folder_captions(spec, metadata, Folder(tmp_path / "other"))


def shard_of(folder: Path, keys: list[str]) -> None:
    """A tar whose samples have these keys, of the pool's rows in their order."""
    folder.mkdir()
    with tarfile.open(folder / "00000000.tar", "w") as tar:
        for key, row in zip(keys, POOL, strict=False):
            for extension, content in (("jpg", b"x"), ("json", json.dumps({"uid": row["uid"]}).encode()), ("txt", b"raw")):
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                tar.addfile(member, BytesIO(content))


@pytest.mark.parametrize("form", ["number", "text", "text without zeros"])
def test_a_key_of_digits_is_found_without_its_zeros(form: str, tmp_path: Path) -> None:
    """Tables often store img2dataset's keys as numbers: 000010002 as 10002, and the first of all as 0."""
    numbers = [0, 1, 10002, 10010]
    shard_of(tmp_path / "s", [f"{number:09d}" for number in numbers])
    keys = {"number": numbers, "text": [f"{n:09d}" for n in numbers], "text without zeros": [str(n) for n in numbers]}[form]
    pl.DataFrame({"key": keys, "text": [f"caption {n}" for n in numbers]}).write_parquet(tmp_path / "t.parquet")
    spec = CaptionImportSpec(file=str(tmp_path / "t.parquet"), name="x", key="key")
    metadata = world.write_pool(tmp_path / "m", POOL)
    made = import_folder_captions(spec, metadata, Folder(tmp_path / "out"), shards=Folder(tmp_path / "s"))
    found = [captions for captions in world.read_captions(tmp_path / "out", POOL) if captions]
    assert found == [[f"caption {n}"] for n in numbers]
    assert made.counts["matched"] == 4


def test_a_key_that_several_samples_have_is_refused(tmp_path: Path) -> None:
    shard_of(tmp_path / "s", ["a/001", "b/001", "c/002"])
    metadata = world.write_pool(tmp_path / "m", POOL)
    shards = Folder(tmp_path / "s")
    index = index_shard(shards, "00000000").whole()
    write_index(shards, "00000000", index.with_columns(key=pl.Series(["001", "001", "002"])))
    spec = {"name": "x", "key": "key", "file": str(tmp_path / "t.csv")}
    (tmp_path / "t.csv").write_text("key,text\n002,alone\n")
    made = import_folder_captions(CaptionImportSpec.model_validate(spec), metadata, Folder(tmp_path / "one"), shards=shards)
    assert made.num_captions == 1
    (tmp_path / "t.csv").write_text("key,text\n002,alone\n1,whose\n")
    with pytest.raises(DataError, match="1 captions have a key that several samples of the shards share"):
        import_folder_captions(CaptionImportSpec.model_validate(spec), metadata, Folder(tmp_path / "no"), shards=shards)


def test_two_columns_of_captions_are_told_apart_by_the_user(tmp_path: Path) -> None:
    pl.DataFrame({"uid": [POOL[0]["uid"]], "text": ["old"], "caption": ["new"]}).write_csv(tmp_path / "t.csv")
    metadata, spec = world.write_pool(tmp_path / "m", POOL), {"name": "x", "file": str(tmp_path / "t.csv")}
    with pytest.raises(DataError, match="has the columns text and caption: say which one"):
        import_folder_captions(CaptionImportSpec.model_validate(spec), metadata, Folder(tmp_path / "no"))
    chosen = CaptionImportSpec.model_validate({**spec, "text_column": "caption"})
    import_folder_captions(chosen, metadata, Folder(tmp_path / "out"))
    assert world.read_captions(tmp_path / "out", POOL)[0] == ["new"]


def test_lists_scores_and_sources(tmp_path: Path) -> None:
    metadata = world.write_pool(tmp_path / "m", POOL)
    uids = [row["uid"] for row in POOL[:3]]
    table = {"uid": uids, "syn": [["a", "b"], [], ["c", None, " "]], "s": [0.5, 0.1, float("nan")], "who": ["x", None, "y"]}
    pl.DataFrame(table).write_parquet(tmp_path / "t.parquet")
    columns = {"text_column": "syn", "score_column": "s", "source_column": "who", "score": "clip_l14_similarity_score"}
    spec = CaptionImportSpec.model_validate({"file": str(tmp_path / "t.parquet"), "name": "own", **columns})
    made = import_folder_captions(spec, metadata, Folder(tmp_path / "out"))
    found = pl.read_parquet(tmp_path / "out/captions/00000000.parquet").drop("uid")
    assert found.rows() == [(0, "x", "a", 0.5), (0, "x", "b", 0.5), (2, "y", "c", None)]
    assert (made.sources, made.scores) == (("x", "y"), ("clip_l14_similarity_score",))
    assert made.counts["empty"] == 3
    assert made.counts["rows"] == made.counts["matched"] + made.counts["empty"] == 6


def test_a_uid_in_several_rows_of_the_pool_gives_its_captions_to_all(tmp_path: Path) -> None:
    rows = [*POOL[:20], *POOL[:5]]
    metadata = world.write_pool(tmp_path / "m", rows)
    pl.DataFrame({"uid": [POOL[2]["uid"].upper()], "text": ["one"]}).write_csv(tmp_path / "t.csv")
    made = import_folder_captions(CaptionImportSpec(file=str(tmp_path / "t.csv"), name="x"), metadata, Folder(tmp_path / "out"))
    assert [captions for captions in world.read_captions(tmp_path / "out", rows) if captions] == [["one"], ["one"]]
    assert (made.counts["matched"], made.num_captions, made.num_captioned) == (1, 2, 2)


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        (
            "t.csv",
            "uid,text\n" + "00" * 16 + ",a\n",
            "No caption of .* by uid \\(rows 1, matched 0, unmatched 1",
        ),
        ("t.csv", "uid,text\nxyz,a\n", "without_key 1"),
        ("t.csv", "id,text\n1,a\n", "no column 'uid' to join by; it has id, text"),
        ("t.csv", "uid,words\n1,a\n", "no column 'text' or 'caption'; it has uid, words"),
        ("t.jsonl", '{"uid": "1", "text": "a"}\nnonsense\n', "line 2 is not JSON"),
        ("t.jsonl", "[1]\n", "line 1 is not a JSON object"),
        ("t.parquet", "no parquet", "is not a parquet file"),
        ("t.csv.gz", "uid,text\n1,a\n", "is not readable as a table: Not a gzipped file"),
        (
            "t.csv",
            f'uid,text\n{POOL[0]["uid"]},"lone\n{POOL[1]["uid"]},another\n{POOL[2]["uid"]},"third"\n',
            "a quote at the start of a field takes in the row",
        ),
    ],
)
def test_what_cannot_be_joined_is_one_sentence(name: str, text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    metadata = world.write_pool(tmp_path / "m", POOL)
    with pytest.raises(DataError, match=told):
        import_folder_captions(CaptionImportSpec(file=str(tmp_path / name), name="x"), metadata, Folder(tmp_path / "out"))


def test_a_source_is_not_called_raw(tmp_path: Path) -> None:
    pl.DataFrame({"uid": [POOL[0]["uid"]], "text": ["a"], "s": ["raw"]}).write_csv(tmp_path / "t.csv")
    spec = CaptionImportSpec(file=str(tmp_path / "t.csv"), name="x", source_column="s")
    with pytest.raises(DataError, match="raw means the pool's own captions"):
        import_folder_captions(spec, world.write_pool(tmp_path / "m", POOL), Folder(tmp_path / "out"))
    with pytest.raises(ValidationError, match="name"):
        CaptionImportSpec(file=str(tmp_path / "t.csv"), name="a;b")


def test_a_table_that_changed_is_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"uid,text\n{POOL[0]['uid']},a\n")
    spec = CaptionImportSpec(file=str(tmp_path / "t.csv"), name="x")
    (tmp_path / "t.csv").write_text(f"uid,text\n{POOL[0]['uid']},b\n")
    with pytest.raises(DataError, match="it has changed"):
        import_folder_captions(spec, world.write_pool(tmp_path / "m", POOL), Folder(tmp_path / "out"))


def test_a_caption_of_several_lines_is_one(tmp_path: Path) -> None:
    """Long captions of models have paragraphs; words such as `facade` are hex digits, and no keys."""
    said = "A house of 1905.\n\nIts facade, decorated and beaded, is by https://host, of 12345 bricks.\nIt faces the sea."
    pl.DataFrame({"uid": [POOL[0]["uid"]], "text": [said]}).write_csv(tmp_path / "t.csv")
    spec = CaptionImportSpec(file=str(tmp_path / "t.csv"), name="x")
    import_folder_captions(spec, world.write_pool(tmp_path / "m", POOL), Folder(tmp_path / "out"))
    assert world.read_captions(tmp_path / "out", POOL)[0] == [said]


def test_files_that_are_packed_otherwise_are_not_left_out_unseen(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/README.md").write_text("captions")
    for name in ("a.csv", "b.csv.zst"):
        (tmp_path / "t" / name).write_text(f"uid,text\n{POOL[0]['uid']},a\n")
    with pytest.raises(ValidationError, match=r"packed in a way that is not read \(number: 1; one is b.csv.zst\)"):
        CaptionImportSpec(file=str(tmp_path / "t"), name="x")


@pytest.mark.parametrize("form", ["parquet", "csv", "jsonl"])
def test_keys_that_pandas_made_floats_are_whole_numbers(form: str, tmp_path: Path) -> None:
    """A table with one key missing has 10002.0 where 000010002 was."""
    shard_of(tmp_path / "s", [f"{number:09d}" for number in (0, 10002, 10010)])
    table = pl.DataFrame({"key": [10002.0, None, 0.0], "text": ["one", "of nothing", "two"]})
    write = {"parquet": table.write_parquet, "csv": table.write_csv, "jsonl": table.write_ndjson}[form]
    write(tmp_path / f"t.{form}")
    spec = CaptionImportSpec(file=str(tmp_path / f"t.{form}"), name="x", key="key")
    metadata = world.write_pool(tmp_path / "m", POOL)
    made = import_folder_captions(spec, metadata, Folder(tmp_path / "out"), shards=Folder(tmp_path / "s"))
    assert world.read_captions(tmp_path / "out", POOL)[:3] == [["two"], ["one"], []]
    assert (made.counts["matched"], made.counts["without_key"]) == (2, 1)


@pytest.mark.parametrize("keys", [[1.5, 2.0], [1.0, 2.0**60]])
def test_float_keys_that_are_not_exact_are_refused(keys: list[float], tmp_path: Path) -> None:
    shard_of(tmp_path / "s", ["000000001", "000000002"])
    pl.DataFrame({"key": keys, "text": ["a", "b"]}).write_parquet(tmp_path / "t.parquet")
    spec = CaptionImportSpec(file=str(tmp_path / "t.parquet"), name="x", key="key")
    with pytest.raises(DataError, match="'key' is Float64 and has numbers that are not whole .* write the keys as text"):
        metadata = world.write_pool(tmp_path / "m", POOL)
        import_folder_captions(spec, metadata, Folder(tmp_path / "out"), shards=Folder(tmp_path / "s"))


def test_a_sha256_of_32_bytes_is_one(tmp_path: Path) -> None:
    sums = [bytes.fromhex(POOL[3]["sha256"]), None]
    pl.DataFrame({"sha256": sums, "text": ["a", "of nothing"]}).write_parquet(tmp_path / "t.parquet")
    spec = CaptionImportSpec(file=str(tmp_path / "t.parquet"), name="x", key="sha256")
    made = import_folder_captions(spec, world.write_pool(tmp_path / "m", POOL), Folder(tmp_path / "out"))
    assert world.read_captions(tmp_path / "out", POOL)[3] == ["a"]
    assert (made.counts["matched"], made.counts["without_key"]) == (1, 1)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.jsonl", b'{"uid": "1", "text": {"en": "a"}}\n', r'\{"en": "a"\} in \'text\' is not a text: write .*--text-column'),
        ("t.jsonl", b'{"uid": "1", "text": ["a", {"en": "a"}]}\n', "is not a text: write a text or a list of texts"),
        ("t.jsonl", '{"uid": "1", "text": "a"}\n'.encode("utf-16"), "seems to be text in UTF-16, .*iconv"),
        ("t.csv", "uid,text\n1,a\n".encode("utf-16"), "seems to be text in UTF-16, .*iconv"),
        ("t.csv", "uid,text\n1,a\n".encode("utf-16-le"), "seems to be text in UTF-16, .*iconv"),
    ],
)
def test_what_is_not_text_is_refused_with_what_to_do(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told):
        spec = CaptionImportSpec(file=str(tmp_path / name), name="x")
        import_folder_captions(spec, world.write_pool(tmp_path / "m", POOL), Folder(tmp_path / "out"))


def test_a_column_of_numbers_is_refused_with_what_to_do(tmp_path: Path) -> None:
    pl.DataFrame({"uid": [POOL[0]["uid"]], "text": [7]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="'text' is Int64, but must be text: name another column, or write it as text"):
        spec = CaptionImportSpec(file=str(tmp_path / "t.parquet"), name="x")
        import_folder_captions(spec, world.write_pool(tmp_path / "m", POOL), Folder(tmp_path / "out"))
