"""A fuzzer of tars beside a brute-force reader: what is adopted is what tarfile reads, or an error, or a loss with a reason."""

from __future__ import annotations

import io
import os
import random
import shutil
import tarfile
import time
from pathlib import Path

import pytest
from odd_tars import Members, add, pack, picture, uid_of

from datacomp_core.errors import DatacompError
from datacomp_core.pool.adopt import AdoptedPoolSpec, adopt_metadata, adopt_shards
from datacomp_core.shards import read_index, read_samples
from datacomp_core.store import Folder, Store

SECONDS = float(os.environ.get("FUZZ_SECONDS", "240"))
NAMES = ("a[1]", "b*", "c?d", "plain", "ünï", "x y", "q#1", "p%20", "e{1,2}")


def made(chance: random.Random, first: int) -> bytes:
    """A tar of some samples, whole or with something odd."""
    members: Members = []
    for number in range(first, first + chance.randint(1, 6)):
        key = f"{chance.choice(['', '', 'f/'])}{number:06d}"
        kinds = [("jpg", picture(number)), ("txt", f"t{number}".encode())]
        if chance.random() < 0.5:
            kinds.append(
                (
                    "json",
                    chance.choice([b'{"uid": "%s"}' % uid_of(number).encode(), b"[]", b"{", b'{"url": "http://h/%d"}' % number]),
                )
            )
        if chance.random() < 0.15:
            kinds.pop(chance.randrange(2))
        chance.shuffle(kinds)
        members += [(f"{key}.{kind}", b"" if chance.random() < 0.05 else data) for kind, data in kinds]
    if chance.random() < 0.2:
        chance.shuffle(members)
    if chance.random() < 0.2:
        members.insert(chance.randrange(len(members)), ("README", b"x"))
    form = chance.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    return pack(members, form)


def broken(chance: random.Random, data: bytes) -> bytes:
    """The same, cut, zeroed, flipped, doubled or with another's end."""
    at = chance.randrange(len(data))
    kind = chance.randrange(6)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :]
    if kind == 2:
        return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :]
    if kind == 3:
        return data + data
    if kind == 4:
        return data[: at // 512 * 512] + bytes(len(data) - at // 512 * 512)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        add(archive, "l.jpg", kind=chance.choice([tarfile.LNKTYPE, tarfile.SYMTYPE]), linkname="x")
    return buffer.getvalue()


def by_tarfile(data: bytes) -> Members:
    """What tarfile reads of the whole of a file, or nothing if it does not get through all of it."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            return [(info.name, archive.extractfile(info).read()) for info in archive if info.isreg()]  # type: ignore[union-attr]
    except (tarfile.TarError, OSError, EOFError):
        return []


def usable(members: Members) -> list[bytes]:
    """Captions of the samples that have a picture with bytes in it and a caption, each member beside the others of its key."""
    found: dict[str, dict[str, bytes]] = {}
    for name, data in members:
        key, dot, kind = name.rpartition(".")
        if dot:
            found.setdefault(key, {})[kind] = data
    return sorted(one["jpg"] + b"|" + one["txt"] for one in found.values() if one.get("jpg") and "txt" in one)


def run(chance: random.Random, source: Folder, store: Store) -> str:
    """One round; what came of it."""
    tars = {chance.choice(NAMES) + str(number): made(chance, number * 100) for number in range(chance.randint(1, 3))}
    given = {name: broken(chance, data) if chance.random() < 0.25 else data for name, data in tars.items()}
    for name, data in given.items():
        source.write(f"{name}.tar", data)
    spec = AdoptedPoolSpec(source=source.url, damaged=chance.choice(["refuse", "leave_out"]))
    try:
        shards = adopt_shards(spec, adopt_metadata(spec, store=store), store=store)
    except DatacompError:
        assert not source.exists("index"), "something was written beside tars that were refused"
        return "refused"
    found = [
        next((members[name] for name in members if name == "jpg"), b"") + b"|" + members["txt"]
        for name in given
        for _, members in read_samples(source, read_index(source, name))
    ]
    assert len(found) == shards.num_samples == shards.counts["arrived"]
    expected = [one for name in given if read_index(source, name).height for one in usable(by_tarfile(given[name]))]
    assert sorted(found) == sorted(expected), (spec, sorted(given))
    lost = [name for name in given if not read_index(source, name).height and usable(by_tarfile(given[name]))]
    assert len(lost) <= shards.counts.get("damaged_tars", 0), "a tar was left out without a count"
    losses = {"no_picture", "no_caption", "empty_picture", "damaged_tar"}
    assert shards.counts["candidates"] == shards.counts["arrived"] + sum(shards.counts.get(name, 0) for name in losses)
    return "adopted"


def fuzz(tmp_path: Path, seconds: float, rounds: int, first: int) -> None:
    end, seen = time.monotonic() + seconds, dict.fromkeys(("adopted", "refused"), 0)
    for seed in range(first, first + rounds):
        if time.monotonic() > end:
            break
        chance = random.Random(seed)
        root = tmp_path / chance.choice(NAMES)
        try:
            seen[run(chance, Folder(root / "old"), Store.open(str(root / "store")))] += 1
        except BaseException as problem:
            problem.add_note(f"seed {seed}")
            raise
        shutil.rmtree(root)
    assert all(seen.values()), seen


def test_some_tars(tmp_path: Path) -> None:
    fuzz(tmp_path, 60, 8, 1)


@pytest.mark.slow
def test_many_tars(tmp_path: Path) -> None:
    fuzz(tmp_path, SECONDS, 1 << 30, int(time.time()))


@pytest.mark.slow
@pytest.mark.s3
def test_many_tars_in_a_bucket(s3_url: str) -> None:
    end = time.monotonic() + SECONDS / 4
    seed = int(time.time())
    while time.monotonic() < end:
        seed += 1
        run(random.Random(seed), Folder(f"{s3_url}/{seed}/old"), Store.open(f"{s3_url}/{seed}/store"))
