"""Own tables as the world has them: every value stays what it is, and whatever cannot be used is told with file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datacomp_core.artifacts import Pool
from datacomp_core.errors import DataError, SpecError
from datacomp_core.pool.byod import ByodPoolSpec, Columns, import_pool
from datacomp_core.pool.tables import TableFormat
from datacomp_core.store import Folder, Store
from datacomp_core.uid import uid_of


def taken(tmp_path: Path, source: str | Path, columns: Columns | None = None, **how: Any) -> tuple[Pool, pl.DataFrame]:
    store = Store.open(str(tmp_path / "store"))
    spec = ByodPoolSpec(source=str(source), columns=columns or Columns(), tables=TableFormat(**how))
    pool = import_pool(spec, store=store)
    return pool, pl.read_parquet(f"{store.folder(pool).url}/metadata/*.parquet")


def written(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


AS_THEY_ARE = (
    "007",
    "1.10",
    "1e3",
    "NA",
    "null",
    "None",
    "False",
    "true",
    "2020-01-01 10:00",
    "",
    " x ",
    "nan",
    "-0",
    "0x1F",
    "€",
)


def test_captions_of_a_csv_stay_what_they_are(tmp_path: Path) -> None:
    rows = "".join(f"http://h/{n},{text},{n}\n" for n, text in enumerate(AS_THEY_ARE))
    _, found = taken(tmp_path, written(tmp_path / "a.csv", "url,text,n\n" + rows))
    assert found["text"].to_list() == list(AS_THEY_ARE)
    assert found["uid"].to_list() == [uid_of(f"http://h/{n}", text) for n, text in enumerate(AS_THEY_ARE)]


def test_types_never_come_from_a_first_block(tmp_path: Path) -> None:
    """arrow#35661, #46223; datasets#4467: numbers for a long while, then words."""
    texts = [str(n) for n in range(200_000)] + ["a word", "1.5", "2020-01-01"]
    rows = "".join(f"http://h/{n},{text},{n if n < 150_000 else 'odd'}\n" for n, text in enumerate(texts))
    _, found = taken(tmp_path, written(tmp_path / "a.csv", "url,text,other\n" + rows))
    assert found["text"].to_list() == texts


def test_a_column_of_digits_is_a_uid(tmp_path: Path) -> None:
    uids = [f"{n:032d}" for n in range(3)] + ["F" * 32]
    rows = "".join(f"http://h/{n},c,{uid}\n" for n, uid in enumerate(uids))
    _, found = taken(tmp_path, written(tmp_path / "a.csv", "url,text,id\n" + rows), Columns(uid="id"))
    assert found["uid"].to_list() == [uid.lower() for uid in uids]


SWALLOWED = (
    'http://h/0,a\nhttp://h/1,"12 inch\nhttp://h/2,b\nhttp://h/3,13" wide\nhttp://h/4,c\n',
    'http://h/0,a\nhttp://h/1,"12 inch\nhttp://h/2,13"\nhttp://h/3,c\n',
    'http://h/0,a\nhttp://h/1,"12 inch\nhttp://h/2,b\n',
    'http://h/0,a\nhttp://h/1,"12" inch\nhttp://h/2,b\n',
)


@pytest.mark.parametrize("rows", SWALLOWED)
@pytest.mark.parametrize("order", ["url,text", "text,url"])
def test_a_lone_quote_is_told_with_its_line_and_can_be_a_character(tmp_path: Path, rows: str, order: str) -> None:
    if order == "text,url":
        rows = "".join(",".join(reversed(line.split(","))) + "\n" for line in rows.splitlines())
    path = written(tmp_path / "a.csv", f"{order}\n{rows}")
    with pytest.raises(DataError, match=r"a\.csv, line 3.* quote.*--quoting none"):
        taken(tmp_path, path)
    _, found = taken(tmp_path, path, quoting="none")
    wanted = [line.split(",") for line in rows.splitlines()]
    assert found["text"].to_list() == [dict(zip(order.split(","), row, strict=True))["text"] for row in wanted]


def test_fields_over_several_lines_are_fields(tmp_path: Path) -> None:
    texts = ['a "quoted" word', "two\nlines", "three\r\n\nlines", "see:\nhttp://h/9", ",", '"', "\r"]
    rows = "".join(f'http://h/{n},"{text.replace(chr(34), chr(34) * 2)}"\r\n' for n, text in enumerate(texts))
    _, found = taken(tmp_path, written(tmp_path / "a.csv", "url,text\r\n" + rows))
    assert found["text"].to_list() == texts


def test_a_field_that_contains_rows_is_taken_where_it_is_meant(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", 'url,text\nhttp://h/0,"a csv:\nhttp://x,y\n"\n')
    with pytest.raises(DataError, match=r"line 2.*seems to contain whole rows.*--quoting trusted"):
        taken(tmp_path, path)
    assert taken(tmp_path, path, quoting="trusted")[1]["text"].to_list() == ["a csv:\nhttp://x,y\n"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("url,text\nhttp://h,caf\xe9\n".encode("latin-1"), r"a\.csv, line 2, column 'text': byte 0xe9 is not UTF-8.*latin-1"),
        (b"url;text\nhttp://h;c\n", r"no column 'url'.*separated by ';'.*--delimiter"),
        ("url,text\nhttp://h,c\n".encode("utf-16"), r"is UTF-16.*--encoding utf-16"),
        (f"url,text\nhttp://0,ok\nhttp://h,{'x' * (1 << 21)}\n".encode(), r"line 3, column 2: a field is longer than 1,048,576"),
        (b"url,text\nhttp://h,c,extra\n", r"line 2: the row has 3 fields, but the header has 2"),
        (b"url,text\nhttp://h\n", r"line 2: the row has 1 fields, but the header has 2"),
        (b"http://h/0,a\nhttp://h/1,b\n", r"first line looks like a row.*--header url,text"),
        (b"url,text,text\nhttp://h,c,d\n", r"2 columns 'text'"),
        (b"", r"no column 'url'.*it has no columns"),
        (b"url,text\n,c\n", r"no row with url and caption \(without_url 1\)"),
    ],
)
def test_what_is_wrong_with_a_csv_is_one_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        taken(tmp_path, written(tmp_path / "a.csv", data))


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (b"\xef\xbb\xbf" + "url,text\nhttp://h,caf\xe9\n".encode(), {}),
        ("url,text\nhttp://h,caf\xe9\n".encode("latin-1"), {"encoding": "latin-1"}),
        ("url,text\r\nhttp://h,caf\xe9\r\n".encode("utf-16"), {"encoding": "utf-16"}),
        ("url;text\nhttp://h;caf\xe9\n".encode(), {"delimiter": ";"}),
        ("http://h,caf\xe9\n".encode(), {"header": ("url", "text")}),
        ("url,text\rhttp://h,caf\xe9\r".encode(), {}),
        (b"junk,url,text\n" + b"\xff\xfe\xe9,http://h,caf\xc3\xa9\n", {}),
    ],
)
def test_other_ways_to_write_a_csv_are_read(tmp_path: Path, data: bytes, how: dict[str, Any]) -> None:
    _, found = taken(tmp_path, written(tmp_path / "a.csv", data), **how)
    assert found.select("url", "text").rows() == [("http://h", "café")]


def test_an_unknown_quoting_is_refused_at_the_door() -> None:
    with pytest.raises((SpecError, ValueError), match="quoting"):
        TableFormat.model_validate({"quoting": "some"})


def test_jsonl_is_read_row_by_row(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"url": "http://h/0", "text": "a", "mixed": 1}',
        b'{"url": "http://h/1", "text": 1.10, "mixed": "x"}',
        b'{"url": "http://h/2", "text": NaN, "mixed": [1]}',
        b'{"url": "http://h/3", "text": "\\ud800", "mixed": {"a": NaN}}',
        b'{"url": "http://h/4", "text": "\\udc00 low", "mixed": null}',
        b'{"url": "http://h/5", "text": "\\ud83d\\ude00", "mixed": "\\ud800"}',
        b'{"url": "http://h/6", "text": ["a list"]}',
        b'{"url": "http://h/7", "text": null}',
        b"",
        b'{"url": "http://h/8", "text": ""}',
        b'{"text": "no url"}',
        b'{"url": "http://h/9", "text": true, "mixed": 1e999}',
        b'{"url": "http://h/10", "text": 12345678901234567890123}',
        b'{"url": "http://h/11", "text": "not utf-8 elsewhere", "mixed": "\xe9"}',
    ]
    pool, found = taken(tmp_path, written(tmp_path / "a.JSONL", b"\n".join(lines)))
    assert found.select("url", "text").rows() == [
        ("http://h/0", "a"),
        ("http://h/1", "1.10"),
        ("http://h/5", "\U0001f600"),
        ("http://h/8", ""),
        ("http://h/9", "true"),
        ("http://h/10", "12345678901234567890123"),
        ("http://h/11", "not utf-8 elsewhere"),
    ]
    assert pool.counts == {
        "rows": 7,
        "without_caption": 2,
        "without_url": 1,
        "lone_surrogate_text": 2,
        "not_a_text_text": 1,
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"url": "http://h", "text": "a"}\n{"url": "http://h", "te', r"line 2 is not JSON"),
        (b'{"url": "http://h", "text": "a"}\n[1]\n', r"line 2 is not a JSON object"),
        (b'{"url": "http://h", "text": "caf\xe9"}\n', r"line 1, column 'text': byte 0xe9 is not UTF-8"),
        (b'{"url": "http://h", "caption": "a"}\n', r"no column 'text'.*it has url, caption"),
        (b"[" * 100_000 + b"\n", r"line 1 is nested too deeply"),
        ('{"url": "http://h", "text": "a"}\n'.encode("utf-16"), r"is UTF-16"),
        (b'{"url": "http://h/1", "text": "a"}\n\x1c\n', "line 2 is not JSON"),
    ],
)
def test_what_is_wrong_with_a_jsonl_is_one_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        taken(tmp_path, written(tmp_path / "a.jsonl", data))


def test_hidden_files_are_never_read_and_capital_endings_are(tmp_path: Path) -> None:
    row = "url,text\nhttp://h/{},c\n"
    for n, name in enumerate(
        (".ipynb_checkpoints/a-checkpoint.csv", "._a.csv", "_metadata.csv", "__MACOSX/a.csv", ".hidden.csv", "_temporary/0/a.csv")
    ):
        written(tmp_path / "in" / name, row.format(n))
    with pytest.raises(DataError, match=r"has no table \(6 hidden ones are not read\)"):
        taken(tmp_path, tmp_path / "in")
    written(tmp_path / "in/A.CSV", row.format("A"))
    written(tmp_path / "in/b.csv.gz", gzip.compress(row.format("b").encode()))
    pool, found = taken(tmp_path, tmp_path / "in")
    assert found["url"].to_list() == ["http://h/A", "http://h/b"]
    assert pool.counts == {"rows": 2, "hidden_files": 6}
    pq.write_table(pa.table({"url": ["http://h/p"], "text": ["c"]}), tmp_path / "P.PARQUET")
    assert taken(tmp_path, tmp_path / "P.PARQUET")[1]["url"].to_list() == ["http://h/p"]


def test_a_folder_that_is_named_like_a_table_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "data.parquet").mkdir()
    pq.write_table(pa.table({"url": ["http://h"], "text": ["c"]}), tmp_path / "data.parquet/part-0.parquet")
    assert taken(tmp_path, tmp_path / "data.parquet")[0].num_samples == 1


def test_a_packed_file_that_is_cut_off_is_told(tmp_path: Path) -> None:
    whole = gzip.compress("".join(f"http://h/{n},{n * n}\n" for n in range(9999)).encode())
    path = written(tmp_path / "a.csv.gz", whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.csv\.gz cannot be read completely"):
        taken(tmp_path, path, header=("url", "text"))


def test_duplicate_rows_and_repeated_uids_are_counted(tmp_path: Path) -> None:
    rows = [("http://h/0", "a", "0" * 32), ("http://h/0", "a", "1" * 32), ("http://h/1", "b", "1" * 32), ("http://h/2", "c", "")]
    path = tmp_path / "a.parquet"
    pl.DataFrame(rows, schema=["url", "text", "id"], orient="row").write_parquet(path)
    made = taken(tmp_path, path)[0].counts
    assert made == {"rows": 4, "repeated_uids": 1, "duplicate_rows": 1}
    given = taken(tmp_path, path, Columns(uid="id"))[0].counts
    assert given == {"rows": 4, "repeated_uids": 1, "duplicate_rows": 1}


def test_a_parquet_of_odd_types_keeps_its_values(tmp_path: Path) -> None:
    table = pa.table(
        {
            "url": pa.array(["http://h/0", "http://h/1", None, "http://h/3"]).dictionary_encode(),
            "text": pa.array([b"caf\xc3\xa9", b"\xff\xfe", b"c", b"d"], pa.binary()),
            "w": pa.array([512.0, float("nan"), 1.0, 7.5]),
            "h": pa.array(["512.0", "", "1", "tall"]),
            "hash": ["A" * 64, "", "x", "short"],
            "boxes": ["[[0,0,0.5,1]]", None, "[]", ""],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    columns = Columns(original_width="w", original_height="h", sha256="hash", face_bboxes="boxes")
    pool, found = taken(tmp_path, tmp_path / "a.parquet", columns)
    assert found.select("url", "text", "original_width", "original_height", "sha256", "face_bboxes").rows() == [
        ("http://h/0", "café", 512, 512, "a" * 64, [[0.0, 0.0, 0.5, 1.0]]),
        ("http://h/3", "d", None, None, None, []),
    ]
    assert pool.counts == {
        "rows": 2,
        "not_utf8_text": 1,
        "without_url": 1,
        "unreadable_original_width": 1,
        "unreadable_original_height": 1,
        "unreadable_sha256": 1,
    }


def test_a_string_column_that_lies_about_utf8_is_told(tmp_path: Path) -> None:
    binary = pa.array([b"good", b"\xff bad"], pa.binary())
    texts = pa.StringArray.from_buffers(2, binary.buffers()[1], binary.buffers()[2])
    pq.write_table(pa.table({"url": ["http://h/0", "http://h/1"], "text": texts}), tmp_path / "a.parquet")
    pool, found = taken(tmp_path, tmp_path / "a.parquet")
    assert found["text"].to_list() == ["good"]
    assert pool.counts == {"rows": 1, "not_utf8_text": 1}


def test_boxes_that_are_none_leave_the_row_out(tmp_path: Path) -> None:
    """A picture whose faces cannot be told must not pass for one without faces."""
    lines = [
        {"url": f"http://h/{n}", "text": "c", "f": boxes}
        for n, boxes in enumerate(([[0.1, 0.2, 0.3, 0.4]], [], None, [[1, 2]], "no", [["a", 0, 0, 0]], {"a": 1}))
    ]
    path = written(tmp_path / "a.jsonl", "\n".join(json.dumps(line) for line in lines))
    pool, found = taken(tmp_path, path, Columns(face_bboxes="f"))
    assert found["face_bboxes"].to_list() == [[[0.1, 0.2, 0.3, 0.4]], [], []]
    assert pool.counts == {"rows": 3, "unreadable_face_bboxes": 4}


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\0" * 64 + b"PAR1", b"url,text\n"])
def test_what_is_no_parquet_is_told(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as parquet"):
        taken(tmp_path, written(tmp_path / "a.parquet", data))


@pytest.mark.s3
def test_a_folder_with_brackets_in_its_name_reads_no_sibling(tmp_path: Path, s3_url: str) -> None:
    for root in (Folder(tmp_path / "in"), Folder(s3_url)):
        (root / "data1").write("a.csv", b"url,text\nhttp://sibling,c\n")
        (root / "data[1]").write("a*.csv", b"url,text\nhttp://own,c\n")
        assert taken(tmp_path, (root / "data[1]").url)[1]["url"].to_list() == ["http://own"]
        with pytest.raises(DataError, match=r"data\[2\] is not there"):
            taken(tmp_path, (root / "data[2]").url)


def test_a_killed_import_reads_a_changed_file_again(tmp_path: Path) -> None:
    """A file that was imported is not read again, but what stands in its place now is."""
    out = Folder(tmp_path / "out")
    for name in ("a", "b"):
        written(tmp_path / f"in/{name}.csv", f"url,text\nhttp://h/{name},c\n")
    written(tmp_path / "in/c.csv", "url\n")
    spec = ByodPoolSpec(source=str(tmp_path / "in"), rows_per_part=1)
    with pytest.raises(DataError, match=r"c\.csv has no column"):
        import_pool.function(spec, out=out)
    written(tmp_path / "in/c.csv", "url,text\nhttp://h/c,c\n")
    written(tmp_path / "in/a.csv", "url,text\nhttp://h/changed,c\n")
    pool = import_pool.function(spec, out=out)
    urls = pl.read_parquet(f"{out.url}/metadata/*.parquet")["url"].to_list()
    assert urls == ["http://h/changed", "http://h/b", "http://h/c"]
    assert pool.num_samples == 3
