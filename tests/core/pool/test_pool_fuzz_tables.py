"""Random tables, bytes and paths, each beside a brute-force reader: no difference, no traceback, no loss that is not counted.

A short round runs with `make test`; `make test-all` goes on for FUZZ_SECONDS (300).
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from datacomp_core import uid
from datacomp_core.errors import DataError
from datacomp_core.pool.byod import ByodPoolSpec, import_pool
from datacomp_core.pool.tables import TableFormat
from datacomp_core.store import Folder
from datacomp_core.uid import uid_of

SECONDS = float(os.environ.get("FUZZ_SECONDS", "300"))
CALM = (hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much, hypothesis.HealthCheck.data_too_large)
SHORT = {"rows": 2, "csv": 3, "bytes": 3, "subset": 3}
LONG = 150

texts = st.text(
    st.one_of(st.sampled_from(list("\"',;\t\n\r\\ =0.1eNAulfs\u2028\u00e9\U0001f600\ufeff\x00")), st.characters(codec="utf-8")),
    max_size=12,
)
urls = st.one_of(st.sampled_from(["http://h/1", "http://h/2", ""]), texts)
rows = st.lists(st.tuples(urls, texts, texts), max_size=12)
names = st.text(st.sampled_from(list("ab[]*?{}%#+ ~!&'é1=@^$;:")), min_size=1, max_size=8).filter(
    lambda name: name.strip() == name
)
Row = tuple[str, str, str]


def csv_of(table: list[Row], quote: str) -> bytes:
    """RFC 4180, every field quoted or only those that must be."""

    def field(text: str) -> str:
        must = quote == "all" or any(c in text for c in '",\n\r')
        return '"' + text.replace('"', '""') + '"' if must else text

    return "".join(",".join(map(field, row)) + "\n" for row in [("url", "text", "other"), *table]).encode()


def jsonl_of(table: list[Row], quote: str) -> bytes:
    lines = (json.dumps(dict(zip(("url", "text", "other"), row, strict=True)), ensure_ascii=quote == "all") for row in table)
    return "".join(line + "\n" for line in lines).encode()


def parquet_of(table: list[Row], quote: str) -> bytes:
    columns = {name: pa.array([row[n] for row in table], pa.string()) for n, name in enumerate(("url", "text", "other"))}
    if quote == "all" and table:
        columns = {name: column.dictionary_encode() for name, column in columns.items()}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, row_group_size=3)
    return buffer.getvalue()


WRITERS: dict[str, Callable[[list[Row], str], bytes]] = {"csv": csv_of, "jsonl": jsonl_of, "parquet": parquet_of}


def brute_csv(data: bytes) -> list[list[str]] | None:
    """A csv letter by letter; None where it breaks a rule: RFC 4180, quotes only around whole fields, one width."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    found: list[list[str]] = []
    row: list[str] = []
    at = 0
    while at < len(text):
        field, end = "", at
        if text[at] == '"':
            end = at + 1
            while True:
                close = text.find('"', end)
                if close < 0:
                    return None
                field, end = field + text[end:close], close + 1
                if text[end : end + 1] != '"':
                    break
                field, end = field + '"', end + 1
            if text[end : end + 1] not in ("", ",", "\n", "\r"):
                return None
        else:
            while end < len(text) and text[end] not in ",\n\r":
                end += 1
            field = text[at:end]
        row.append(field)
        if text[end : end + 1] == ",":
            at = end + 1
            if at == len(text) or text[at] in "\n\r":
                row.append("")
                end = at
            else:
                continue
        if not (row == [""] and text[at : at + 1] != '"'):
            found.append(row)
        row = []
        at = end + (2 if text[end : end + 2] == "\r\n" else 1)
    return found if len({len(one) for one in found}) <= 1 else None


def wanted_of(table: list[Row]) -> tuple[list[tuple[str, str, str]], dict[str, int]]:
    kept = [(uid_of(url, text), url, text) for url, text, _ in table if url]
    lost = len(table) - len(kept)
    repeated = len(kept) - len(set(kept))
    counts = {"rows": len(kept), "without_url": lost, "repeated_uids": repeated, "duplicate_rows": repeated}
    return kept, {name: count for name, count in counts.items() if count}


def imported(source: str, out: Folder, **how: Any) -> tuple[list[tuple[str, str, str]], dict[str, int]]:
    pool = import_pool.function(ByodPoolSpec(source=source, rows_per_part=5, tables=TableFormat(**how)), out=out)
    parts = [f"metadata/{name}" for name in (out / "metadata").files()]
    found = [row for part in parts for row in pl.read_parquet(io.BytesIO(out.read(part))).select("uid", "url", "text").rows()]
    return found, pool.counts


def forever(check: Callable[[], None], *, share: float) -> None:
    """Run a hypothesis test again and again, each time on other examples, until its share of the time is over."""
    end = time.monotonic() + SECONDS * share
    while True:
        check()
        if time.monotonic() > end:
            return


def round_trip(root: Folder, examples: int) -> Callable[[], None]:
    @hypothesis.settings(max_examples=examples, database=None, suppress_health_check=CALM)
    @hypothesis.given(rows, st.sampled_from(sorted(WRITERS)), st.sampled_from(["all", "few"]), names, names)
    def check(table: list[Row], kind: str, quote: str, folder: str, name: str) -> None:
        hypothesis.assume(folder not in (".", "..") and not folder.startswith(("_", ".")))
        source, out = root / "in" / folder, root / "out"
        source.write(f"{name}.{kind}", WRITERS[kind](table, quote))
        (root / "in").write(f"a{folder[1:]}a/sibling.{kind}", WRITERS[kind]([("http://sibling", "x", "y")], quote))
        wanted, counts = wanted_of(table)
        try:
            if wanted:
                assert imported(source.url, out, quoting="trusted") == (wanted, counts)
            else:
                with pytest.raises(DataError, match=r"no row|no column"):
                    imported(source.url, out, quoting="trusted")
        finally:
            (root / "in").remove()
            out.remove()

    return check


def mutated_csv(root: Folder, examples: int) -> Callable[[], None]:
    edits = st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from([b'"', b",", b"\n", b"\r", b"", b"\xff", b'""', b"\0"])), max_size=3
    )

    @hypothesis.settings(max_examples=examples, database=None, suppress_health_check=CALM)
    @hypothesis.given(rows, st.sampled_from(["all", "few"]), edits)
    def check(table: list[Row], quote: str, changes: list[tuple[float, bytes]]) -> None:
        data = csv_of(table, quote)
        for place, piece in changes:
            at = int(place * len(data))
            data = data[:at] + piece + data[at + (not piece) :]
        brute = brute_csv(data)
        (root / "in").write("a.csv", data)
        try:
            found, counts = imported((root / "in").url, root / "out", quoting="trusted")
        except DataError:
            if (
                brute
                and all(brute[0].count(name) == 1 for name in ("url", "text"))
                and not data.startswith((b"\xff\xfe", b"\xfe\xff"))
                and b"\0" not in data[:4]
            ):
                assert not any(row[brute[0].index("url")] for row in brute[1:]), "refused without a reason"
            return
        finally:
            (root / "in").remove()
            (root / "out").remove()
        if brute is None:  # bytes that are no UTF-8 in a column that nobody asked for
            data.decode("utf-8", "surrogateescape")
            brute = brute_csv(data.decode("utf-8", "replace").encode())
        assert brute is not None, "taken although it breaks a rule"
        url, text = brute[0].index("url"), brute[0].index("text")
        kept = [(row[url], row[text]) for row in brute[1:] if row[url]]
        assert [row[1:] for row in found] == kept
        assert counts["rows"] + counts.get("without_url", 0) == len(brute) - 1

    return check


def mutated_bytes(root: Folder, examples: int) -> Callable[[], None]:
    """Of jsonl and parquet: an error of ours, or as many rows as a plain reader finds."""
    edits = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4), st.integers(0, 4)), min_size=1, max_size=3)

    @hypothesis.settings(max_examples=examples, database=None, suppress_health_check=CALM)
    @hypothesis.given(rows, st.sampled_from(["jsonl", "parquet"]), edits)
    def check(table: list[Row], kind: str, changes: list[tuple[float, bytes, int]]) -> None:
        data = WRITERS[kind](table, "few")
        for place, piece, less in changes:
            at = int(place * len(data))
            data = data[:at] + piece + data[at + less :]
        (root / "in").write(f"a.{kind}", data)
        try:
            found, counts = imported((root / "in").url, root / "out")
        except DataError:
            return
        finally:
            (root / "in").remove()
            (root / "out").remove()
        if kind == "jsonl":
            lines = [line for line in data.split(b"\n") if line.strip()]
            assert sum(n for name, n in counts.items() if name not in ("repeated_uids", "duplicate_rows")) == len(lines)
        else:
            assert sum(counts[n] for n in ("rows", *[c for c in counts if "_url" in c or "_text" in c])) >= len(found)
            assert counts["rows"] == len(found)

    return check


def mutated_subset(root: Folder, examples: int) -> Callable[[], None]:
    """A subset file with changed bytes is refused, or is what numpy reads; nothing is unpickled."""
    edits = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4), st.integers(0, 4)), max_size=3)
    uids = st.lists(st.integers(0, (1 << 128) - 1), max_size=12)
    root.write("here", b"")
    directory = root.path

    @hypothesis.settings(max_examples=examples, database=None, suppress_health_check=CALM)
    @hypothesis.given(uids, edits)
    def check(numbers: list[int], changes: list[tuple[float, bytes, int]]) -> None:
        packed = np.array([(n >> 64, n & (1 << 64) - 1) for n in numbers], uid.DTYPE)
        data = uid.subset_bytes(packed)
        assert [(int(a) << 64) | int(b) for a, b in uid.read_subset(data, "it")] == sorted(numbers)
        for place, piece, less in changes:
            at = int(place * len(data))
            data = data[:at] + piece + data[at + less :]
        path = Path(directory) / "subset.npy"
        path.write_bytes(data)
        try:
            found = uid.read_subset(data, "it")
        except DataError:
            with pytest.raises(DataError):
                uid.open_subset(path)
            return
        assert uid.open_subset(path).tolist() == found.tolist()
        again = np.load(io.BytesIO(data), allow_pickle=False)
        pairs = [(int(a), int(b)) for a, b in again]
        assert [(int(a), int(b)) for a, b in found] == pairs == sorted(pairs)

    return check


CHECKS = {"rows": round_trip, "csv": mutated_csv, "bytes": mutated_bytes, "subset": mutated_subset}


@pytest.mark.parametrize("what", CHECKS)
def test_a_short_round(tmp_path: Path, what: str) -> None:
    CHECKS[what](Folder(tmp_path / "root"), SHORT[what])()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("what", CHECKS)
def test_a_long_round(tmp_path: Path, what: str) -> None:
    forever(CHECKS[what](Folder(tmp_path / "root"), LONG), share=0.2)


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.timeout(3600)
def test_a_long_round_in_a_bucket(s3_url: str) -> None:
    forever(round_trip(Folder(s3_url), LONG // 5), share=0.2)
