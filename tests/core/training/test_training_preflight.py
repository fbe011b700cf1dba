"""What is wrong with shards is an error before any process starts."""

from pathlib import Path

import pytest
from training_world import NoiseSpec, noise, store_at, training

from datacomp_core.artifacts import ShardSet
from datacomp_core.errors import DataError, SpecError
from datacomp_core.store import Store
from datacomp_core.training.preflight import preflight
from datacomp_core.training.train import train


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return store_at(tmp_path)


@pytest.fixture
def shards(store: Store) -> ShardSet:
    return noise(NoiseSpec(), store=store)


def tar(store: Store, shards: ShardSet, number: int = 1) -> Path:
    return store.folder(shards).path / f"{number:08d}.tar"


def test_a_whole_set_passes_with_its_counts(store: Store, shards: ShardSet, tmp_path: Path) -> None:
    source, rows = preflight(shards, store.folder(shards), tmp_path, 2.0)
    assert source.shards == (("00000000", 24), ("00000001", 16))
    assert (source.weight, [row.num_samples for row in rows]) == (2.0, [24, 16])


def test_without_an_index_one_is_made_from_the_tars(store: Store, shards: ShardSet, tmp_path: Path) -> None:
    for index in (store.folder(shards).path / "index").iterdir():
        index.unlink()
    source, _ = preflight(shards, store.folder(shards), tmp_path / "run", 1.0)
    assert source.shards == (("00000000", 24), ("00000001", 16))
    assert source.index.startswith(str(tmp_path / "run"))


def test_a_missing_shard_is_named(store: Store, shards: ShardSet) -> None:
    tar(store, shards).unlink()
    with pytest.raises(DataError, match=r"no shard 00000001.tar"):
        train(training(), (shards,), store=store, device="cpu")


def test_all_shards_missing_ends_at_once(store: Store, shards: ShardSet) -> None:
    for number in (0, 1):
        tar(store, shards, number).unlink()
    with pytest.raises(DataError, match="has no shards"):
        train(training(), (shards,), store=store, device="cpu")


def test_a_truncated_shard_is_named(store: Store, shards: ShardSet) -> None:
    whole = tar(store, shards).read_bytes()
    tar(store, shards).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"00000001.tar has \d+ bytes, but its index reaches to \d+: it is truncated"):
        train(training(), (shards,), store=store, device="cpu")


def test_a_shard_of_noise_is_named(store: Store, shards: ShardSet) -> None:
    tar(store, shards).write_bytes(b"\xa5" * tar(store, shards).stat().st_size)
    with pytest.raises(DataError, match="header is damaged"):
        train(training(), (shards,), store=store, device="cpu")


def test_counts_that_disagree_with_the_record_are_an_error(store: Store, shards: ShardSet) -> None:
    with pytest.raises(DataError, match="has 40 samples, but its record says 41"):
        train(training(), (shards.model_copy(update={"num_samples": 41}),), store=store, device="cpu")


def test_nothing_to_train_on_is_an_error(store: Store) -> None:
    empty = noise(NoiseSpec(counts=(0,)), store=store)
    with pytest.raises(DataError, match="nothing to train on"):
        train(training(), (empty,), store=store, device="cpu")
    with pytest.raises(SpecError, match="at least one"):
        train(training(), (), store=store, device="cpu")


def test_a_world_that_does_not_fit_is_refused_before_the_shards_are_read(store: Store, shards: ShardSet) -> None:
    tar(store, shards).unlink()
    with pytest.raises(SpecError, match=r"3 processes .* do not divide"):
        train(training(), (shards,), store=store, device="cpu", processes=3)
