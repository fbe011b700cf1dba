"""The one tar reader against odd and hostile archives: read as tarfile reads them, or told; never fewer or other samples."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from odd_tars import DAMAGED, READ, pack, picture, sample, samples, uid_of

from datacomp_core.errors import DataError
from datacomp_core.sample_members import MemberNames
from datacomp_core.shards import (
    index_shard,
    index_tar,
    parse_sample,
    read_index,
    read_samples,
    shard_names,
    tar_mark,
    write_index,
)
from datacomp_core.store import Folder
from datacomp_core.tar import TarDamageError, printable


@pytest.mark.parametrize("name", DAMAGED)
def test_what_cannot_be_given_whole_is_damage_that_names_byte_and_cure(name: str) -> None:
    made, said = DAMAGED[name]
    indexed = index_tar(io.BytesIO(made()), "00000007")
    assert said in indexed.damage
    assert "at byte" in indexed.damage
    if "pictures" in name or "kind" in name or "late" in name:
        assert indexed.rows.is_empty()  # pieces are no samples
    with pytest.raises(DataError, match=r"00000007\.tar is damaged: .* at byte \d+; \w+"):
        indexed.whole()


@pytest.mark.parametrize("name", READ)
def test_what_tarfile_reads_is_read(name: str) -> None:
    made, expected = READ[name]
    data = made()
    indexed = index_tar(io.BytesIO(data), "s")
    assert (indexed.damage, indexed.rows.height) == ("", expected)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        theirs = [
            (printable(info.name.rpartition(".")[0]), archive.extractfile(info).read())  # type: ignore[union-attr]
            for info in archive
            if info.isreg() and "." in info.name
        ]
    ours = [
        (key, content)
        for key, offset, length in indexed.rows.select("key", "offset", "length").iter_rows()
        for content in parse_sample(data[offset : offset + length], key=key).values()
    ]
    assert ours == theirs


def test_a_sample_is_known_again_by_its_uid_or_its_key() -> None:
    data = pack(sample(1))
    indexed = index_tar(io.BytesIO(data), "s").rows
    piece = data[indexed["offset"][0] : indexed["offset"][0] + indexed["length"][0]]
    assert set(parse_sample(piece, uid=uid_of(1), key="another")) == {"jpg", "json", "txt"}  # a view gives keys of its own
    with pytest.raises(TarDamageError, match=f"it contains sample {uid_of(1)} instead of {uid_of(2)}"):
        parse_sample(piece, uid=uid_of(2), key="000000001")
    plain = pack([("a.jpg", b"1"), ("a.txt", b"2")])[: 4 * 512]
    assert set(parse_sample(plain, uid=uid_of(5), key="a")) == {"jpg", "txt"}
    assert set(parse_sample(plain, uid=uid_of(5), key=f"{uid_of(5)}-1")) == {"jpg", "txt"}
    with pytest.raises(TarDamageError, match="it contains sample 'a' instead of 'b'"):
        parse_sample(plain, uid=uid_of(5), key="b")
    with pytest.raises(TarDamageError, match="it contains no sample"):
        parse_sample(b"", uid=uid_of(5), key="b")
    with pytest.raises(TarDamageError, match="zeros where a file header should be"):
        parse_sample(bytes(1024), uid=uid_of(5), key="b")
    two = pack([("a.jpg", b"1"), ("b.jpg", b"2")])[: 4 * 512]
    with pytest.raises(TarDamageError, match="it contains samples 'a' and 'b'"):
        parse_sample(two)


def test_a_tar_that_changed_places_is_never_read_by_its_old_index(tmp_path: Path) -> None:
    """Same sizes, another order: the index says where, the bytes say who."""
    folder, path = Folder(tmp_path), tmp_path / "0.tar"
    path.write_bytes(pack(samples(range(4))))
    write_index(folder, "0", index_shard(folder, "0").whole())  # ours: no mark
    path.write_bytes(pack([m for n in (1, 0, 3, 2) for m in sample(n)]))
    with pytest.raises(DataError, match=r"0\.tar is not the one .*: it contains sample 0{31}1 instead of 0{32}"):
        list(read_samples(folder, read_index(folder, "0")))


def test_a_marked_index_is_compared_with_its_tar_before_any_read(tmp_path: Path) -> None:
    """Without uids and with equal keys only the content tells; a copy with another time is the same tar."""
    folder, path = Folder(tmp_path), tmp_path / "0.tar"
    path.write_bytes(pack(samples(range(4))))
    write_index(folder, "0", rows := index_shard(folder, "0").whole(), tar_mark(folder, "0"))
    copy = path.read_bytes()
    path.unlink()
    path.write_bytes(copy)
    assert read_index(folder, "0").equals(rows)
    keys = [f"{n:09d}" for n in range(4)]
    path.write_bytes(pack([m for key, n in zip(keys, (1, 0, 3, 2), strict=True) for m in sample(n, key=key)]))
    with pytest.raises(DataError, match=r"0\.tar was changed after it was indexed \(4 of its 4 samples.*--edition"):
        read_index(folder, "0")


def test_other_names_of_members_are_read_under_the_usual_ones() -> None:
    names = MemberNames(picture="input.jpg", caption="json:about.title")
    data = pack([("a.input.jpg", picture(1)), ("a.json", b'{"about": {"title": "words"}}'), ("a.outputs.txt", b"other")])
    rows = index_tar(io.BytesIO(data), "s", names).rows
    members = parse_sample(data[: rows["length"][0]], names, key="a")
    assert (members["jpg"], members["txt"], members["outputs.txt"]) == (picture(1), b"words", b"other")
    dotted = pack([m for n in range(2) for m in sample(n, key=f"v1.2.{n}")])
    assert index_tar(io.BytesIO(dotted), "s").rows.height == 1  # webdataset's cut: one sample of six members
    assert index_tar(io.BytesIO(dotted), "s", MemberNames(cut="last_dot")).rows["key"].to_list() == ["v1.2.0", "v1.2.1"]


def test_compressed_tars_beside_plain_ones_are_never_left_out_unseen(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(pack(samples(range(2))))
    (tmp_path / "._0.tar").write_bytes(b"what macOS leaves")
    assert shard_names(Folder(tmp_path)) == ["0"]
    (tmp_path / "1.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"1\.tar\.gz is not a plain \.tar"):
        shard_names(Folder(tmp_path))


def test_a_checksum_over_signed_bytes_is_read_as_tarfile_reads_it() -> None:
    """Some old tars have it; it differs where a name has bytes over 127."""
    data = bytearray(pack([("é.jpg", picture(0)), ("é.txt", b"a caption")]))
    at = 0
    while at < len(data) and data[at]:
        block = data[at : at + 512]
        signed = sum(byte - 256 if byte > 127 else byte for byte in block[:148] + block[156:]) + 8 * ord(" ")
        data[at + 148 : at + 156] = f"{signed:06o}\0 ".encode()
        at += 512 + -(-int(block[124:135], 8) // 512) * 512
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
        assert archive.getnames() == ["é.jpg", "é.txt"]
    indexed = index_tar(io.BytesIO(bytes(data)), "00000007")
    assert indexed.damage == ""
    assert indexed.rows["key"].to_list() == ["é"]
    data[148:156] = b"000001\0 "
    assert "checksum is wrong" in index_tar(io.BytesIO(bytes(data)), "00000007").damage


def test_a_name_in_two_fields_of_a_header_is_joined_by_a_slash() -> None:
    """ustar splits names over 100 bytes into prefix and name."""
    folder = "/".join(["long" * 10] * 3)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for extension, content in (("jpg", picture(0)), ("txt", b"a caption")):
            info = tarfile.TarInfo(f"{folder}/000000001.{extension}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert buffer.getvalue()[345:350] == b"longl"
    assert index_tar(io.BytesIO(buffer.getvalue()), "00000007").rows["key"].to_list() == [f"{folder}/000000001"]
