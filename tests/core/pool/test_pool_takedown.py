"""Takedowns: whatever a killed one left, the same command finishes; every line is answered; what must stay stays."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from images_world import LOOPBACK, rows_of, web
from odd_tars import add, pack, picture, sample, samples, uid_of

from datacomp_core import uid
from datacomp_core.artifacts import Pool, ShardSet, Subset
from datacomp_core.errors import DataError, StoreError
from datacomp_core.pool.adopt import AdoptedPoolSpec, adopt_metadata, adopt_shards
from datacomp_core.pool.amend import begin
from datacomp_core.pool.byod import ByodPoolSpec, Columns, import_pool
from datacomp_core.pool.download_images import ImageSpec, download_images, images_of
from datacomp_core.pool.overlap import OverlapSpec, intersect
from datacomp_core.pool.retry import retry_images
from datacomp_core.pool.takedown import TakedownResult, take_down_list
from datacomp_core.pool.takedown_requests import normal_url, uid_in_line
from datacomp_core.pool.takedown_unpublished import AT_WORK
from datacomp_core.progress import NoProgress
from datacomp_core.resharding.reshard import ReshardSpec, reshard
from datacomp_core.resharding.view import view
from datacomp_core.shards import read_index, read_samples, tars_of
from datacomp_core.store import Folder, Store
from datacomp_core.store.attempt import attempt


class Killed(BaseException):
    """Nothing of ours catches it."""


def adopted(store: Store, root: Folder, name: str, *, uids: bool, readme: bool = False) -> ShardSet:
    """Two tars of four samples each, with img2dataset's tables beside them; one candidate of each never arrived."""
    for tar in range(2):
        numbers = range(4 * tar, 4 * tar + 4)
        data = pack([*([("README", b"read me")] if readme else []), *samples(numbers, uids=uids)])
        root.write(f"{tar:05d}.tar", data)
        keys = [f"{n:09d}" for n in [*numbers, 90 + tar]]
        told = {"key": keys, "status": ["success"] * 4 + ["failed_to_download"], "error_message": [None] * 4 + ["HTTP Error 404"]}
        more = {"url": [f"http://h/{int(key):04d}.jpg" for key in keys]} | (
            {"uid": [uid_of(int(k)) for k in keys]} if uids else {}
        )
        buffer = io.BytesIO()
        pl.DataFrame(told | more).write_parquet(buffer)
        root.write(f"{tar:05d}.parquet", buffer.getvalue())
    spec = AdoptedPoolSpec(source=root.url, name=name)
    return adopt_shards(spec, adopt_metadata(spec, store=store), store=store)


def build(base: str) -> Store:
    """A store with two adopted sets (one without uids), a reshard of one and a view of the other, and the subsets for them."""
    store = Store.open(f"{base}/store")
    plain = adopted(store, Folder(f"{base}/with"), "with", uids=True, readme=True)
    bare = adopted(store, Folder(f"{base}/without"), "without", uids=False)
    subset = intersect(OverlapSpec(name="all"), plain, plain, store=store)
    reshard(ReshardSpec(samples_per_shard=3), subset, plain, store=store)
    view(ReshardSpec(samples_per_shard=5), intersect(OverlapSpec(name="bare"), bare, bare, store=store), bare, store=store)
    return store


def take(store: Store, scratch: Path, *lines: str) -> tuple[TakedownResult, dict[str, str]]:
    scratch.mkdir(exist_ok=True)
    (scratch / "list.txt").write_text("\n".join(lines))
    taken, answers = take_down_list(store, scratch / "list.txt")
    return taken, dict(answers.select("request", "answer").iter_rows())


def state(store: Store) -> dict[str, Any]:
    """All that a takedown is to leave, read by tarfile and polars alone; times and how often it was tried are nobody's."""
    found: dict[str, Any] = {}
    for record in store.records():
        found[record.address] = (record.artifact["counts"], record.artifact.get("num_samples"), record.fingerprint)
        assert store.missing(record) == ""
        marks = store.home(record.address)
        found[f"{record.address} mark"] = marks.read("_takedown.npy") if marks.exists("_takedown.npy") else None
        if record.kind != "shards":
            continue
        shards = store.artifact(ShardSet, record)
        folder = store.folder(shards)
        for name in folder.files():
            if name.endswith(".tar"):
                with tarfile.open(fileobj=io.BytesIO(folder.read(name))) as archive:
                    found[folder.at(name)] = [(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
            elif name.startswith("ledger/"):
                found[folder.at(name)] = pl.read_parquet(io.BytesIO(folder.read(name))).to_dicts()
            elif name.startswith("index/"):
                rows = read_index(folder, name[6:-8])
                found[folder.at(name)] = rows.to_dicts()
                for (_,), some in rows.sort("shard", "offset").group_by("shard", maintain_order=True):
                    assert all(set(members) >= {"jpg", "txt"} for _, members in read_samples(tars_of(store, shards), some))
            else:
                found[folder.at(name)] = name
    return found


OPERATIONS = ("write", "create", "remove", "put")


@contextmanager
def killed_at(turn: int, when: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The `turn`-th operation that changes a file is the last one, done (`after`) or not (`before`)."""
    done: list[str] = []

    def counted(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def method(folder: Folder, *given: Any, **options: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():  # a lease that is renewed: when, is a matter of time
                return original(folder, *given, **options)
            done.append(f"{name} {folder.url}/{given[0] if given else ''}")
            if len(done) == turn and when == "before":
                raise Killed
            made = original(folder, *given, **options)
            if len(done) == turn:
                raise Killed
            return made

        return method

    def writing(folder: Folder, name: str) -> Any:
        @contextmanager
        def inner() -> Iterator[Path]:
            with original_writing(folder, name) as path:
                yield path
                done.append(f"writing {folder.url}/{name}")
                mine = len(done)  # the end of the block may be an upload, which counts too
                if mine == turn and when == "before":
                    raise Killed
            if mine == turn:
                raise Killed

        return inner()

    original_writing = Folder.writing
    with monkeypatch.context() as patch:
        for name in OPERATIONS:
            patch.setattr(Folder, name, counted(name, getattr(Folder, name)))
        patch.setattr(Folder, "writing", writing)
        yield done


LINES = (uid_of(1), "HTTP://H:80/0003.jpg#x", "http://h/0006.jpg", uid_of(90))


def kill_everywhere(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    turns: Callable[[int], list[int]],
    whens: tuple[str, ...] = ("before", "after"),
    lines: tuple[str, ...] = (),
) -> None:
    """Kill the takedown at some operations, run it again, and compare with one that nobody disturbed.

    Without `lines` the store of `build` is made, and LINES are asked; with them it lies there.
    """
    base, pristine = tmp_path / "base", tmp_path / "pristine"
    if not lines:
        build(str(base))
    lines = lines or LINES
    shutil.copytree(base, pristine, symlinks=True)

    def restore() -> Store:
        shutil.rmtree(base)
        shutil.copytree(pristine, base, symlinks=True)
        return Store.open(str(base / "store"))

    store = restore()
    with killed_at(0, "", monkeypatch) as done:
        taken, answers = take(store, tmp_path / "lists", *lines)
    assert taken.not_found == 0, answers
    expected, number = state(store), len(done)
    assert number > 20
    for turn in turns(number):
        for when in whens:
            store = restore()
            with pytest.raises(Killed), killed_at(turn, when, monkeypatch) as done:
                take(store, tmp_path / "lists", *lines)
            (store.root / "_changes").remove()  # the lease of a process that is dead
            again, answers = take(Store.open(str(base / "store")), tmp_path / "lists", *lines)
            assert (again.not_found, again.unread) == (0, {}), (done[-1], when, answers)
            assert state(store) == expected, (done[-1], when)
            assert not [path for path in base.rglob("*") if "removing" in path.parts and path.is_file()]


def test_a_takedown_that_was_killed_is_finished_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_everywhere(tmp_path, monkeypatch, lambda number: [number // 2], ("after",))


@pytest.mark.slow
def test_a_takedown_that_was_killed_at_some_places_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_everywhere(tmp_path, monkeypatch, lambda number: [int(n) for n in np.random.default_rng(7).integers(5, number, 4)])


@pytest.mark.slow
def test_a_takedown_that_was_killed_anywhere_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kill_everywhere(tmp_path, monkeypatch, lambda number: list(range(1, number + 1)))


def downloaded(base: Path) -> tuple[str, ...]:
    """A store with a download of ours, a reshard and a view of it; what is to be taken down, in all forms."""
    store = Store.open(str(base / "store"))
    with web() as (url, _):
        urls = [f"{url}/{'status/404' if n % 5 == 4 else 'ok/' + str(n)}.jpg" for n in range(12)]
        (base / "tables").mkdir(parents=True)
        rows_of(urls).select("url", "text", "uid").write_parquet(base / "tables/all.parquet")
        columns = Columns(url="url", text="text", uid="uid")
        pool = import_pool(ByodPoolSpec(source=str(base / "tables"), name="web", columns=columns), store=store)
        spec = ImageSpec(image_size=64, samples_per_shard=4)
        how = {"workers": 1, "threads": 2, "open_networks": LOOPBACK}
        shards = download_images(spec, pool, store=store, **how)
    everything = intersect(OverlapSpec(name="all"), shards, shards, store=store)
    reshard(ReshardSpec(samples_per_shard=3), everything, shards, store=store)
    view(ReshardSpec(samples_per_shard=5), everything, shards, store=store)
    uids = rows_of(urls)["uid"].to_list()
    return uids[1].upper(), urls[8].replace("http://", "HTTP://") + "#x", urls[2], uids[4], f"0x{uids[11]}"


@pytest.mark.slow
@pytest.mark.parametrize("places", ["some", "all"])
def test_a_takedown_from_a_download_of_ours_that_was_killed_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: str
) -> None:
    lines = downloaded(tmp_path / "base")
    some = np.random.default_rng(11)
    kill_everywhere(
        tmp_path,
        monkeypatch,
        lambda number: list(range(1, number + 1)) if places == "all" else [int(n) for n in some.integers(5, number, 4)],
        lines=lines,
    )


def test_every_line_is_answered(tmp_path: Path) -> None:
    store = build(str(tmp_path))
    before = state(store)
    lines = [
        "\ufeff" + uid_of(1).upper(),
        "0x2",
        "00000000-0000-0000-0000-000000000003",
        uid_of(90).upper(),
        uid_of(77),
        "HTTP://H:80/0005.jpg#top",
        "http://h/0007.jpg",
        "http://h/none.jpg",
        "cat.jpg",
        "",
        "# of a letter",
    ]
    taken, answers = take(store, tmp_path / "lists", *lines)
    plain = next(address for address in taken.removed if "/with--" in address)
    assert answers[uid_of(1).upper()].startswith("removed from shards/")
    assert all(answers[line].startswith("removed from ") for line in (lines[1], lines[2], lines[5], lines[6]))
    assert answers[uid_of(90).upper()].startswith("known, and not downloaded")
    assert (answers[uid_of(77)], answers["http://h/none.jpg"]) == ("not found", "not found")
    assert answers["cat.jpg"] == "not found: neither a uid (32 hex digits) nor a url"
    assert (taken.not_found, taken.unread, len(answers)) == (3, {}, 9)
    assert taken.removed[plain] == 5
    again, answers = take(store, tmp_path / "lists", *lines)
    assert (again.removed, again.not_found) == ({}, 3)
    assert answers[lines[1]] == "removed before"
    after = state(store)
    tar = after[f"{tmp_path}/with/00000.tar"]
    assert [name for name, _ in tar] == ["README", *(name for name, _ in sample(0))]
    assert [content for _, content in tar[1:]] == [content for _, content in sample(0)]
    kept = {one for name in ("00000", "00001") for one in read_index(Folder(tmp_path / "with"), name)["uid"]}
    assert kept == {uid_of(n) for n in (0, 4, 6)}
    left = [(place, content) for place in before if place.endswith(".tar") for _, content in after[place]]
    assert not [place for place, content in left if content == picture(5)]  # by its url, in both sets
    assert {place for place, content in left if content == picture(2)} == {f"{tmp_path}/without/00000.tar"}  # of another uid
    books = [row for place, rows in after.items() if "/with/ledger/" in place for row in rows]
    assert {row["uid"]: row["reason"] for row in books}[uid_of(90)] == "taken_down"  # no retry brings it


def test_a_folder_that_is_gone_does_not_keep_the_rest(tmp_path: Path) -> None:
    store = build(str(tmp_path))
    record = next(record for record in store.records("pools") if "/without--" in record.address)
    shutil.rmtree(store.root.path / str(record.artifact["data"]) / "metadata")
    shutil.rmtree(tmp_path / "without")
    taken, answers = take(store, tmp_path / "lists", "http://h/0003.jpg")
    assert answers["http://h/0003.jpg"].startswith("removed from ")
    lost = sorted(address.partition("/")[0] for address in taken.unread)
    assert lost == ["pools", "shards"]


def test_symbolic_and_hard_links_keep_no_bytes(tmp_path: Path) -> None:
    store = build(str(tmp_path))
    real, link = tmp_path / "elsewhere.tar", tmp_path / "with/00000.tar"
    link.rename(real)
    link.symlink_to(real)
    taken, _ = take(store, tmp_path / "lists", uid_of(1))
    assert taken.unread == {}
    assert link.is_symlink()
    with tarfile.open(real) as archive:
        assert not [name for name in archive.getnames() if name.startswith("000000001")]
    other = tmp_path / "copy.tar"
    os.link(tmp_path / "with/00001.tar", other)
    size = other.stat().st_size
    taken, _ = take(store, tmp_path / "lists", uid_of(5))
    assert "1 other names (hard links)" in next(iter(taken.unread.values()))
    assert other.stat().st_size == size


def test_what_is_not_known_is_not_marked(tmp_path: Path) -> None:
    store = build(str(tmp_path))
    for _ in range(2):
        taken, answers = take(store, tmp_path / "lists", uid_of(77), uid_of(1))
        assert answers[uid_of(77)] == "not found"
    subset = next(record for record in store.records("subsets") if "/all--" in record.address)
    assert subset.address in taken.marked
    assert json.loads(store.home(subset.address).read("_takedown.json"))["num_uids"] == 1
    marked = uid.read_subset(store.home(subset.address).read("_takedown.npy"), "x")
    assert uid.unpack(marked).to_list() == [uid_of(1)]
    assert store.artifact(Subset, subset).num_samples == 8


def test_a_tar_that_somebody_changed_is_an_error(tmp_path: Path) -> None:
    store = build(str(tmp_path))
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for number in (1, 0, 2, 3):
            for name, content in sample(number):
                add(archive, name, content)
    (tmp_path / "with/00000.tar").write_bytes(data.getvalue())
    with pytest.raises(DataError, match=r"00000\.tar does not match its index"):
        take(store, tmp_path / "lists", uid_of(1))


@pytest.mark.s3
@pytest.mark.slow
def test_in_a_bucket_too(tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = build(f"{s3_url}/calm")
    with killed_at(0, "", monkeypatch) as done:
        take(store, tmp_path / "lists", *LINES)
    expected = {name.replace("/calm", ""): value for name, value in state(store).items() if name.endswith((".tar", ".parquet"))}
    for turn in np.random.default_rng(3).permutation(np.arange(2, len(done)))[:5].tolist():
        store = build(f"{s3_url}/{turn}")
        with pytest.raises(Killed), killed_at(turn, "after", monkeypatch):
            take(store, tmp_path / "lists", *LINES)
        (store.root / "_changes").remove()
        assert take(store, tmp_path / "lists", *LINES)[0].not_found == 0
        found = {
            name.replace(f"/{turn}", ""): value for name, value in state(store).items() if name.endswith((".tar", ".parquet"))
        }
        assert {name: value for name, value in found.items() if "/store/" not in name} == {
            name: value for name, value in expected.items() if "/store/" not in name
        }


def test_what_was_set_aside_as_lost_keeps_no_sample_either(tmp_path: Path) -> None:
    """One file of a shard set is lost, so it is set aside and made again; both are rid of the sample, and nothing else goes."""
    store = build(str(tmp_path))
    (record,) = [one for one in store.records("shards") if not one.adopted_from and not one.artifact.get("tars")]
    folder = store.data(record)
    first, *others, last = folder.files(".tar")
    asked = str(read_index(folder, first.removesuffix(".tar"))["uid"][0])
    folder.write(last, folder.read(last)[:700])
    folder.remove(f"index/{last.removesuffix('.tar')}.parquet")
    holders = {name for name in (first, *others) if asked.encode() in folder.read(name)}
    store.set_aside(record, "an index is gone")
    (lost,) = store.lost()
    aside = store.root / lost.data
    before = set(aside.files(".tar"))
    taken, answers = take(store, tmp_path / "lists", asked)
    assert taken.unread == {}
    assert taken.removed[lost.note] == len(holders)
    assert answers[asked].startswith("removed from")
    assert before - set(aside.files(".tar")) == {*holders, last}, "the last one cannot be read, so nobody knows"
    again, answers = take(store, tmp_path / "lists", asked)
    assert again.removed == {}
    assert again.not_found == 0, answers


class _KilledAfterAShard(NoProgress):
    def advance(self, amount: int = 1, **tally: int) -> None:
        raise Killed


def test_what_a_killed_download_had_fetched_is_taken_down_and_stays_out(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    with web() as (url, _):
        urls = [f"{url}/ok/{n}.jpg" for n in range(12)]
        (tmp_path / "tables").mkdir(parents=True)
        rows_of(urls).select("url", "text", "uid").write_parquet(tmp_path / "tables/all.parquet")
        columns = Columns(url="url", text="text", uid="uid")
        pool = import_pool(ByodPoolSpec(source=str(tmp_path / "tables"), name="web", columns=columns), store=store)
        uids = rows_of(urls)["uid"].to_list()
        spec = ImageSpec(image_size=64, samples_per_shard=4)
        how = {"workers": 1, "threads": 2, "open_networks": LOOPBACK}
        with pytest.raises(Killed):
            download_images(spec, pool, store=store, **how, progress=_KilledAfterAShard())
        (attempt,) = (tmp_path / "store/shards").glob("*/*/attempt-????????")
        shutil.copy(attempt / "00000000.tar", attempt / "00000002.tar")  # begun and not finished
        taken, answers = take(store, tmp_path / "s", uids[1], uids[9])
        where = str(attempt.relative_to(tmp_path / "store"))
        assert answers == {uids[1]: f"removed from {where}", uids[9]: "known, and not downloaded: there is nothing to remove"}
        assert "interrupted run" in taken.unread[where]
        assert not (attempt / "00000002.tar").exists()
        shards = download_images(spec, pool, store=store, **how)
    found = [uid for name in ("00000000", "00000001", "00000002") for uid in read_index(store.folder(shards), name)["uid"]]
    assert sorted(found) == sorted({*uids} - {uids[1]})
    taken, answers = take(store, tmp_path / "s", uids[1], uids[9])
    assert taken.unread == {}
    assert answers[uids[9]].startswith("removed from shards/")
    with tarfile.open(store.folder(shards).path / "00000000.tar") as archive:
        assert len([name for name in archive.getnames() if name.endswith(".jpg")]) == 3


def test_a_download_at_work_is_told_and_left_alone(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    build(str(tmp_path))
    home = store.home("shards/tiny/running--0123456789ab")
    with attempt(home) as mine:
        mine.out.write("00000.tar", b"half of one")
        taken, _ = take(store, tmp_path / "s", uid_of(1))
        assert taken.unread == {f"shards/tiny/running--0123456789ab/{mine.name}": AT_WORK}
        assert mine.out.read("00000.tar") == b"half of one"


def test_a_takedown_removes_what_a_killed_retry_had_begun(tmp_path: Path) -> None:
    """A tar without an index lies in the folder: nobody would look into it."""
    store = build(str(tmp_path))
    (record,) = [one for one in store.records("shards") if one.address.split("/")[2].startswith("with--")]
    folder = store.data(record)
    buffer = io.BytesIO()
    pl.DataFrame({"uid": [uid_of(1)]}).write_parquet(buffer)
    begin(store, record.address, "retry")
    folder.write("retry/00000007.parquet", buffer.getvalue())
    folder.write("00000007.tar", pack(list(samples(range(1, 2), uids=True))))
    taken, _ = take(store, tmp_path / "lists", uid_of(1))
    assert taken.unread == {}
    assert not any("00000007" in name for name in folder.files())
    made = store.record(record.address)
    assert made is not None
    assert store.missing(made) == ""


def test_a_retry_does_not_publish_half_a_takedown(tmp_path: Path) -> None:
    store = build(str(tmp_path))
    (record,) = [one for one in store.records("shards") if one.address.split("/")[2].startswith("with--")]
    (pool,) = [one for one in store.records("pools") if one.address == record.inputs["pool"][0]["address"]]
    begin(store, record.address, "takedown")
    with pytest.raises(StoreError, match="^A takedown of .* has not ended"):
        retry_images(images_of("custom"), store.artifact(Pool, pool), record.address, store=store)
    assert store.record(record.address) is None


def test_two_changes_at_once_are_refused(tmp_path: Path) -> None:
    store = build(str(tmp_path))
    (record,) = [one for one in store.records("shards") if one.address.split("/")[2].startswith("with--")]
    (pool,) = [one for one in store.records("pools") if one.address == record.inputs["pool"][0]["address"]]
    with store.alone(record.address, "change it"):
        with pytest.raises(StoreError, match="already being changed by process"):
            retry_images(images_of("custom"), store.artifact(Pool, pool), record.address, store=store)
        with pytest.raises(StoreError, match="already being changed by process"):
            take(store, tmp_path / "lists", uid_of(1))
    assert store.record(record.address) is not None


def test_the_change_of_an_earlier_version_is_told(tmp_path: Path) -> None:
    store = build(str(tmp_path))
    store.root.write("shards/tiny/old--0123456789ab/_amending.json", b"{}")
    taken, _ = take(store, tmp_path / "lists", uid_of(1))
    assert "earlier version of datacomp" in taken.unread["shards/tiny/old--0123456789ab"]


def test_lines_as_people_write_them() -> None:
    assert uid_in_line("0XAB") == f"{'ab':0>32}"
    assert uid_in_line("ab") is None
    assert uid_in_line("g" * 32) is None
    for same in ("http://h/a", "HTTP://H/a", "http://h:80/a", "http://h/a#b", "http://H:80/a#"):
        assert normal_url(same) == "http://h/a"
    assert normal_url("https://H:443") == "https://h/"
    assert normal_url("http://h:8080/A?Q=#x") == "http://h:8080/A?Q="
    assert normal_url("http://[broken/") == "http://[broken/"
