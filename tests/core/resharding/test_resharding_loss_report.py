"""Losses: every chosen sample is written or missing for a named reason, and what cannot be explained fails the step."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from reshard_world import expected, files_of, index, name_of, read_tars, sample_of, write_pool, write_subset, write_tar

from datacomp_core.errors import DataError, IncompleteError
from datacomp_core.resharding.reshard import ReshardSpec, reshard_folders
from datacomp_core.shards import read_index
from datacomp_core.store import Folder


def missing_of(out: Path) -> dict[str, tuple[int, str, str]]:
    table = pl.concat([pl.read_parquet(path) for path in sorted((out / "missing").glob("*.parquet"))])
    return {uid: (copies, reason, detail) for uid, copies, reason, detail in table.iter_rows()}


def test_what_never_arrived_is_counted_with_the_ledgers_reason(tmp_path: Path) -> None:
    pool, out = tmp_path / "pool", tmp_path / "out"
    uids = write_pool(pool, shards=3, samples=10, dead=4)
    chosen = uids + uids[7:9]
    account = reshard_folders(Folder(pool), write_subset(tmp_path / "s.npy", chosen), Folder(out), ReshardSpec())
    assert account.missing == {"never_downloaded": 14}
    assert account.details == {"never_downloaded: dns": 7, "never_downloaded: http_4xx": 7}
    found = missing_of(out)
    assert found.keys() == {uid for uid in uids if f"{uid}-0" not in expected(pool, uids)}
    assert found[uids[7]] == (2, "never_downloaded", "dns")
    assert json.loads((out / "accounting.json").read_text())["missing"] == {"never_downloaded": 14}
    strict = ReshardSpec(never_downloaded="refuse", tolerated_missing=0.1)
    with pytest.raises(IncompleteError, match=r"Of 32 chosen samples 18 can be written .*never_downloaded 14"):
        reshard_folders(Folder(pool), str(tmp_path / "s.npy"), Folder(tmp_path / "strict"), strict)
    assert not list((tmp_path / "strict").glob("*.tar"))


def test_a_uid_that_a_ledger_has_twice_is_counted_with_its_first_reason(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    uids = write_pool(pool, shards=1, samples=10, dead=2)
    ledger = pl.read_parquet(pool / "ledger/00000000.parquet")
    failed = ledger.filter(pl.col("reason").is_not_null())
    pl.concat([ledger, failed.with_columns(reason=pl.lit("timeout"))]).write_parquet(pool / "ledger/00000000.parquet")
    reshard_folders(Folder(pool), write_subset(tmp_path / "s.npy", uids), Folder(tmp_path / "out"), ReshardSpec())
    assert missing_of(tmp_path / "out") == {
        uid: (1, "never_downloaded", reason) for uid, reason in failed.select("uid", "reason").iter_rows()
    }
    assert failed.height == 2
    assert "timeout" not in set(failed["reason"])


def test_what_was_taken_down_is_counted_as_such(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    uids = write_pool(pool, shards=2, samples=10, dead=2)
    gone = uids[3:5]
    write_tar(pool / "00000000.tar", [(f"{i:04d}", sample_of(i, u)) for i, u in enumerate(uids[:8]) if u not in gone])
    index(pool)
    ledger = pl.read_parquet(pool / "ledger/00000000.parquet")
    reason = pl.when(pl.col("uid").is_in(gone)).then(pl.lit("taken_down")).otherwise("reason")
    ledger.with_columns(reason=reason).write_parquet(pool / "ledger/00000000.parquet")
    subset = write_subset(tmp_path / "s.npy", uids + gone)
    spec = ReshardSpec(never_downloaded="refuse", tolerated_missing=4 / 22)
    account = reshard_folders(Folder(pool), subset, Folder(tmp_path / "out"), spec)
    assert account.missing == {"never_downloaded": 4, "taken_down": 4}
    assert read_tars(tmp_path / "out") == expected(pool, uids)


def test_uids_that_no_shard_knows_fail_the_step_unless_tolerated(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    uids = write_pool(pool, dead=0)
    subset = write_subset(tmp_path / "s.npy", [*uids, name_of(10_000), name_of(10_001)])
    with pytest.raises(IncompleteError, match="unknown 2"):
        reshard_folders(Folder(pool), subset, Folder(tmp_path / "out"), ReshardSpec())
    assert missing_of(tmp_path / "out")[name_of(10_000)] == (1, "unknown", "")
    account = reshard_folders(Folder(pool), subset, Folder(tmp_path / "tolerant"), ReshardSpec(tolerated_missing=0.02))
    assert account.counts() == {"subset": 102, "written": 100, "missing_unknown": 2, "found_again": 0}
    assert read_tars(tmp_path / "tolerant") == expected(pool, uids)


def test_empty_and_disjoint_subsets_and_a_folder_without_shards(tmp_path: Path) -> None:
    write_pool(tmp_path / "pool")
    empty = write_subset(tmp_path / "empty.npy", [])
    with pytest.raises(DataError, match="is empty"):
        reshard_folders(Folder(tmp_path / "pool"), empty, Folder(tmp_path / "a"), ReshardSpec())
    disjoint = write_subset(tmp_path / "disjoint.npy", [name_of(5000)])
    with pytest.raises(IncompleteError, match="0 can be written"):
        reshard_folders(Folder(tmp_path / "pool"), disjoint, Folder(tmp_path / "b"), ReshardSpec(tolerated_missing=1.0))
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="has no shards"):
        reshard_folders(Folder(tmp_path / "none"), disjoint, Folder(tmp_path / "c"), ReshardSpec())


@pytest.mark.parametrize("indexed", ["index", "no index"])
def test_a_truncated_shard_is_a_named_loss(tmp_path: Path, indexed: str) -> None:
    pool = tmp_path / "pool"
    uids = write_pool(pool, dead=0)
    rows = read_index(Folder(pool), "00000002")
    data = (pool / "00000002.tar").read_bytes()
    (pool / "00000002.tar").write_bytes(data[: rows["offset"][10] + 600])
    if indexed == "no index":
        for path in (pool / "index").iterdir():
            path.unlink()
    lost = rows["uid"].to_list()[10:] if indexed == "index" else None
    subset = write_subset(tmp_path / "s.npy", uids)
    with pytest.raises(IncompleteError, match=r"corrupt 1[01].*damaged shards \(1\): 00000002: it"):
        reshard_folders(Folder(pool), subset, Folder(tmp_path / "out"), ReshardSpec(tolerated_missing=0.09))
    account = reshard_folders(Folder(pool), subset, Folder(tmp_path / "tolerant"), ReshardSpec(tolerated_missing=0.11))
    found = read_tars(tmp_path / "tolerant")
    assert account.written == len(found)
    assert account.written + account.missing["corrupt"] == 100
    missing = missing_of(tmp_path / "tolerant")
    assert {f"{uid}-0" for uid in uids if uid not in missing} == found.keys()
    if lost is not None:
        assert sorted(missing) == sorted(lost)


def test_a_shard_that_is_gone_is_a_named_loss(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    uids = write_pool(pool, dead=2)
    (pool / "00000001.tar").unlink()
    subset = write_subset(tmp_path / "s.npy", uids)
    with pytest.raises(IncompleteError, match=r"shard_gone 18.*00000001: it is gone"):
        reshard_folders(Folder(pool), subset, Folder(tmp_path / "out"), ReshardSpec())
    account = reshard_folders(Folder(pool), subset, Folder(tmp_path / "tolerant"), ReshardSpec(tolerated_missing=0.2))
    assert account.missing == {"never_downloaded": 10, "shard_gone": 18}


def test_members_that_are_missing_or_damaged_are_no_reason_to_guess(tmp_path: Path) -> None:
    """A sample without its json has no uid, so its ledger row says that it is corrupt; a stale index is an error."""
    pool = tmp_path / "pool"
    uids = write_pool(pool, shards=1, samples=6, dead=0)
    data = bytearray((pool / "00000000.tar").read_bytes())
    offset = read_index(Folder(pool), "00000000")["offset"][3]
    data[offset + 156] = ord("5")  # what the index calls an image is a folder now
    (pool / "00000000.tar").write_bytes(bytes(data))
    subset = write_subset(tmp_path / "s.npy", uids)
    with pytest.raises(DataError, match=r"00000000\.tar does not match its index.*checksum"):
        reshard_folders(Folder(pool), subset, Folder(tmp_path / "out"), ReshardSpec())
    assert not list((tmp_path / "out").glob("*.tar"))


def test_folders_of_the_original_tooling(tmp_path: Path) -> None:
    """No index, no ledger of ours: img2dataset's parquet beside each shard says what was lost."""
    pool = tmp_path / "pool"
    uids = write_pool(pool, shards=3, samples=10, dead=2)
    for shard in range(3):
        ledger = pl.read_parquet(pool / f"ledger/{shard:08d}.parquet")
        status = pl.when(pl.col("reason").is_null()).then(pl.lit("success")).otherwise(pl.lit("failed_to_download"))
        ledger.select("uid", status=status).write_parquet(pool / f"{shard:08d}.parquet")
        (pool / f"index/{shard:08d}.parquet").unlink()
        (pool / f"ledger/{shard:08d}.parquet").unlink()
    subset = write_subset(tmp_path / "s.npy", uids)
    before = files_of(pool)
    account = reshard_folders(Folder(pool), subset, Folder(tmp_path / "out"), ReshardSpec())
    assert account.details == {"never_downloaded: failed_to_download": 6}
    assert read_tars(tmp_path / "out") == expected(pool, uids)
    assert files_of(pool) == before


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    uids = write_pool(tmp_path / "pool", dead=0)
    out = Folder(tmp_path / "out")
    some, others = (write_subset(tmp_path / f"{n}.npy", uids[n::2]) for n in (0, 1))
    reshard_folders(Folder(tmp_path / "pool"), some, out, ReshardSpec())
    with pytest.raises(DataError, match="contains a reshard of another subset"):
        reshard_folders(Folder(tmp_path / "pool"), others, out, ReshardSpec())
    with pytest.raises(DataError, match="contains a reshard of another subset"):
        reshard_folders(Folder(tmp_path / "pool"), some, out, ReshardSpec(seed=1))
    with pytest.raises(DataError, match="no reshard of ours"):
        reshard_folders(Folder(tmp_path / "pool"), some, Folder(tmp_path / "pool"), ReshardSpec())
