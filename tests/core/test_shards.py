"""Shards and their index against tarfile and webdataset, which read the same archives in their own way."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import polars as pl
import pytest

from datacomp_core.errors import DataError
from datacomp_core.shards import (
    ShardWriter,
    index_shard,
    index_tar,
    parse_sample,
    read_index,
    read_samples,
    shard_names,
    write_index,
)
from datacomp_core.store import Folder

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def tar(members: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT, mtime: float = 1.5) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), mtime
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def uid_of(number: int) -> str:
    return f"{number:032x}"


def pairs(number: int) -> list[tuple[str, bytes]]:
    """Samples as img2dataset leaves them, with sizes around the tar block's."""
    members: list[tuple[str, bytes]] = []
    for i in range(number):
        members.append((f"{i:012d}.jpg", bytes([i % 256]) * (500 + i % 30)))
        members.append((f"{i:012d}.json", json.dumps({"uid": uid_of(i)}).encode()))
        members.append((f"{i:012d}.txt", f"caption {i} é".encode()))
    return members


def by_webdataset(path: Path) -> list[tuple[str, dict[str, bytes]]]:
    import webdataset

    found = webdataset.DataPipeline(webdataset.SimpleShardList([str(path)]), webdataset.tarfile_to_samples())
    return [(s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")}) for s in found]


@pytest.mark.parametrize("form", FORMATS)
def test_ranges_of_the_index_hold_what_webdataset_yields(tmp_path: Path, form: int) -> None:
    members = pairs(20)
    if form != tarfile.USTAR_FORMAT:
        members += [
            (f"deep/{'long' * 40}.jpg", b"x" * 700),
            (f"deep/{'long' * 40}.json", json.dumps({"uid": uid_of(99)}).encode()),
        ]
    members += [("unïcode.JPG", b"y"), ("unïcode.cls", b"3")]
    (tmp_path / "00000000.tar").write_bytes(data := tar(members, form))
    indexed = index_shard(Folder(tmp_path), "00000000")
    expected = by_webdataset(tmp_path / "00000000.tar")
    assert indexed.damage == ""
    assert indexed.rows["key"].to_list() == [key for key, _ in expected]
    found = [parse_sample(data[o : o + n]) for o, n in indexed.rows.select("offset", "length").iter_rows()]
    assert found == [sample for _, sample in expected]
    assert [sample for _, sample in read_samples(Folder(tmp_path), indexed.rows)] == found
    uids = [json.loads(sample["json"])["uid"] if "json" in sample else None for sample in found]
    assert indexed.rows["uid"].to_list() == uids


def test_uid_is_of_the_json_else_of_the_key() -> None:
    members = [
        (f"{uid_of(1)}-3.jpg", b""),
        (f"some/folder/{uid_of(2)}.jpg", b""),
        ("a.jpg", b""),
        ("a.json", b"no json"),
        ("b.json", b'{"uid": 5}'),
        ("c.json", json.dumps({"uid": uid_of(7)}).encode()),
    ]
    rows = index_tar(io.BytesIO(tar(members)), "s").rows
    assert rows["uid"].to_list() == [uid_of(1), uid_of(2), None, None, uid_of(7)]


def test_what_is_no_sample_is_passed_over_and_a_repeated_member_begins_a_new_one() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in [("d", tarfile.DIRTYPE), ("a.jpg", b"0"), ("l", tarfile.SYMTYPE), ("a.txt", b"0"), ("README", b"0")]:
            info = tarfile.TarInfo(name)
            info.type = kind
            archive.addfile(info)
        for name in ("__meta__/x.json", "b.jpg", "b.txt", "b.jpg"):
            archive.addfile(tarfile.TarInfo(name))
    indexed = index_tar(buffer, "s")
    assert indexed.rows["key"].to_list() == ["a", "b", "b"]
    data = buffer.getvalue()
    members = [set(parse_sample(data[o : o + n])) for o, n in indexed.rows.select("offset", "length").iter_rows()]
    assert members == [{"jpg", "txt"}, {"jpg", "txt"}, {"jpg"}]


def test_writer_is_read_by_tarfile_and_by_the_walk_alike(tmp_path: Path) -> None:
    samples = [(uid_of(i), f"{uid_of(i)}-{i}", {"jpg": bytes(i * 100), "txt": b"\xc3\xa9"}) for i in range(30)]
    samples.append((uid_of(99), "k" * 150, {"jpg": b"long"}))
    path = tmp_path / "00000000.tar"
    with path.open("wb") as file:
        writer = ShardWriter(file, "00000000")
        for uid, key, members in samples:
            writer.add(uid, key, members)
        index = writer.finish()
    assert by_webdataset(path) == [(key, members) for _, key, members in samples]
    walked = index_shard(Folder(tmp_path), "00000000").whole()
    assert walked.drop("uid").equals(index.drop("uid"))
    assert walked["uid"].to_list()[:-1] == index["uid"].to_list()[:-1]
    assert path.stat().st_size % tarfile.RECORDSIZE == 0


@pytest.mark.parametrize("cut", [3, 511, 512, 700, 1023, 1024, 2560, 5000, 30 * 1024])
def test_a_truncated_shard_is_told_and_keeps_the_samples_before(cut: int) -> None:
    data = tar(pairs(20))
    whole = index_tar(io.BytesIO(data), "s").whole()
    indexed = index_tar(io.BytesIO(data[:cut]), "00000007")
    before = whole.filter(pl.col("offset") + pl.col("length") <= cut)
    assert before.height - indexed.rows.height in (0, 1)  # the last one may have had more members
    assert indexed.rows.drop("shard").equals(before.drop("shard")[: indexed.rows.height])
    with pytest.raises(DataError, match=r"00000007\.tar is damaged: it .* at byte \d+"):
        indexed.whole()


@pytest.mark.parametrize(("at", "value"), [(0, b"zz"), (124, b"x"), (148, b"77"), (257, b"!")])
def test_a_damaged_header_is_found_by_its_checksum(at: int, value: bytes) -> None:
    data = bytearray(tar(pairs(5)))
    third = index_tar(io.BytesIO(bytes(data)), "s").rows["offset"][2]
    data[third + at : third + at + len(value)] = value
    indexed = index_tar(io.BytesIO(bytes(data)), "s")
    assert indexed.rows["key"].to_list() == ["000000000000"]  # the second may have gone on
    assert f"at byte {third}" in indexed.damage


def test_index_file_round_trip_and_its_errors(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    rows = index_tar(io.BytesIO(tar(pairs(3))), "00000000").rows
    write_index(folder, "00000000", rows)
    assert read_index(folder, "00000000").equals(rows)
    with pytest.raises(DataError, match="is not there"):
        read_index(folder, "00000001")
    folder.write("index/00000002.parquet", b"PAR1 broken")
    with pytest.raises(DataError, match="is not a shard index"):
        read_index(folder, "00000002")
    with pytest.raises(DataError, match="has no shards"):
        shard_names(folder)


def test_reading_by_a_stale_index_is_an_error_not_a_sample(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    (tmp_path / "00000000.tar").write_bytes(tar(pairs(10)))
    rows = index_shard(folder, "00000000").rows
    (tmp_path / "00000000.tar").write_bytes(tar([("other.jpg", b"1" * 3000), *pairs(10)]))
    with pytest.raises(DataError, match=r"not the one its index describes.*index it again"):
        list(read_samples(folder, rows[1:]))
    (tmp_path / "00000000.tar").write_bytes(tar(pairs(2)))
    with pytest.raises(DataError, match="ends before byte"):
        list(read_samples(folder, rows))


@pytest.mark.s3
def test_shards_in_a_bucket(s3_url: str) -> None:
    folder = Folder(s3_url)
    folder.write("00000000.tar", data := tar(pairs(40)))
    rows = index_shard(folder, "00000000").whole()
    assert rows.equals(index_tar(io.BytesIO(data), "00000000").rows)
    assert [uid for uid, _ in read_samples(folder, rows[::3])] == rows["uid"].to_list()[::3]


def test_neighbouring_samples_are_read_together_and_gaps_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes and requests: samples with small gaps between them are one request, of at most about READ_AHEAD bytes."""
    folder = Folder(tmp_path)
    folder.write("00000000.tar", tar(pairs(40)))
    rows = index_shard(folder, "00000000").whole()
    asked: list[tuple[int, int]] = []
    read = Folder.read_range
    monkeypatch.setattr(
        Folder, "read_range", lambda at, name, begin, end: asked.append((begin, end)) or read(at, name, begin, end)
    )
    size = rows["length"].max()
    monkeypatch.setattr("datacomp_core.shards.GAP", size + 1)  # one sample between two may be read along, two may not
    chosen = rows[[0, 1, 3, 6, 7, 20]]
    assert [uid for uid, _ in read_samples(folder, chosen)] == chosen["uid"].to_list()
    ends = (rows["offset"] + rows["length"]).to_list()
    starts = rows["offset"].to_list()
    assert asked == [(starts[0], ends[3]), (starts[6], ends[7]), (starts[20], ends[20])]
    asked.clear()
    monkeypatch.setattr("datacomp_core.shards.READ_AHEAD", 2 * size)
    assert len(list(read_samples(folder, rows))) == 40
    assert all(end - begin <= 3 * size for begin, end in asked)
    assert [begin for begin, _ in asked[1:]] == [end for _, end in asked[:-1]]
    assert len(asked) < 40
