"""Faces, mixes and views against what one would do by hand."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from reshard_world import expected, name_of, read_tars, write_pool, write_subset, write_tar

from datacomp_core import uid
from datacomp_core.artifacts import ShardSet, Subset
from datacomp_core.errors import DataError, SpecError
from datacomp_core.resharding import plan_inputs
from datacomp_core.resharding.faces import FaceSpec
from datacomp_core.resharding.mix import MixSpec, mix
from datacomp_core.resharding.reshard import (
    FaceTreatment,
    ReshardSpec,
    account_folders,
    reshard,
    reshard_folders,
    reshard_several,
)
from datacomp_core.resharding.view import view
from datacomp_core.shards import parse_sample, read_index, tars_of
from datacomp_core.store import Folder, Store

BOXES = {2: [[0.2, 0.1, 0.6, 0.7]], 5: [[0.0, 0.0, 0.3, 0.3], [0.5, 0.5, 1.0, 1.0]]}


def pool_with_faces(tmp_path: Path) -> list[str]:
    from PIL import Image

    (tmp_path / "pool").mkdir()
    (tmp_path / "metadata").mkdir()
    samples: list[tuple[str, dict[str, bytes]]] = []
    for number in range(8):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        Image.fromarray(pixels).convert("L" if number == 5 else "RGB").save(buffer, "JPEG")
        meta = json.dumps({"uid": name_of(number), "width": 64}).encode()
        samples.append((f"{number:06d}", {"jpg": buffer.getvalue(), "json": meta, "txt": b"words"}))
    write_tar(tmp_path / "pool/00000000.tar", samples)
    uids = [name_of(number) for number in range(8)]
    table = pl.DataFrame({"uid": uids, "face_bboxes": [BOXES.get(n, [] if n else None) for n in range(8)]})
    for part in range(2):
        table[part::2].write_parquet(tmp_path / f"metadata/{part}.parquet")
    return uids


def blurred_as_the_reference_does(jpg: bytes, boxes: list[list[float]], quality: int) -> bytes:
    import cv2
    from img2dataset.blurrer import BoundingBoxBlurrer

    image = cv2.imdecode(np.frombuffer(jpg, np.uint8), cv2.IMREAD_UNCHANGED)
    done = BoundingBoxBlurrer()(image, boxes)
    done = np.dstack([done] * 3) if done.ndim == 2 else done
    return cv2.imencode(".webp", done, [int(cv2.IMWRITE_WEBP_QUALITY), quality])[1].tobytes()


@pytest.mark.parametrize("treatment", ["blur", "inject", "blur_and_inject"])
def test_faces_are_treated_and_nothing_else(tmp_path: Path, treatment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    uids = pool_with_faces(tmp_path)
    chosen = [*uids, uids[5]]
    faced = FaceTreatment(FaceSpec.model_validate({"treatment": treatment, "quality": 90}), Folder(tmp_path / "metadata"))
    subset = write_subset(tmp_path / "s.npy", chosen)
    reshard_folders(Folder(tmp_path / "pool"), subset, Folder(tmp_path / "out"), ReshardSpec(), faced=faced)
    wanted = expected(tmp_path / "pool", chosen)
    for number, boxes in BOXES.items():
        for key in [key for key in wanted if key.startswith(name_of(number))]:
            sample = dict(wanted[key])
            if treatment != "inject":
                sample["webp"] = blurred_as_the_reference_does(sample.pop("jpg"), boxes, 90)
            if treatment != "blur":
                sample["json"] = json.dumps({**json.loads(sample["json"]), "face_bboxes": boxes}).encode()
            wanted[key] = sample
    assert read_tars(tmp_path / "out") == wanted


def test_a_sample_that_the_metadata_does_not_know_might_show_a_face(tmp_path: Path) -> None:
    uids = pool_with_faces(tmp_path)
    (tmp_path / "metadata/1.parquet").unlink()
    faced = FaceTreatment(FaceSpec(treatment="inject"), Folder(tmp_path / "metadata"))
    subset = write_subset(tmp_path / "s.npy", uids)
    with pytest.raises(DataError, match="4 of 8 samples .* are not in the metadata"):
        reshard_folders(Folder(tmp_path / "pool"), subset, Folder(tmp_path / "out"), ReshardSpec(), faced=faced)


def test_a_dry_run_tells_what_a_run_does_and_writes_nothing(tmp_path: Path) -> None:
    uids = write_pool(tmp_path / "pool", shards=3, samples=10, dead=2)
    subset = write_subset(tmp_path / "s.npy", uids)
    before = sorted(tmp_path.rglob("*"))
    told, num_bytes = account_folders(Folder(tmp_path / "pool"), subset, ReshardSpec())
    assert sorted(tmp_path.rglob("*")) == before
    out = Folder(tmp_path / "out")
    assert told == reshard_folders(Folder(tmp_path / "pool"), subset, out, ReshardSpec())
    assert num_bytes == read_index(out, "00000000")["length"].sum()


def shard_set(name: str, letter: str) -> ShardSet:
    return ShardSet(scale="tiny", data=name, fingerprint=letter * 64, num_samples=1, num_unique=1, num_shards=1)


def test_a_mix_takes_each_sample_as_often_as_its_weight_says(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    root = tmp_path / "store"
    first = write_pool(root / "pool", shards=2, samples=100, dead=0)
    (root / "own").mkdir()
    own = [name_of(1000 + n) for n in range(50)]
    content = [(f"{n}", {"json": json.dumps({"uid": u}).encode()}) for n, u in enumerate(own)]
    write_tar(root / "own/00000000.tar", [*content, ("nameless", {"txt": b"no uid"})])
    sets = (shard_set("pool", "a"), shard_set("own", "b"))
    subset = mix(MixSpec(weights=(0.5, 2.25)), sets, store=store)
    chosen = Counter(uid.unpack(uid.open_subset(store.folder(subset).path / "subset.npy")).to_list())
    assert {chosen[u] for u in first} == {0, 1}
    assert 70 < sum(chosen[u] for u in first) < 130
    assert {chosen[u] for u in own} == {2, 3}
    assert subset.counts["without_uid"] == 1
    assert subset.num_samples == chosen.total() == subset.counts["input_1"] + subset.counts["input_2"]
    assert subset.num_unique == len(chosen)
    made = reshard_several(ReshardSpec(samples_per_shard=60), subset, sets, store=store)
    found = read_tars(store.folder(made).path)
    assert Counter(key.partition("-")[0] for key in found) == chosen
    with pytest.raises(SpecError, match="2 weights for 1 shard sets"):
        mix(MixSpec(weights=(1, 1)), sets[:1], store=store)


def two_sources(root: Path, names: list[str], told: str) -> None:
    root.mkdir(parents=True)
    write_tar(
        root / "00000000.tar", [(u, {"txt": f"{told} {u}".encode(), "json": json.dumps({"uid": u}).encode()}) for u in names]
    )


@pytest.mark.parametrize("weights", [(1, 1), (2, 1), (1, 0), (0, 3), (1.5, 2.5)])
@pytest.mark.parametrize("workers", [1, 2])
def test_one_uid_of_two_sources_gives_both_pairs_apart(
    weights: tuple[float, float], workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_inputs, "INDICES_WORTH_A_PROCESS", 1)
    store = Store.open(str(tmp_path / "store"))
    names = [name_of(n) for n in range(40)]
    two_sources(tmp_path / "store/first", names[:30], "first")
    two_sources(tmp_path / "store/second", names[20:], "second")
    sets = (shard_set("first", "a"), shard_set("second", "b"))
    subset = mix(MixSpec(weights=weights), sets, store=store, workers=workers)
    made = reshard_several(ReshardSpec(samples_per_shard=11), subset, sets, store=store, workers=workers)
    found = read_tars(store.folder(made).path)
    assert Counter(key.partition("-")[0] for key in found) == Counter(
        uid.unpack(uid.open_subset(store.folder(subset).path / "subset.npy")).to_list()
    )
    texts = Counter(sample["txt"].decode() for sample in found.values())
    for told, mine, weight in (("first", names[:30], weights[0]), ("second", names[20:], weights[1])):
        copies = {texts[f"{told} {u}"] for u in mine}
        assert (copies <= {int(weight), int(weight + 0.5)} and sum(copies) > 0) or not weight
    assert made.num_samples == len(found) == subset.num_samples
    assert made.num_unique == len({key.partition("-")[0] for key in found})


def test_a_pair_that_one_of_two_sources_lost_is_told_and_the_other_is_written(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    names = [name_of(n) for n in range(6)]
    two_sources(tmp_path / "store/first", names, "first")
    two_sources(tmp_path / "store/second", names, "second")
    sets = (shard_set("first", "a"), shard_set("second", "b"))
    subset = mix(MixSpec(weights=(1, 2)), sets, store=store)
    (tmp_path / "store/first/00000000.tar").unlink()
    two_sources(tmp_path / "store/first2", names[1:], "first")
    (tmp_path / "store/first2/00000000.tar").rename(tmp_path / "store/first/00000000.tar")
    made = reshard_several(ReshardSpec(tolerated_missing=0.1), subset, sets, store=store)
    found = read_tars(store.folder(made).path)
    texts = Counter(sample["txt"].decode() for sample in found.values())
    assert texts == Counter({f"first {u}": 1 for u in names[1:]} | {f"second {u}": 2 for u in names})
    assert (made.counts["missing_unknown"], made.num_unique) == (1, 6)
    missing = pl.read_parquet(store.folder(made).path / "missing/00000000.parquet")
    assert missing.select("uid", "copies", "reason").rows() == [(names[0], 1, "unknown")]


def test_a_view_shows_the_samples_of_the_reshard_in_its_order(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    uids = write_pool(tmp_path / "store/pool", shards=3, samples=20, dead=3)
    (tmp_path / "store/subset").mkdir()
    write_subset(tmp_path / "store/subset/subset.npy", uids[::2] + uids[:4])
    subset = Subset(name="half", data="subset", fingerprint="b" * 64, recipe="half", num_samples=34, num_unique=30)
    spec, pool = ReshardSpec(samples_per_shard=7), shard_set("pool", "a")
    copied, seen = (one(spec, subset, pool, store=store) for one in (reshard, view))
    assert not list(store.folder(seen).path.glob("*.tar"))
    assert (seen.num_samples, seen.num_shards, seen.counts) == (copied.num_samples, copied.num_shards, copied.counts)
    for number in range(copied.num_shards):
        ours, theirs = (read_index(store.folder(one), f"{number:08d}") for one in (seen, copied))
        assert ours.select("uid", "key").equals(theirs.select("uid", "key"))
        for mine, other in zip(ours.iter_rows(named=True), theirs.iter_rows(named=True), strict=True):
            samples = [
                parse_sample(tars_of(store, one).read_range(f"{row['shard']}.tar", row["offset"], row["offset"] + row["length"]))
                for one, row in ((seen, mine), (copied, other))
            ]
            assert samples[0] == samples[1]
    with pytest.raises(SpecError, match="is a view"):
        reshard(spec, subset, seen, store=store)
