"""Input shards as a download leaves them, and a reader that knows nothing of ours: tarfile over every member."""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl

from datacomp_core import uid
from datacomp_core.shards import index_shard, shard_names, write_index
from datacomp_core.store import Folder

Samples = dict[str, dict[str, bytes]]


def name_of(number: int) -> str:
    return f"{number * 2654435761 % 2**64:016x}{number:016x}"


def sample_of(number: int, uid: str) -> dict[str, bytes]:
    rng = random.Random(number)
    return {
        "jpg": rng.randbytes(rng.choice([0, 1, 511, 512, 513, 3000])),
        "json": json.dumps({"uid": uid, "n": number}).encode(),
        "txt": f"caption {number} é".encode(),
    }


def write_tar(path: Path, samples: list[tuple[str, dict[str, bytes]]], form: int = tarfile.USTAR_FORMAT) -> None:
    with tarfile.open(path, "w", format=form) as archive:
        for key, members in samples:
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size, info.mtime = len(content), 1_700_000_000.25
                archive.addfile(info, io.BytesIO(content))


def write_pool(folder: Path, *, shards: int = 5, samples: int = 20, dead: int = 4) -> list[str]:
    """Shards with index and ledger; the last `dead` candidates of each never arrived. Returns all candidates' uids."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ledger").mkdir(exist_ok=True)
    uids: list[str] = []
    for shard in range(shards):
        mine = [name_of(shard * samples + i) for i in range(samples)]
        alive = mine[: samples - dead]
        content = [(f"{shard:08d}{i:04d}", sample_of(shard * samples + i, u)) for i, u in enumerate(alive)]
        write_tar(folder / f"{shard:08d}.tar", content)
        reasons = [None] * len(alive) + ["http_4xx", "dns"] * dead
        pl.DataFrame({"uid": mine, "reason": reasons[: len(mine)]}).write_parquet(folder / f"ledger/{shard:08d}.parquet")
        uids += mine
    index(folder)
    return uids


def index(folder: Path) -> None:
    for shard in shard_names(Folder(folder)):
        write_index(Folder(folder), shard, index_shard(Folder(folder), shard).rows)


def write_subset(path: Path, uids: list[str]) -> str:
    path.write_bytes(uid.subset_bytes(uid.pack(pl.Series("uid", uids, dtype=pl.String))))
    return str(path)


def read_tars(folder: Path) -> Samples:
    """Every sample of every tar of a folder by key. Keys must not repeat, and samples must not be torn."""
    found: Samples = {}
    for path in sorted(folder.glob("*.tar")):
        last = ""
        with tarfile.open(path) as archive:
            for member in archive:
                key, _, extension = member.name.partition(".")
                assert key == last or key not in found, f"{key} is torn or repeated"
                last = key
                file = archive.extractfile(member)
                assert file is not None
                found.setdefault(key, {})[extension] = file.read()
    return found


def expected(pool: Path, chosen: list[str]) -> Samples:
    """What a reshard must hold, told by reading the whole pool."""
    by_uid = {json.loads(sample["json"])["uid"]: sample for sample in read_tars(pool).values()}
    return {f"{u}-{copy}": by_uid[u] for u, times in Counter(chosen).items() if u in by_uid for copy in range(times)}


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def placeless(files: dict[str, bytes]) -> dict[str, Any]:
    """The files of a reshard; its request without the marks of its inputs (etags in a bucket, hashes of bytes elsewhere)."""
    request = json.loads(files["reshard.json"])
    assert len(request.pop("shards_content")) == 1
    return {**files, "reshard.json": request}
