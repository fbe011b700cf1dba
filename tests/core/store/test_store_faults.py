"""One fault after the other between the store and its bucket: what cannot be told is an error, and nothing is removed for it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from datacomp_core.artifacts import Pool, Spec
from datacomp_core.errors import DataError, MissingFileError, StoreError
from datacomp_core.leaderboard.board.garbage_collection import remove, unused
from datacomp_core.store import Folder, Store, bucket, failures, lease, listing, scratch, step
from datacomp_core.store import format as store_format
from datacomp_core.store.artifact_changes import begin, exclusive_change, finish
from datacomp_core.store.folder_request import bind_folder
from datacomp_core.store.format import require_format
from datacomp_core.store.local import temporary_of


class FaultsSpec(Spec):
    scale: str = "tiny"


@step("pools", version=1)
def download(spec: FaultsSpec, *, out: Folder) -> Pool:
    for name in ("a", "b"):
        out.write(name, name.encode() * 10)
    return Pool(num_samples=2, num_parts=2)


@step("pools", version=1, name=lambda _: "resumed")
def resumed(spec: FaultsSpec, *, out: Folder) -> Pool:
    """Skips what is there."""
    there = out.files()
    for name in ("a", "b"):
        if name not in there:
            out.write(name, name.encode() * 10)
    return Pool(num_samples=2, num_parts=2)


class SickFileSystem(MemoryFileSystem):
    """A bucket in memory that answers wrongly where it was told to."""

    protocol = "sick"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    faults: ClassVar[dict[str, list[BaseException | str]]] = {}

    def _fault(self, name: str) -> str:
        left = self.faults.get(name, [])
        fault = left.pop(0) if left else ""
        if isinstance(fault, BaseException):
            raise fault
        return fault

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        if self._fault("ls") == "empty":
            raise FileNotFoundError(path)
        return super().ls(path, detail=detail, **kwargs)

    def info(self, path: str, **kwargs: Any) -> Any:
        self._fault("info")
        return super().info(path, **kwargs)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        fault = self._fault("cat")
        data = super().cat_file(path, start=start, end=end, **kwargs)
        return data[: len(data) // 2] if fault == "cut" else data

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        fault = self._fault("pipe")
        super().pipe_file(path, value, mode=mode, **kwargs)
        if fault == "lost":
            raise FileExistsError(path)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    fsspec.register_implementation("sick", SickFileSystem, clobber=True)
    SickFileSystem.store.clear()
    SickFileSystem.faults.clear()
    monkeypatch.setattr(failures, "PAUSES", (0, 0))
    monkeypatch.setattr(listing, "PAUSES", (0, 0, 0))
    monkeypatch.setattr(store_format, "_known", set[str]())
    return Store.open("sick://bucket/store")


DENIED = PermissionError(13, "ExpiredToken")
BROKEN = OSError(5, "InternalError")


@pytest.mark.parametrize("where", ["ls", "info", "cat"])
@pytest.mark.parametrize("fault", [DENIED, BROKEN], ids=["403", "500"])
def test_a_store_that_cannot_be_read_is_an_error_and_loses_nothing(store: Store, where: str, fault: BaseException) -> None:
    download(FaultsSpec(), store=store)
    before = {name: data.getvalue() for name, data in SickFileSystem.store.items()}
    SickFileSystem.faults[where] = [fault] * 50
    with pytest.raises(StoreError):
        download.run(FaultsSpec(), store=store)
    assert {name: data.getvalue() for name, data in SickFileSystem.store.items()} == before
    SickFileSystem.faults.clear()
    assert download.run(FaultsSpec(), store=store).status == "reused"


@pytest.mark.parametrize("times", [1, 2, 4, 7, 8, 50])
def test_an_empty_listing_is_no_proof(store: Store, times: int) -> None:
    """Files that a listing leaves out, however often, are asked for by name."""
    made = download(FaultsSpec(), store=store)
    SickFileSystem.faults["ls"] = ["empty"] * times
    if times > 7:  # four listings, and each of them asked for twice
        with pytest.raises(StoreError, match="omits existing files"):
            download.run(FaultsSpec(), store=store)
    else:
        assert download.run(FaultsSpec(), store=store).status == "reused"
    SickFileSystem.faults.clear()
    assert download.run(FaultsSpec(), store=store).artifact == made


def test_one_empty_listing_is_believed_by_nobody(store: Store) -> None:
    """A folder of parts, of shards, of results: whoever reads it takes its files for all there are."""
    folder = store.root / "plain"
    folder.write("below/a", b"a")
    for ask, wanted in (
        (folder.files, {"below/a": 1}),
        (folder.folders, ["below"]),
        ((folder / "below").names, ["a"]),
        (lambda: list(folder.details()), ["below/a"]),
    ):
        SickFileSystem.faults["ls"] = ["empty"]
        assert ask() == wanted
    SickFileSystem.faults["ls"] = ["empty"]
    folder.remove()
    assert folder.files() == {}


@pytest.mark.parametrize("times", [1, 3])
def test_a_manifest_that_is_not_there_now_and_then_is_no_loss(store: Store, times: int) -> None:
    made = download.run(FaultsSpec(), store=store)
    SickFileSystem.faults["cat"] = [FileNotFoundError(2, "NoSuchKey")] * times
    assert store.missing(made.record) == ""
    SickFileSystem.faults["cat"] = [FileNotFoundError(2, "NoSuchKey")] * 50
    with pytest.raises(StoreError, match="is not the manifest that its record names"):  # a listing names it
        store.missing(made.record)


def test_a_record_that_is_listed_and_said_not_to_be_there_frees_nothing_for_clearing(store: Store) -> None:
    made = download(FaultsSpec(), store=store)
    gone = [FileNotFoundError(2, "NoSuchKey")]
    SickFileSystem.faults["cat"] = gone * 2
    assert {one.what for one in unused(store, older_than_hours=0)} <= {"artifact"}, "once is no proof"
    SickFileSystem.faults["cat"] = gone * 50
    with pytest.raises(StoreError, match="is listed, and the store says that it is not there"):
        unused(store, older_than_hours=0)
    SickFileSystem.faults.clear()
    assert store.is_published(made.address, made.data.rpartition("/")[2])


@step("pools", version=1, name=lambda _: "robbed")
def robbed(spec: FaultsSpec, *, out: Folder) -> Pool:
    """Somebody removes a file while it works."""
    for name in ("a", "b"):
        out.write(name, name.encode())
    Folder(out.url).remove("a")
    return Pool(num_samples=2, num_parts=2)


def test_a_run_whose_files_are_removed_meanwhile_publishes_nothing(store: Store) -> None:
    with pytest.raises(StoreError, match="1 files that this run wrote are gone from .*, a first"):
        robbed(FaultsSpec(), store=store)
    assert store.record(robbed.address(FaultsSpec())) is None


def test_a_lease_that_could_not_be_taken_away_is_cleared(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as sick:
        sick.setattr(SickFileSystem, "rm_file", lambda *_: (_ for _ in ()).throw(DENIED))
        made = download(FaultsSpec(), store=store)
    left = [name for name in store.home(made.address).files() if ".lease-" in name]
    assert len(left) == 1
    assert unused(store, older_than_hours=0, keep=[made.address]) == [], "this process is alive"
    store.home(made.address).write(left[0], lease.released_content())
    found = unused(store, older_than_hours=0, keep=[made.address])
    assert [one.what for one in found] == ["lease"]
    remove(store, found)
    assert [name for name in store.home(made.address).files() if ".lease-" in name] == []
    assert download.run(FaultsSpec(), store=store).status == "reused"


@pytest.mark.parametrize("where", ["cat", "info", "ls"])
def test_one_fault_is_not_noticed(store: Store, where: str) -> None:
    download(FaultsSpec(), store=store)
    SickFileSystem.faults[where] = ["cut" if where == "cat" else BROKEN]
    assert download.run(FaultsSpec(), store=store).status == "reused"


def test_a_lost_reply_to_the_record_is_no_refusal(store: Store) -> None:
    """The bucket has it; the client's own retry was refused."""
    SickFileSystem.faults["pipe"] = ["", "", "", "", "", "lost"]  # form, lease, a, b, manifest, record
    outcomes = [download.run(FaultsSpec(), store=store) for _ in range(2)]
    assert [one.status for one in outcomes] == ["built", "reused"]
    assert store.folder(outcomes[0].artifact).files() == {"a": 10, "b": 10}
    SickFileSystem.faults["pipe"] = ["lost"]
    store.check()


def test_what_is_lost_is_set_aside_and_shown(store: Store) -> None:
    made = download(FaultsSpec(), store=store)
    store.folder(made).remove("a")
    again = download.run(FaultsSpec(), store=store)
    assert (again.status, again.why) == ("built", "its data is lost: a is gone")
    assert again.artifact.data != made.data
    assert store.folder(made).read("b") == b"b" * 10
    (lost,) = [one for one in unused(store, older_than_hours=0, keep=[made.address]) if one.what == "lost"]
    assert lost.num_bytes == 10
    assert "a is gone" in lost.why
    assert remove(store, [lost]) == 10
    assert not store.folder(made).files()
    assert download.run(FaultsSpec(), store=store).status == "reused"


def test_on_a_disk_what_is_lost_moves_to_lost(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    made = download(FaultsSpec(), store=store)
    store.folder(made).remove("a")
    download(FaultsSpec(), store=store)
    (kept,) = (tmp_path / "_lost").rglob("b")
    assert kept.read_bytes() == b"b" * 10


def test_adopted_data_that_is_away_is_not_downloaded_anew(store: Store, tmp_path: Path) -> None:
    source = Folder(tmp_path / "mine")
    source.write("a", b"1")
    download.adopt(FaultsSpec(), made=Pool(num_samples=1, num_parts=1, content="x"), source=source, store=store)
    source.remove()
    with pytest.raises(DataError, match="Restore them"):
        download.run(FaultsSpec(), store=store)
    source.write("a", b"1")
    assert download.run(FaultsSpec(), store=store).status == "reused"


def test_a_damaged_record_or_manifest_is_named_and_removed_by_nobody(store: Store) -> None:
    made = download(FaultsSpec(), store=store)
    record = store.record(made.address)
    assert record is not None
    store.home(made.address).write(record.outputs.manifest, b"PAR1 something else")
    before = set(SickFileSystem.store)
    with pytest.raises(StoreError, match="not the manifest that its record names"):
        download.run(FaultsSpec(), store=store)
    assert set(SickFileSystem.store) == before


def test_a_change_that_was_killed_keeps_runs_out_until_it_is_finished(store: Store) -> None:
    made = download(FaultsSpec(), store=store)
    begin(store, made.address)
    with pytest.raises(StoreError, match="retry or a takedown"):
        download.run(FaultsSpec(), store=store)
    assert "has not ended" in download.plan(FaultsSpec(), store=store).why
    with exclusive_change(store, made.address) as record:
        stat = store.data(record).write("a", b"short")
        with pytest.raises(StoreError, match="already being changed"), exclusive_change(store, made.address):
            pass
        finish(store, record, {}, {"a": stat})
    assert download.run(FaultsSpec(), store=store).status == "reused"
    changed = store.record(made.address)
    assert changed is not None
    assert dict(store.manifest(changed).select("path", "size").iter_rows()) == {"a": 5, "b": 10}


def test_an_empty_listing_does_not_publish_an_empty_change(store: Store) -> None:
    made = download(FaultsSpec(), store=store)
    with exclusive_change(store, made.address) as record:
        stat = store.data(record).write("a", b"short")
        SickFileSystem.faults["ls"] = ["empty"] * 50
        with pytest.raises(StoreError):
            finish(store, record, {}, {"a": stat})
    SickFileSystem.faults.clear()
    assert store.record(made.address) is None
    with exclusive_change(store, made.address) as record:
        finish(store, record, {}, {"a": stat})
    assert download.run(FaultsSpec(), store=store).status == "reused"


@pytest.mark.parametrize("turn", range(12))
def test_an_interrupted_attempt_with_one_empty_listing_publishes_all_of_it(store: Store, turn: int) -> None:
    """The second run writes nothing itself, so it knows the files from listings alone."""
    SickFileSystem.faults["pipe"] = ["", "", "", "", PermissionError("expired")]  # lease, form, a, b, and then the manifest
    with pytest.raises(StoreError):
        resumed(FaultsSpec(), store=store)
    SickFileSystem.faults.clear()
    SickFileSystem.faults["ls"] = [*[""] * turn, "empty"]
    made = resumed(FaultsSpec(), store=store)
    record = store.record(made.address)
    assert record is not None
    assert dict(store.manifest(record).select("path", "size").iter_rows()) == {"a": 10, "b": 10}


@pytest.mark.parametrize("turn", range(6))
def test_an_empty_listing_does_not_make_an_older_store_a_new_one(store: Store, turn: int) -> None:
    store.root.write("pools/tiny/x--0123456789ab/_amending.json", b"{}")
    SickFileSystem.faults["ls"] = [*[""] * turn, "empty"]
    with pytest.raises(StoreError, match="filled by an earlier version"):
        require_format(store, write=True)


def test_a_lost_reply_to_a_record_that_was_changed_meanwhile_removes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is there, another process amends it, and only then does the client hear that its own second try was refused."""
    address, put = download.address(FaultsSpec()), SickFileSystem.pipe_file

    def slow(self: SickFileSystem, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        put(self, path, value, mode=mode, **kwargs)
        if path.endswith("/_artifact.json") and mode == "create":
            monkeypatch.setattr(SickFileSystem, "pipe_file", put)
            with exclusive_change(store, address) as record:
                finish(store, record, {}, {"a": store.data(record).write("a", b"short")})
            raise FileExistsError(path)

    monkeypatch.setattr(SickFileSystem, "pipe_file", slow)
    assert download.run(FaultsSpec(), store=store).why == "another run finished it first"
    record = store.record(address)
    assert record is not None
    assert record.generation == 2
    assert store.missing(record) == ""
    assert {name: store.data(record).read(name) for name in ("a", "b")} == {"a": b"short", "b": b"b" * 10}


def test_the_change_of_an_earlier_version_is_told_and_kept(store: Store) -> None:
    home = store.home(download.address(FaultsSpec()))
    home.write("_amending.json", b"{}")
    home.write("attempt-01234567/a", b"a" * 10)
    for call in (
        lambda: download.run(FaultsSpec(), store=store),
        lambda: begin(store, download.address(FaultsSpec())),
    ):
        with pytest.raises(StoreError, match=r"earlier version of datacomp and has not ended \(_amending.json\)"):
            store.root.write_json("_store.json", {"format": 2})
            call()
    assert unused(store, older_than_hours=0) == []
    assert home.read("attempt-01234567/a") == b"a" * 10


def test_clearing_keeps_the_manifest_of_what_describes_data_that_lie_elsewhere(store: Store, tmp_path: Path) -> None:
    """The record names the data of somebody else, and a manifest that the attempt wrote: that attempt is published."""
    (tmp_path / "a").write_bytes(b"a" * 10)

    @step("pools", version=1, name=lambda _: "elsewhere")
    def describe(spec: FaultsSpec, *, out: Folder) -> Pool:
        out.write("note", b"written on the way")
        return Pool(num_samples=1, num_parts=1, data=str(tmp_path))

    made = describe(FaultsSpec(), store=store)
    found = unused(store, older_than_hours=0, keep=[made.address])
    remove(store, found)
    assert [one for one in found if one.what == "attempt"] == []
    assert describe.run(FaultsSpec(), store=store).status == "reused"


def test_what_is_being_changed_stands_too(store: Store) -> None:
    made = download(FaultsSpec(), store=store)
    other = resumed(FaultsSpec(), store=store)
    begin(store, made.address)
    assert {record.address: is_changing for record, is_changing in store.standing()} == {made.address: True, other.address: False}


def test_a_note_about_what_is_in_force_deletes_nothing(store: Store) -> None:
    """A process wrote the note and was killed before it marked the record; the files came back."""
    made = download(FaultsSpec(), store=store)
    record = store.record(made.address)
    assert record is not None
    store.mark_lost(record, "a is gone")
    store.home(made.address).write("_artifact.json", record.to_json())
    remove(store, [one for one in unused(store, older_than_hours=0, keep=[made.address]) if one.what == "lost"])
    assert list(store.lost()) == []
    assert download.run(FaultsSpec(), store=store).status == "reused"


def test_what_was_not_moved_before_a_kill_is_cleared_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(str(tmp_path))
    made = download(FaultsSpec(), store=store)
    record = store.record(made.address)
    assert record is not None
    with monkeypatch.context() as patch:
        patch.setattr(Folder, "move", lambda *_: None)
        store.set_aside(record, "a is gone")
    (lost,) = [one for one in unused(store, older_than_hours=0) if one.what == "lost"]
    assert remove(store, [lost]) == 20
    assert not list(tmp_path.rglob("attempt-*/a"))


def test_a_change_that_is_taken_up_hashes_what_the_killed_one_wrote(store: Store) -> None:
    made = download(FaultsSpec(), store=store)
    begin(store, made.address, "takedown")
    store.folder(made).write("a", b"c" * 10)  # as large as before
    with pytest.raises(StoreError, match="^A takedown of"):
        download.run(FaultsSpec(), store=store)
    with exclusive_change(store, made.address, "takedown") as record:
        told = finish(store, record, {}, {})
    hashes = dict(store.manifest(told).select("path", "sha256").iter_rows())
    assert hashes == {name: hashlib.sha256(data * 10).hexdigest() for name, data in (("a", b"c"), ("b", b"b"))}


def test_a_lost_bucket_is_no_empty_store(s3_server: str) -> None:
    with pytest.raises(StoreError, match="bucket"):
        Folder("s3://no-such-bucket-anywhere/store").files()
    with pytest.raises(StoreError, match="bucket"):
        Folder("s3://no-such-bucket-anywhere/store").folders()


def test_uploads_of_killed_processes_are_shown_and_swept(s3_url: str) -> None:
    import s3fs

    store = Store.open(s3_url)
    fs, (name, _, prefix) = s3fs.S3FileSystem(), s3_url.removeprefix("s3://").partition("/")
    fs.call_s3("create_multipart_upload", Bucket=name, Key=f"{prefix}/pools/x/y/attempt-1/a.tar")
    (found,) = [one for one in unused(store, older_than_hours=0) if one.what == "upload"]
    assert found.path == "pools/x/y/attempt-1/a.tar"
    remove(store, [found])
    assert unused(store, older_than_hours=0) == []


def test_old_uploads_below_a_plain_folder_are_swept_by_the_next_command(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    fs, (name, _, prefix) = s3fs.S3FileSystem(), s3_url.removeprefix("s3://").partition("/")
    fs.call_s3("create_multipart_upload", Bucket=name, Key=f"{prefix}/out/a.tar")
    fs.call_s3("create_multipart_upload", Bucket=name, Key=f"{prefix}/another/a.tar")
    bind_folder(Folder(f"{s3_url}/out"), {"of": "it"})
    assert {one.name for one in Folder(s3_url).uploads()} == {"another/a.tar", "out/a.tar"}, "somebody may be at work"
    monkeypatch.setattr(bucket, "OLD_UPLOAD_SECONDS", -60)
    bind_folder(Folder(f"{s3_url}/out"), {"of": "it"})
    assert [one.name for one in Folder(s3_url).uploads()] == ["another/a.tar"]


def test_a_folder_that_cannot_be_listed_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, permissions do not hold: a name that is too long stands for a disk that answers with an error."""
    with pytest.raises(StoreError):
        Folder(tmp_path / ("x" * 300)).files()
    with pytest.raises(StoreError):
        Folder(tmp_path / ("x" * 300)).exists("y")
    with pytest.raises(MissingFileError):
        Folder(tmp_path).read("nothing")


def test_scratch_and_unfinished_files_of_dead_processes_are_swept(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from datacomp_core.store import scratch\n"
        "from datacomp_core.store.local import temporary_of\n"
        "temporary_of(Path(sys.argv[1]) / 'subset.npy').write_bytes(b'half')\n"
        "with scratch() as place:\n"
        "    (place / 'big').write_bytes(b'x')\n"
        "    os._exit(9)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    (tmp_path / "tmp").mkdir()
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    subprocess.run(command, env=environment, check=False)
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    assert len(list((tmp_path / "out").iterdir())) == 1
    subprocess.run(command, env=environment, check=False)
    assert len(list((tmp_path / "tmp").iterdir())) == 1, "the second swept what the first left"
    Folder(tmp_path / "out").sweep_left_behind()
    assert list((tmp_path / "out").iterdir()) == []
    with scratch() as mine:
        assert mine.is_dir()


def test_of_a_file_in_anybodys_folder_only_its_own_unfinished_files_are_swept(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom pathlib import Path\nfrom datacomp_core.store.local import temporary_of\n"
        "for name in ('subset.npy', 'subset.npy2', 'below/subset.npy'):\n"
        "    made = temporary_of(Path(sys.argv[1]) / name)\n"
        "    made.write_bytes(b'half')\n"
        "    temporary_of(made).write_bytes(b'a merge into it')\n"
    )
    (tmp_path / "below").mkdir()
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    alive = temporary_of(tmp_path / "subset.npy")
    alive.write_bytes(b"of this process")
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 7
    Folder(tmp_path).sweep_left_behind("subset.npy")
    left = sorted(path.name.lstrip(".").partition(".npy")[2].partition(".")[0] for path in tmp_path.iterdir() if path.is_file())
    assert left == ["", "2", "2"]
    assert alive.exists()
    assert len(list((tmp_path / "below").iterdir())) == 2


def test_a_record_says_what_it_said_before(store: Store) -> None:
    """Old records, without the newer fields, are read as they were."""
    made = download(FaultsSpec(), store=store)
    home = store.home(made.address)
    record = json.loads(home.read("_artifact.json"))
    manifest = record["outputs"].pop("manifest")
    home.write("_manifest.parquet", home.read(manifest))
    home.remove(manifest)
    home.write(
        "_artifact.json", json.dumps({k: v for k, v in record.items() if k not in ("state", "why", "generation")}).encode()
    )
    assert download.run(FaultsSpec(), store=store).status == "reused"
