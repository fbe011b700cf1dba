"""The join of metadata with the index against a dictionary; slots of shared memory; pretrained weights by hash."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from shared_pixels_filler import fill

from datacomp_core import clip, pretrained_weights
from datacomp_core.embedding import locate as locating
from datacomp_core.embedding.locate import count_rows, locate
from datacomp_core.errors import DataError, SpecError, StoreError
from datacomp_core.settings import settings
from datacomp_core.shards import INDEX_SCHEMA, ShardWriter, write_index
from datacomp_core.shared_pixels import Slots
from datacomp_core.store import Folder


def uid(number: int) -> str:
    return hashlib.md5(str(number).encode()).hexdigest()


@pytest.mark.parametrize("bucket_rows", [8_000_000, 37])
def test_every_row_finds_the_first_sample_with_its_uid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_rows: int) -> None:
    """Brute force over repeated uids on both sides, samples of other pools, uids that are none, in one bucket or in many."""
    monkeypatch.setattr(locating, "BUCKET_ROWS", bucket_rows)
    monkeypatch.setattr(locating, "READ_FILES", 2)
    random = np.random.default_rng(0)
    metadata, shards, into = Folder(tmp_path / "metadata"), Folder(tmp_path / "shards"), tmp_path / "located"
    into.mkdir()
    parts = {f"part{n}": [uid(number) for number in random.integers(0, 400, count)] for n, count in enumerate((120, 0, 75))}
    for name, uids in parts.items():
        with metadata.writing(f"{name}.parquet") as path:
            pl.DataFrame({"uid": uids}, schema={"uid": pl.String}).write_parquet(path)
    first: dict[str, tuple[str, int, int]] = {}
    for shard in range(5):
        numbers = random.integers(100, 600, 40)
        uids = [uid(number) if number % 7 else None if number % 2 else "no-uid" for number in numbers]
        rows = [(u, "key", f"{shard:08d}", 512 * at, 512) for at, u in enumerate(uids)]
        write_index(shards, f"{shard:08d}", pl.DataFrame(rows, INDEX_SCHEMA, orient="row"))
        for u, _, name, offset, length in rows:
            first.setdefault(u or "", (name, offset, length))
    located = locate(metadata, count_rows(metadata, list(parts)), shards, into)
    for name, uids in parts.items():
        wanted = [(row, *first[u]) for row, u in enumerate(uids) if u in first]
        assert located.part(name).rows() == wanted
    assert not list(into.glob("index-*")), "what was joined is gone"


def test_bare_tars_are_found_as_indexed_ones_are(tmp_path: Path) -> None:
    metadata, folder, random = Folder(tmp_path / "m"), Folder(tmp_path / "s"), np.random.default_rng(5)
    uids = [[uid(number) for number in random.integers(0, 60, 30)] for _ in range(3)]
    for shard, names in enumerate(uids):
        buffer = io.BytesIO()
        writer = ShardWriter(buffer, f"{shard:08d}")
        for at, name in enumerate(names):
            writer.add(name, f"{at:09d}", {"jpg": bytes([at]) * (at + 1), "json": json.dumps({"uid": name.upper()}).encode()})
        write_index(folder, f"{shard:08d}", writer.finish())
        folder.write(f"{shard:08d}.tar", buffer.getvalue())
    with metadata.writing("0.parquet") as path:
        pl.DataFrame({"uid": [uid(number) for number in range(100)]}).write_parquet(path)
    found: list[pl.DataFrame] = []
    for into in (tmp_path / "indexed", tmp_path / "bare"):
        into.mkdir()
        found.append(locate(metadata, {"0": 100}, folder, into).part("0"))
        shutil.rmtree(folder.at("index"), ignore_errors=True)
    assert found[0].height == len({name for names in uids for name in names})
    assert found[0].equals(found[1])


def test_a_folder_without_shards_and_metadata_that_is_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"bad\.parquet is not readable metadata"):
        count_rows(Folder(tmp_path), ["bad"])
    with pytest.raises(DataError, match="has no shards"):
        locate(Folder(tmp_path), {}, Folder(tmp_path), tmp_path)


def test_slots_are_seen_by_other_processes_and_used_again() -> None:
    slots = Slots(2, 6)
    taken = [slots.take(), slots.take()]
    context = multiprocessing.get_context("spawn")
    for value, slot in enumerate(taken, 7):
        process = context.Process(target=fill, args=(slot, value))
        process.start()
        process.join()
        assert process.exitcode == 0
    arrays = [slot.array((2, 3)) for slot in taken]
    assert [array.tolist() for array in arrays] == [[[7] * 3] * 2, [[8] * 3] * 2]
    slots.give_back(taken[0])
    assert slots.take() == taken[0]
    slots.close()
    assert arrays[1][0, 0] == 8, "what is still looked at stays"


def test_pretrained_weights_are_known_by_their_hash(tmp_path: Path) -> None:
    folder = settings().home / "assets" / "clip"
    folder.mkdir(parents=True)
    given = hashlib.sha256(b"weights").hexdigest()
    (folder / f"{given}.safetensors").write_bytes(b"weights")
    assert pretrained_weights.weights("ViT-B-32", "openai", given) == folder / f"{given}.safetensors"
    (folder / f"{given}.safetensors").write_bytes(b"others")
    with pytest.raises(DataError, match="is not the file its name says"):
        pretrained_weights.weights("ViT-B-32", "openai", given)
    with pytest.raises(SpecError, match="Unknown weights of ViT-B-32 'opena'. Did you mean 'openai'"):
        pretrained_weights.weights("ViT-B-32", "opena", "0" * 64)


def test_weights_of_a_tag_are_loaded_into_the_model_they_were_trained_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in entry for our smallest model: the mean of its images and its activations are the entry's, not the default's."""
    import open_clip
    from open_clip import pretrained

    clip.register()
    entry = {
        "quick_gelu": True,
        "mean": (0.1, 0.2, 0.3),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    monkeypatch.setitem(pretrained._PRETRAINED, "datacomp-tiny", {"stand_in": {"url": "", "hf_hub": "", **entry}})
    file = tmp_path / "weights.pt"
    torch.save(clip.load("datacomp-tiny", None, "cpu").model.state_dict(), file)
    loaded = clip.load("datacomp-tiny", file, "cpu", tag="stand_in")
    assert (loaded.pixels.mean, loaded.pixels.resize_mode) == ((0.1, 0.2, 0.3), "squash")
    assert any(isinstance(module, open_clip.transformer.QuickGELU) for module in loaded.model.modules())
    saved = torch.load(file, weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in loaded.model.state_dict().items())
    file.write_bytes(b"none")
    with pytest.raises(DataError, match=r"weights\.pt cannot be read as plain weights for datacomp-tiny"):
        clip.load("datacomp-tiny", file, "cpu", tag="stand_in")


def test_weights_that_cannot_be_fetched_say_where_to_put_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    import open_clip

    entry = {"url": "http://127.0.0.1:9/weights.pt", "hf_hub": ""}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "datacomp-tiny", {"stand_in": entry})
    with pytest.raises(StoreError, match=r"Cannot fetch the weights 'stand_in' .*: put the file with sha256 0+ at .*assets/clip"):
        pretrained_weights.weights("datacomp-tiny", "stand_in", "0" * 64)
