"""Lists and tables that lie in a bucket, on a web server or on the hub: brought once, pinned to what they were."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import filter_world as world
import numpy as np
import polars as pl
import pytest
from hub_server import LocalHub, serving

from datacomp_core.errors import DataError, SpecError
from datacomp_core.filters import Listed, Threshold
from datacomp_core.pool_source import PoolSource
from datacomp_core.recipes.load import load_recipe
from datacomp_core.scores import score_of
from datacomp_core.scores.compute import compute
from datacomp_core.store import Folder
from datacomp_core.store.fingerprint import fingerprint

TABLE = world.rows(21, 120)
MINE = [row["uid"] for row in TABLE[::3]]
ON_HUB = "hf://datasets/apf1/lists"


def npy(uids: list[str]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([(int(one[:16], 16), int(one[16:], 16)) for one in uids], "u8,u8"))
    return buffer.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with serving() as found:
        found.repositories["datasets/apf1/lists"] = {"medium/dfn.npy": npy(MINE), "README.md": b"lists"}
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setattr("datacomp_core.hub.time.sleep", lambda seconds: None)
        yield found


def test_a_list_of_the_hub_is_pinned_to_a_commit_and_its_hash(hub: LocalHub, tmp_path: Path) -> None:
    made = Listed(uids=f"{ON_HUB}/medium/dfn.npy")
    commit = hub.commit("datasets/apf1/lists")
    assert made.uids.startswith(f"{ON_HUB}@{commit}/medium/dfn.npy#")
    assert Listed(uids=f"{ON_HUB}@main/medium/dfn.npy") == made
    folder = world.write(tmp_path / "m", TABLE)
    assert sorted(world.kept(made, folder, tmp_path / "out")[0]) == sorted(MINE)
    local = tmp_path / "copy.npy"
    local.write_bytes(npy(MINE))
    assert fingerprint(Listed(uids=str(local))) == fingerprint(made), "the content is the identity, wherever it lies"
    hub.repositories.clear()
    assert Listed.model_validate(made.model_dump()) == made, "what is pinned asks nobody"
    assert sorted(world.kept(made, folder, tmp_path / "again")[0]) == sorted(MINE), "and is brought once"


def test_a_list_that_the_hub_changed_is_another(hub: LocalHub, tmp_path: Path) -> None:
    first = Listed(uids=f"{ON_HUB}/medium/dfn.npy")
    hub.repositories["datasets/apf1/lists"]["medium/dfn.npy"] = npy(MINE[:5])
    assert fingerprint(Listed(uids=f"{ON_HUB}/medium/dfn.npy")) != fingerprint(first)
    with pytest.raises(DataError, match="is not what the recipe was made with"):  # this server knows its newest commit alone
        world.kept(first, world.write(tmp_path / "m", TABLE), tmp_path / "out")


def test_a_small_file_of_the_hub_is_known_by_its_sha256_as_well(hub: LocalHub, tmp_path: Path) -> None:
    """Of small files the hub states git's sha1: a copy on this machine would have another identity."""
    text = "\n".join(MINE[:3])
    hub.repositories["datasets/apf1/lists"]["small.txt"] = text.encode()
    (tmp_path / "small.txt").write_text(text)
    there, here = Listed(uids=f"{ON_HUB}/small.txt"), Listed(uids=str(tmp_path / "small.txt"))
    assert fingerprint(there) == fingerprint(here)
    assert sorted(world.kept(there, world.write(tmp_path / "m", TABLE), tmp_path / "out")[0]) == sorted(MINE[:3])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (f"{ON_HUB}/nothing.npy", "has no file nothing.npy"),
        ("hf://datasets/apf1/other/x.npy", "The hub has no"),
        ("hf://apf1/lists/x.npy", "is not a valid hub path"),
    ],
)
def test_a_wrong_place_on_the_hub_is_one_sentence(hub: LocalHub, name: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        load_recipe(f"listed:uids={name}")


@pytest.mark.s3
def test_a_list_in_a_bucket(s3_url: str, tmp_path: Path) -> None:
    bucket = Folder(s3_url)
    bucket.write("mine.npy", npy(MINE))
    made = Listed(uids=f"{s3_url}/mine.npy")
    folder = world.write(tmp_path / "m", TABLE)
    assert sorted(world.kept(made, folder, tmp_path / "out")[0]) == sorted(MINE)
    half = len(MINE) // 2
    bucket.write("parts/b.txt", "\n".join(MINE[half:]).encode())
    bucket.write("parts/a.npy", npy(MINE[:half]))
    both = Listed(uids=f"{s3_url}/parts")
    assert sorted(world.kept(both, folder, tmp_path / "both")[0]) == sorted(MINE)
    bucket.write("mine.npy", npy(MINE[:5]))
    fresh = Listed(uids=f"{s3_url}/mine.npy")
    assert fingerprint(fresh) != fingerprint(made)
    assert sorted(world.kept(fresh, folder, tmp_path / "fresh")[0]) == sorted(MINE[:5])
    with pytest.raises(DataError, match="it has changed"):
        world.kept(made, folder, tmp_path / "old")
    with pytest.raises(SpecError, match="is not there"):
        load_recipe(f"listed:uids={s3_url}/nowhere.npy")


@pytest.mark.s3
def test_a_table_of_scores_in_a_bucket(s3_url: str, tmp_path: Path) -> None:
    scores = {row["uid"]: float(number) for number, row in enumerate(TABLE)}
    buffer = io.BytesIO()
    pl.DataFrame({"uid": list(scores)[::-1], "mine": list(scores.values())[::-1]}).write_parquet(buffer)
    Folder(s3_url).write("table.parquet", buffer.getvalue())
    score = score_of(f"column_of:file={s3_url}/table.parquet,column=mine")
    assert score is not None
    folder = world.write(tmp_path / "m", TABLE)
    made = compute(score, PoolSource(folder), Folder(tmp_path / "kept"))
    best = Threshold(score=score.full_name, at_least=100)
    wanted = sorted(uid for uid, value in scores.items() if value >= 100)
    assert sorted(world.kept(best, folder, tmp_path / "out", [made])[0]) == wanted


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the url at which Python's own server shows it: it states size and time, and knows no ranges."""
    (tmp_path / "web").mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(tmp_path / "web")))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield tmp_path / "web", f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_list_on_a_web_server(web: tuple[Path, str], tmp_path: Path) -> None:
    shown, url = web
    (shown / "mine.npy").write_bytes(npy(MINE))
    folder = world.write(tmp_path / "m", TABLE)
    for name in ("mine.npy", "mine.npy?download=true"):
        made = Listed(uids=f"{url}/{name}")
        assert sorted(world.kept(made, folder, tmp_path / "out")[0]) == sorted(MINE)
        assert made.title() == "on the list mine.npy"
    assert fingerprint(made) == fingerprint(Listed(uids=f"{url}/mine.npy")), "a query is a place, not content"
    with pytest.raises(SpecError, match="is not there"):
        load_recipe(f"listed:uids={url}/other.npy")


def test_a_large_list_on_a_web_server_that_knows_no_ranges(web: tuple[Path, str], tmp_path: Path) -> None:
    shown, url = web
    others = [f"{number:032x}" for number in range(1, 600_000)]
    (shown / "large.npy").write_bytes(npy([*others, *MINE]))
    folder = world.write(tmp_path / "m", TABLE)
    assert sorted(world.kept(Listed(uids=f"{url}/large.npy"), folder, tmp_path / "out")[0]) == sorted(MINE)


def test_a_list_that_the_web_server_changed_is_another(web: tuple[Path, str], tmp_path: Path) -> None:
    """Though its size stays."""
    shown, url = web
    folder = world.write(tmp_path / "m", TABLE)
    made: list[Listed] = []
    for number, uids in enumerate((MINE[:5], MINE[5:10])):
        (shown / "mine.npy").write_bytes(npy(uids))
        os.utime(shown / "mine.npy", (number, 1_700_000_000 + number))
        made.append(Listed(uids=f"{url}/mine.npy"))
        assert sorted(world.kept(made[-1], folder, tmp_path / f"out{number}")[0]) == sorted(uids)
    assert fingerprint(made[0]) != fingerprint(made[1])
    with pytest.raises(DataError, match="it has changed"):
        world.kept(made[0], folder, tmp_path / "old")


def test_a_list_of_a_server_that_states_nothing_is_known_by_its_content(
    web: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Silent.send_header
    told = ("Content-Type",)
    monkeypatch.setattr(Silent, "send_header", lambda self, name, value: plain(self, name, value) if name in told else None)
    shown, url = web
    folder = world.write(tmp_path / "m", TABLE)
    for number, uids in enumerate((MINE[:5], MINE[5:10])):
        (shown / "mine.npy").write_bytes(npy(uids))
        (tmp_path / "here.npy").write_bytes(npy(uids))
        made = Listed(uids=f"{url}/mine.npy")
        assert fingerprint(made) == fingerprint(Listed(uids=str(tmp_path / "here.npy")))
        assert sorted(world.kept(made, folder, tmp_path / f"out{number}")[0]) == sorted(uids)


def test_a_folder_on_a_web_server(web: tuple[Path, str], tmp_path: Path) -> None:
    shown, url = web
    (shown / "lists").mkdir()
    (shown / "lists" / "a.npy").write_bytes(npy(MINE[:7]))
    (shown / "lists" / "b.txt").write_text("\n".join(MINE[7:]))
    folder = world.write(tmp_path / "m", TABLE)
    assert sorted(world.kept(Listed(uids=f"{url}/lists"), folder, tmp_path / "out")[0]) == sorted(MINE)
