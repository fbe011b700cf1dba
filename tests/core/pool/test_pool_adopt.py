"""Adopting what others left: every sample is taken in, or has a reason; nothing is written until all is known to be whole."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from images_world import rows_of
from odd_tars import DAMAGED, pack, picture, sample, samples, uid_of

from datacomp_core import uid
from datacomp_core.artifacts import Pool, ShardSet
from datacomp_core.errors import DataError
from datacomp_core.pool.adopt import AdoptedPoolSpec, adopt_metadata, adopt_shards
from datacomp_core.pool.adopted_shard import TableColumns
from datacomp_core.resharding.reshard import ReshardSpec, reshard_folders
from datacomp_core.sample_members import MemberNames
from datacomp_core.shards import read_index, read_samples
from datacomp_core.store import Folder, Store


def adopt(root: Path, **spec: object) -> tuple[Pool, ShardSet, Store]:
    store = Store.open(str(root.parent / "store"))
    given = AdoptedPoolSpec.model_validate({"source": str(root), **spec})
    pool = adopt_metadata(given, store=store)
    return pool, adopt_shards(given, pool, store=store), store


def folder(root: Path, **tars: bytes) -> Path:
    root.mkdir(exist_ok=True)
    for name, data in tars.items():
        (root / f"{name}.tar").write_bytes(data)
    return root


def content_of(shards: Path) -> dict[str, dict[str, bytes]]:
    """uid -> members, of all shards, by the index."""
    here = Folder(shards)
    names = sorted(path.stem for path in shards.glob("*.tar"))
    return {one: members for name in names for one, members in read_samples(here, read_index(here, name))}


def test_keys_that_begin_anew_in_every_tar_are_other_samples(tmp_path: Path) -> None:
    """Keys from 0 in both tars, no uid, no url: the shard's name is part of what a uid stands for."""
    tars = [[(f"{n:06d}.jpg", picture(n + 10 * s)) for n in range(4)] for s in range(2)]
    captions = [[(f"{n:06d}.txt", b"same words") for n in range(4)] for _ in range(2)]
    both = [[m for pair in zip(a, b, strict=True) for m in pair] for a, b in zip(tars, captions, strict=True)]
    root = folder(tmp_path / "old", a=pack(both[0]), b=pack(both[1]))
    pool, shards, _ = adopt(root)
    assert (pool.num_samples, shards.num_samples, shards.num_unique) == (8, 8, 8)
    assert "repeated_uids" not in shards.counts
    uids = [one for name in "ab" for one in read_index(Folder(root), name)["uid"]]
    (tmp_path / "all.npy").write_bytes(uid.subset_bytes(uid.pack(pl.Series(uids))))
    account = reshard_folders(Folder(root), str(tmp_path / "all.npy"), Folder(tmp_path / "out"), ReshardSpec())
    assert (account.written, account.missing) == (8, {})
    written = [members["jpg"] for members in content_of(tmp_path / "out").values()]
    assert sorted(written) == sorted(data for tar in tars for _, data in tar)


def test_repeated_uids_are_counted(tmp_path: Path) -> None:
    root = folder(tmp_path / "old", a=pack(samples(range(4))), b=pack(samples(range(2, 6))))
    shards = adopt(root)[1]
    assert (shards.num_samples, shards.num_unique, shards.counts["repeated_uids"]) == (8, 6, 2)


def test_all_damaged_tars_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    odd = {f"t{n:02d}": made() for n, (made, _) in enumerate(DAMAGED.values())}
    root = folder(tmp_path / "old", good=pack(samples(range(4))), **odd)
    before = sorted(os.listdir(root))
    with pytest.raises(DataError, match=f"{len(odd)} of the tars in .* cannot be adopted, so nothing was written") as told:
        adopt(root)
    assert all(f"{name}.tar is damaged: " in str(told.value) for name in odd)
    pool = Pool(scale="custom", name="x", data="x", fingerprint="f" * 64, num_samples=4, num_parts=1)
    with pytest.raises(DataError, match=f"{len(odd)} of the tars"):
        adopt_shards(AdoptedPoolSpec(source=str(root)), pool, store=Store.open(str(tmp_path / "store")))
    assert sorted(os.listdir(root)) == before
    pool, shards, _ = adopt(root, damaged="leave_out")
    assert (pool.num_samples, shards.num_samples, shards.counts["damaged_tars"]) == (4, 4, len(odd))
    assert shards.num_shards == len(odd) + 1
    assert sorted(content_of(root)) == [uid_of(n) for n in range(4)]
    lost = pl.read_parquet(root / "ledger/t02.parquet")  # one sample and a piece of it were seen
    assert set(lost["reason"]) <= {"damaged_tar"}


def test_samples_without_picture_or_caption_are_counted_where_they_are_lost(tmp_path: Path) -> None:
    odd = [
        *sample(0),
        ("p.json", b"{}"),
        ("p.txt", b"no picture"),
        ("c.jpg", picture(1)),
        ("e.jpg", b""),
        ("e.txt", b"an empty picture"),
        ("j.jpg", picture(2)),
        ("j.json", b'{"caption": "in json only"}'),
        ("s.jpg", picture(3)),
        ("s.json", b"[1]"),
        ("s.txt", b""),
        ("l.jpg", picture(5)),
        ("l.txt", "caf\u00e9".encode("latin-1")),
        ("README", b"x"),
        *[
            m
            for kind in ("gif", "bmp", "avif", "tiff")
            for m in ((f"{kind}.{kind}", picture(4, kind.upper())), (f"{kind}.txt", b"t"))
        ],
    ]
    root = folder(tmp_path / "old", a=pack(odd))
    pool, shards, _ = adopt(root)
    assert (pool.num_samples, shards.num_samples) == (6, 6)
    reasons = {name: count for name, count in shards.counts.items() if not name.startswith("members ")}
    expected = {"no_picture": 1, "empty_picture": 1, "no_caption": 2, "not_utf8_text": 1}
    assert reasons == {"candidates": 11, "arrived": 6, **expected, "outside_samples": 1}
    assert shards.counts["members jpg + json (no object) + txt (empty)"] == 1
    assert sum(count for name, count in shards.counts.items() if name.startswith("members ")) == 11
    found = content_of(root)
    assert len(found) == 6
    assert all(set(members) & {"jpg", "gif", "bmp", "avif", "tiff"} and "txt" in members for members in found.values())


@pytest.mark.parametrize(
    ("names", "members"),
    [
        ({"picture": "input.jpg", "caption": "outputs.txt"}, [("input.jpg", "P"), ("outputs.txt", "C"), ("json", "{}")]),
        ({"caption": "json:caption"}, [("jpg", "P"), ("json", '{"caption": "C"}')]),
        ({"caption": "json:a.b"}, [("png", "P"), ("json", '{"a": {"b": "C"}}')]),
        ({"cut": "last_dot"}, [("jpg", "P"), ("txt", "C")]),
        ({"picture": ".IMG"}, [("img", "P"), ("txt", "C")]),
    ],
)
def test_a_mapping_brings_in_sets_with_other_names(tmp_path: Path, names: dict[str, str], members: list[tuple[str, str]]) -> None:
    """And they are resharded under the usual names."""

    def contents(number: int) -> list[tuple[str, bytes]]:
        found = {"P": picture(number), "C": f"caption {number}".encode()}
        return [(name, found.get(value) or value.replace("C", f"caption {number}").encode()) for name, value in members]

    stem = "v1.0-{}" if "cut" in names else "{:06d}"
    tar = pack([(f"{stem.format(n)}.{name}", data) for n in range(5) for name, data in contents(n)])
    root = folder(tmp_path / "old", a=tar)
    with pytest.raises(
        DataError, match=r"None of the \d samples in .* has both an image and a caption. Their members are .*--picture"
    ):
        adopt(root)
    assert os.listdir(root) == ["a.tar"]
    pool, shards, store = adopt(root, members=MemberNames.model_validate(names))
    assert (pool.num_samples, shards.num_samples, shards.counts["arrived"]) == (5, 5, 5)
    metadata = pl.read_parquet(store.folder(pool).path / "metadata/a.parquet")
    assert metadata["text"].to_list() == [f"caption {n}" for n in range(5)]
    expected = [(picture(n), f"caption {n}".encode()) for n in range(5)]
    (tmp_path / "all.npy").write_bytes(uid.subset_bytes(uid.pack(metadata["uid"])))
    reshard_folders(Folder(root), str(tmp_path / "all.npy"), Folder(tmp_path / "out"), ReshardSpec())
    for place in (root, tmp_path / "out"):
        found = content_of(place)
        pictures = [next(found[one][name] for name in ("jpg", "png", "img") if name in found[one]) for one in metadata["uid"]]
        assert list(zip(pictures, [found[one]["txt"] for one in metadata["uid"]], strict=True)) == expected


def test_a_tar_that_was_written_anew_is_indexed_anew_by_a_raised_edition(tmp_path: Path) -> None:
    keys = [f"{n:09d}" for n in range(4)]
    plain = [
        [m for m in sample(n, key=key, uids=False) if not m[0].endswith("json")] for key, n in zip(keys, range(4), strict=True)
    ]
    turned = [[(name.replace(keys[n], keys[n ^ 1]), data) for name, data in plain[n]] for n in (1, 0, 3, 2)]
    root = folder(tmp_path / "old", a=pack([m for one in plain for m in one]))
    pool, shards, store = adopt(root)
    (root / "a.tar").write_bytes(pack([m for one in turned for m in one]))  # the same keys in the same places
    with pytest.raises(DataError, match="was changed after it was indexed|holds sample"):
        content_of(root)
    uids = read_metadata(store, pool)["uid"]
    (tmp_path / "s.npy").write_bytes(uid.subset_bytes(uid.pack(uids[:2])))
    with pytest.raises(DataError, match="was changed after it was indexed"):
        reshard_folders(Folder(root), str(tmp_path / "s.npy"), Folder(tmp_path / "out"), ReshardSpec())
    assert not list((tmp_path / "out").glob("*.tar"))
    pool, again, store = adopt(root, edition=2)
    texts = dict(read_metadata(store, pool).select("uid", "text").iter_rows())
    assert {one: members["txt"].decode() for one, members in content_of(root).items()} == texts
    assert again.content != shards.content


def test_a_copied_tar_is_the_same_also_where_its_bytes_do_not_state_the_uids(tmp_path: Path) -> None:
    members = [m for n in range(4) for m in sample(n, key=f"{n:09d}", uids=False) if not m[0].endswith("json")]
    root = folder(tmp_path / "old", a=pack(members))
    before = adopt(root)[:2]
    kept = content_of(root)
    data = bytearray((root / "a.tar").read_bytes())
    for time in (5, 6):
        (root / "a.tar").write_bytes(data)
        os.utime(root / "a.tar", (time, time))
        assert adopt(root)[:2] == before
        assert content_of(root) == kept
    data[600] ^= 1  # within the first picture
    (root / "a.tar").write_bytes(data)
    os.utime(root / "a.tar", (7, 7))
    with pytest.raises(DataError, match="was changed after it was indexed.*--refresh"):
        content_of(root)


def test_a_tar_that_came_later_is_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "old", a=pack(samples(range(3))))
    adopt(root)
    folder(root, b=pack(samples(range(3, 5))))
    with pytest.raises(DataError, match=r"changed since: .*/old now has 2 tars instead of 1 \(new: b\.tar\).*edition: 2"):
        adopt(root)
    assert adopt(root, edition=2)[1].num_samples == 5
    with pytest.raises(DataError, match=r"changed since: .*/old now has 2 tars instead of 1"):
        adopt(root)


def read_metadata(store: Store, pool: Pool) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(path) for path in sorted((store.folder(pool).path / "metadata").iterdir())])


def table(path: Path, **columns: Sequence[object]) -> None:
    pl.DataFrame(columns).write_parquet(path)


def test_a_table_that_promises_a_sample_the_tar_does_not_have_is_damage(tmp_path: Path) -> None:
    root = folder(tmp_path / "old", a=pack(samples(range(3))), b=pack(samples(range(3, 6))))
    keys = [f"{n:09d}" for n in range(4)]
    table(root / "a.parquet", key=keys, status=["success"] * 4, error_message=[None] * 4)
    with pytest.raises(DataError, match=r"a\.tar is damaged: the table next to it says that '000000003' arrived \(1 such keys\)"):
        adopt(root)
    shards = adopt(root, damaged="leave_out")[1]
    counts = {"arrived": 3, "damaged_tar": 4, "candidates": 7, "damaged_tars": 1}
    assert (shards.num_samples, shards.counts) == (3, counts)


def test_tables_of_other_tools_are_counted_or_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "old", a=pack(samples(range(3))))
    keys = [f"{n:09d}" for n in range(3)]
    table(root / "a.parquet", id=[*keys[:2], "x"], caption=["a", "b", "c"], score=[0.1, 0.2, 0.3])
    with pytest.raises(
        DataError, match=r"a\.parquet has no column 'key'.*it has id, caption, score: give its key column.*--column key="
    ):
        adopt(root)
    shards = adopt(root, columns=TableColumns(key="id"))[1]
    assert shards.counts == {"candidates": 3, "arrived": 3, "in_tables": 2, "only_in_tables": 1}
    root = folder(tmp_path / "other", a=pack(samples(range(3))))
    table(root / "a.parquet", key=["x", "y"], status=["failed", "failed"], error_message=["", ""])
    with pytest.raises(DataError, match=r"a\.parquet has no key in common with a\.tar"):
        adopt(root)
    root = folder(tmp_path / "third", a=pack(samples(range(3))))
    table(root / "a.parquet", k=[keys[0], keys[0], "n"], state=["success", "success", "gone"], why=[None, None, "HTTP Error 404"])
    shards = adopt(root, columns=TableColumns(key="k", status="state", error_message="why"))[1]
    told = {"repeated_table_rows": 1, "not_in_tables": 2}
    assert shards.counts == {"candidates": 4, "arrived": 3, "http_4xx": 1, **told}
    book = pl.read_parquet(root / "ledger/a.parquet")
    assert dict(book.select("key", "uid").iter_rows()) == {**{key: uid_of(n) for n, key in enumerate(keys)}, "n": None}


def test_of_repeated_keys_the_first_counts(tmp_path: Path) -> None:
    """Of a table's rows as of a tar's samples, which stay samples of their own."""
    again = [(name.replace("000000001", "000000000"), data) for name, data in sample(1)]
    root = folder(tmp_path / "old", a=pack([*sample(0), *sample(2), *again]))
    why = [None, None, "HTTP Error 404", "timed out"]
    keys = [f"{0:09d}", f"{2:09d}", "n", "n"]
    table(root / "a.parquet", key=keys, status=["success", "success", "failed", "failed"], error_message=why)
    shards = adopt(root)[1]
    assert shards.counts["http_4xx"] == 1
    book = pl.read_parquet(root / "ledger/a.parquet")
    assert book.select("key", "uid").rows() == [(keys[0], uid_of(0)), (keys[1], uid_of(2)), ("n", None), (keys[0], uid_of(1))]


def test_all_tables_that_cannot_be_used_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    tars = {name: pack(samples(range(3 * n, 3 * n + 3))) for n, name in enumerate("abcdefg")}
    root = folder(tmp_path / "old", **tars, h=b"no tar")
    (root / "a.parquet").write_bytes(b"PAR1nothingPAR1")
    (root / "b.parquet").write_bytes(b"")
    table(root / "c.parquet", key=[["x"]])
    table(root / "d.parquet", key=[f"{n:09d}" for n in range(9, 12)], url=[b"\xff"] * 3)
    table(root / "e.parquet", key=["x"])
    success = {"status": ["success"] * 3, "error_message": [None] * 3}
    table(root / "f.parquet", key=[f"{n:09d}" for n in range(15, 18)], uid=[uid_of(n) for n in (15, 99, 17)], **success)
    table(root / "g.parquet", key=[f"{n:09d}" for n in range(18, 21)], uid=[uid_of(18).upper(), None, "?"], **success)
    faults = {
        "a": "cannot be read as parquet",
        "b": "cannot be read as parquet",
        "c": r"column 'key' has the type List\(String\)",
        "d": "column 'url' has the type Binary",
        "e": "no key in common",
        "f": f"has the uid {uid_of(99)} for the key '000000016', but f.tar has {uid_of(16)} \\(1 of 3",
    }
    with pytest.raises(DataError) as problem:
        adopt(root)
    for name, words in faults.items():
        assert re.search(rf"{name}\.parquet:? {words}|{name}\.parquet has {words}", str(problem.value)), words
    assert "6 of the tables next to the tars" in str(problem.value)
    assert "h.tar is damaged" in str(problem.value)
    assert "g.parquet" not in str(problem.value)
    with pytest.raises(DataError, match="6 of the tables"):
        adopt(root, damaged="leave_out")  # a table that is wrong says nothing of its tar: nothing is left out for it
    assert not (root / "index").exists()
    for name in faults:
        (root / f"{name}.parquet").unlink()
    assert adopt(root, damaged="leave_out")[1].num_samples == 21


def test_metadata_whose_uids_are_numbers_is_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "old", a=pack(samples(range(3))))
    (root / "metadata").mkdir()
    table(root / "metadata/a.parquet", uid=[1, 2, 3], url=["u"] * 3, text=["t"] * 3)
    with pytest.raises(DataError, match=r"metadata/a\.parquet has uids of the type Int64"):
        adopt(root)


def test_tars_without_a_sample_are_counted(tmp_path: Path) -> None:
    root = folder(tmp_path / "old", a=pack(samples(range(3))), b=bytes(10_240))
    assert adopt(root)[1].counts == {"candidates": 3, "arrived": 3, "empty_tars": 1}
    with pytest.raises(DataError, match=r"c\.tar is damaged: the members of sample '000000000' are not adjacent"):
        adopt(folder(tmp_path / "pieces", c=pack([*sample(0)[:2], *sample(1), sample(0)[2]])), damaged="leave_out")


def test_metadata_of_another_pool_is_refused_and_a_part_is_counted(tmp_path: Path) -> None:
    for name in ("other", "part"):
        folder(tmp_path / name)
        folder(tmp_path / name / "shards", a=pack(samples(range(4))))
        (tmp_path / name / "metadata").mkdir()
    rows_of([f"http://h/{n}" for n in range(4)]).write_parquet(tmp_path / "other/metadata/0.parquet")
    with pytest.raises(DataError, match=r"metadata has none of the 4 samples in .*shards: it belongs to another pool"):
        adopt(tmp_path / "other")
    assert not (tmp_path / "other/shards/index").exists()
    uids = [uid_of(n) for n in (0, 1, 7)]
    rows_of(["a", "b", "c"], uid=uids).write_parquet(tmp_path / "part/metadata/0.parquet")
    assert adopt(tmp_path / "part")[1].counts["not_in_metadata"] == 2


def test_tars_that_would_be_left_out_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "old", a=pack(samples(range(2))))
    folder(root / "more", b=pack(samples(range(2, 4))))
    with pytest.raises(DataError, match=r"more/b\.tar is not directly in"):
        adopt(root)


def test_odd_json_makes_no_odd_metadata(tmp_path: Path) -> None:
    about = {"url": "http://h/\ud800", "original_width": "wide", "original_height": 1 << 70, "sha256": 5, "uid": "AB" * 16}
    odd = [("a.jpg", picture(1)), ("a.json", json.dumps(about).encode()), ("a.txt", b"\xef\xbf\xbe words")]
    odd += [("b.jpg", picture(2)), ("b.json", b'{"uid": 7, "url": ["x"]}'), ("b.txt", b"two")]
    root = folder(tmp_path / "old", a=pack(odd))
    pool, shards, store = adopt(root)
    rows = read_metadata(store, pool)
    assert rows["uid"].to_list()[0] == "ab" * 16
    assert rows["url"].to_list() == ["http://h/?", "a/b"]
    assert rows["original_width"].to_list() == rows["sha256"].to_list() == [None, None]
    assert set(content_of(root)) == set(rows["uid"])
    assert shards.num_unique == 2


@pytest.mark.s3
def test_in_a_bucket_too(tmp_path: Path, s3_url: str) -> None:
    bucket, store = Folder(f"{s3_url}/old"), Store.open(f"{s3_url}/store")
    for name, numbers in (("a", range(3)), ("b", range(3, 6))):
        bucket.write(f"{name}.tar", pack(samples(numbers, uids=False)))
    spec = AdoptedPoolSpec(source=bucket.url)
    shards = adopt_shards(spec, adopt_metadata(spec, store=store), store=store)
    assert (shards.num_samples, shards.num_unique) == (6, 6)
    bucket.write("a.tar", pack([m for n in (1, 0, 2) for m in sample(n, uids=False)]))
    with pytest.raises(DataError, match="was changed after it was indexed"):
        read_index(bucket, "a")
    assert read_index(bucket, "b").height == 3


def test_what_is_embedded_and_trained_is_read_by_the_mapping(tmp_path: Path) -> None:
    from datacomp_core.training.samples import SampleReader, ShardSource

    root = folder(tmp_path / "old", a=pack([(f"{n}.{e}", d) for n in range(3) for e, d in (("x.jpg", picture(n)), ("y", b"w"))]))
    adopt(root, members=MemberNames(picture="x.jpg", caption="y"))
    source = ShardSource(url=str(root), index=str(root), shards=(("a", 3),))
    reader = SampleReader((source,), lambda texts: [[len(texts[0])]], cache=str(tmp_path), cache_bytes=0)
    assert np.asarray(reader(0, 1).image).shape == (24, 32, 3)
    assert reader(0, 2).tokens.tolist() == [1]
    assert io.BytesIO(picture(1)).read(2) == b"\xff\xd8"


def test_the_spec_can_be_taken_apart_as_prefect_does() -> None:
    """A field called `keys` would make a mapping of the model: no flow could be given it."""
    from prefect.utilities.collections import visit_collection

    spec = AdoptedPoolSpec(source="x", members=MemberNames(picture="input.jpg"))
    assert visit_collection(spec, lambda part: part, return_data=True) == spec


def test_metadata_of_equal_size_and_another_content_is_told(tmp_path: Path) -> None:
    """Also where an index of another writer lies beside the tars, which the first adoption replaces."""
    root = tmp_path / "old"
    (root / "metadata").mkdir(parents=True)
    folder(root / "shards", a=pack(samples(range(3))))
    path = root / "metadata/a.parquet"
    table = pl.DataFrame({"uid": [uid_of(n) for n in range(3)], "url": ["u"] * 3, "text": ["a dog"] * 3})
    table.write_parquet(path, compression="uncompressed", statistics=False)
    Folder(root / "shards/index").write("a.parquet", b"of somebody else")
    first = adopt(root)
    assert adopt(root)[:2] == first[:2], "nothing has changed"
    path.write_bytes(path.read_bytes().replace(b"a dog", b"a cat"))
    later = path.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(later, later))
    with pytest.raises(DataError, match=r"changed since: .*with different content.*edition: 2"):
        adopt(root)
    again = adopt(root, edition=2)
    assert again[0].content != first[0].content
    (root / "shards/a.tar").write_bytes(pack(samples(range(2))))
    third = adopt(root, edition=3)
    assert (third[1].num_samples, adopt(root, edition=3)[:2]) == (2, third[:2])
