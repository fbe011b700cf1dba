"""The hub's client against a real server of its shape: pinned, checked by hash, taken up where it broke, never half there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_server import LocalHub, serving

from datacomp_core import hub
from datacomp_core.errors import DataError, StoreError
from datacomp_core.store import Folder

NAME = "datasets/some/set"
FILES = {
    "test/0.tar": np.random.default_rng(0).bytes(3 << 20),
    "test/1.tar": np.random.default_rng(1).bytes(1000),
    "test/nshards.txt": b"2",
    "classnames.txt": "cat\nчай\n".encode(),
    "a folder/with blanks & signs.txt": b"x",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with serving() as found:
        found.repositories[NAME] = dict(FILES)
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setattr(hub.time, "sleep", lambda seconds: None)
        yield found


def there(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_everything_arrives_with_its_hash_and_a_second_fetch_moves_nothing(server: LocalHub, tmp_path: Path) -> None:
    found = hub.snapshot("dataset", "some/set")
    assert {file.path: file.size for file in found.files} == {path: len(data) for path, data in FILES.items()}
    hashes = hub.fetch(found, Folder(tmp_path))
    assert hashes == {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}
    brought = there(tmp_path)
    record = json.loads(brought.pop("hub.json"))
    assert brought == FILES
    assert (record["repository"], record["commit"]) == ("some/set", server.commit(NAME))
    server.sent.clear()
    sizes: list[int] = []
    assert hub.fetch(found, Folder(tmp_path), fetched=sizes.append) == hashes
    assert not server.sent
    assert sum(sizes) == sum(map(len, FILES.values()))


def test_a_broken_connection_goes_on_where_it_broke_and_a_busy_server_is_asked_again(server: LocalHub, tmp_path: Path) -> None:
    server.cut, server.busy = {"test/0.tar": 2}, {"test/1.tar": 2}
    hub.fetch(hub.snapshot("dataset", "some/set"), Folder(tmp_path))
    assert {path: data for path, data in there(tmp_path).items() if path != "hub.json"} == FILES
    assert server.sent["test/0.tar"] == len(FILES["test/0.tar"])


@pytest.mark.parametrize("path", ["test/0.tar", "classnames.txt"])
def test_wrong_bytes_are_refused_and_nothing_half_true_is_left(server: LocalHub, tmp_path: Path, path: str) -> None:
    server.changed = {path}
    with pytest.raises(DataError, match=f"{path.replace('.', '[.]')} has another hash"):
        hub.fetch(hub.snapshot("dataset", "some/set"), Folder(tmp_path))
    assert path not in there(tmp_path)
    assert "hub.json" not in there(tmp_path)
    server.changed = set()
    server.sent.clear()
    hub.fetch(hub.snapshot("dataset", "some/set"), Folder(tmp_path))
    assert path in server.sent
    assert {name: data for name, data in there(tmp_path).items() if name != "hub.json"} == FILES


def test_a_new_commit_fetches_only_what_changed(server: LocalHub, tmp_path: Path) -> None:
    hub.fetch(hub.snapshot("dataset", "some/set"), Folder(tmp_path))
    server.repositories[NAME]["classnames.txt"] = b"dog\n"
    server.sent.clear()
    hub.fetch(hub.snapshot("dataset", "some/set"), Folder(tmp_path))
    assert set(server.sent) == {"classnames.txt"}
    assert (tmp_path / "classnames.txt").read_bytes() == b"dog\n"


def test_a_file_that_was_cut_afterwards_is_fetched_again(server: LocalHub, tmp_path: Path) -> None:
    found = hub.snapshot("dataset", "some/set")
    hub.fetch(found, Folder(tmp_path))
    (tmp_path / "test/1.tar").write_bytes(b"short")
    assert hub.recorded(Folder(tmp_path)) is None
    hub.fetch(found, Folder(tmp_path))
    assert (tmp_path / "test/1.tar").read_bytes() == FILES["test/1.tar"]


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(
    server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.private = {NAME}
    with pytest.raises(StoreError, match="set HF_TOKEN"):
        hub.snapshot("dataset", "some/set")
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.fetch(hub.snapshot("dataset", "some/set"), Folder(tmp_path))
    assert {token for _, token in server.tokens} == {"Bearer secret"}
    assert {place for place, _ in server.tokens} == {"api", "datasets"}, "never the store that large files lie in"


def test_what_is_not_there_and_a_hub_that_does_not_answer(
    server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"The hub has no .*other/set.* \(404"):
        hub.snapshot("dataset", "other/set")
    with pytest.raises(DataError, match="has no file weights"):
        hub.snapshot("dataset", "some/set").file("weights")
    server.repositories["datasets/bad/set"] = {"../out.txt": b"x"}
    with pytest.raises(DataError, match="outside its folder"):
        hub.snapshot("dataset", "bad/set")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="check the network, or name a mirror in HF_ENDPOINT"):
        hub.snapshot("dataset", "some/set")


@pytest.mark.s3
def test_into_a_bucket(server: LocalHub, s3_url: str) -> None:
    out = Folder(s3_url)
    hub.fetch(hub.snapshot("dataset", "some/set"), out)
    assert {name: out.read(name) for name in out.files() if name != "hub.json"} == FILES
