"""New captions while resharding, read back by tarfile: texts replaced or put into the json, every other byte as it was."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import reshard_world as world

from datacomp_core.artifacts import Captioned
from datacomp_core.caption_sets import json_keys
from datacomp_core.errors import DataError
from datacomp_core.resharding import captions, reshard
from datacomp_core.resharding import copy as copying
from datacomp_core.resharding.captions import CaptionSource
from datacomp_core.resharding.reshard import ReshardSpec, reshard_folders
from datacomp_core.store import Folder

SPEC = ReshardSpec(samples_per_shard=7, seed=3)


def captioned(folder: Path, uids: list[str], *, draws: bool, without: int = 0) -> tuple[CaptionSource, dict[str, Any]]:
    """The captions of a policy for some uids, in three parts that know nothing of the shards; every third is the pool's own."""
    chance, texts = random.Random(1), dict[str, Any]()
    for place, uid in enumerate(uids):
        own = "raw" if place % 3 == 0 else "blip2"
        several = [("raw", f"r {uid}"), *[("blip2", f"“{uid}” {n}") for n in range(place % 3)]]
        texts[uid] = several if draws else [(own, f"new {uid} ü")]
    for uid in uids[:without]:
        texts[uid] = []
    order = chance.sample(uids, len(uids))
    for part in range(3):
        some = order[part::3]
        if draws:
            lists = [[{"source": s, "text": t} for s, t in texts[uid]] or None for uid in some]
            kind = pl.List(pl.Struct({"source": pl.String, "text": pl.String}))
            table, name = pl.DataFrame({"uid": some, "captions": lists}, schema={"uid": pl.String, "captions": kind}), "draws"
        else:
            pairs, name = [texts[uid][0] if texts[uid] else (None, None) for uid in some], "scores"
            columns = {"text": [text for _, text in pairs], "caption_source": [source for source, _ in pairs]}
            table = pl.DataFrame({"uid": some, **columns})
        (folder / name).mkdir(parents=True, exist_ok=True)
        table.write_parquet(folder / name / f"{part:08d}.parquet")
    made = Captioned(policy="it", sources=("raw", "blip2"), draws=draws, num_samples=len(uids), num_changed=0)
    return CaptionSource(made, Folder(folder), {"raw": 0.25, "blip2": 0.75} if draws else {}), texts


@pytest.mark.parametrize("draws", [False, True])
def test_captions_change_and_nothing_else_does(draws: bool, tmp_path: Path) -> None:
    uids = world.write_pool(tmp_path / "pool")
    source, texts = captioned(tmp_path / "c", uids, draws=draws)
    chosen = sorted(random.Random(2).choices(uids, k=60))
    where = world.write_subset(tmp_path / "s.npy", chosen)
    reshard_folders(Folder(tmp_path / "pool"), where, Folder(tmp_path / "out"), SPEC, captions=source)
    found, before = world.read_tars(tmp_path / "out"), world.expected(tmp_path / "pool", chosen)
    assert found.keys() == before.keys()
    counts: dict[str, float] = {}
    for key, sample in found.items():
        uid, old = key.partition("-")[0], before[key]
        assert sample["jpg"] == old["jpg"]
        about, was = json.loads(sample["json"]), json.loads(old["json"])
        if draws:
            mine = {"raw": texts[uid][:1], "blip2": texts[uid][1:]}
            fields = json_keys([name for name, _ in texts[uid]])
            assert about == {**was, **{field: text for field, (_, text) in zip(fields, texts[uid], strict=True)}}
            assert sample["txt"] == old["txt"]
            shares = {"raw": 0.25, "blip2": 0.75} if mine["blip2"] else {"raw": 1.0}
        else:
            (name, text) = texts[uid][0]
            shares = {name: 1.0}
            if name == "raw":
                assert sample == old
            else:
                own = {"caption_source": name, "original_caption": old["txt"].decode(), "original_caption_source": "raw"}
                assert (sample["txt"].decode(), about) == (text, {**was, **own})
        for name, share in shares.items():
            counts[name] = counts.get(name, 0) + share
    told = json.loads((tmp_path / "out/captions.json").read_text())
    assert told["sources"] == {name: round(count) for name, count in counts.items()}
    if draws:
        assert told["draw"] == {"raw": 0.25, "blip2": 0.75}
        assert told["json_text_key"] == "caption_raw;caption_blip2;caption_blip2_2"
        assert told["json_text_key_probs"] == [0.25, 0.375, 0.375]


def test_a_killed_reshard_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uids = world.write_pool(tmp_path / "pool")
    source, _ = captioned(tmp_path / "c", uids, draws=False)
    where = world.write_subset(tmp_path / "s.npy", sorted(uids))
    reshard_folders(Folder(tmp_path / "pool"), where, Folder(tmp_path / "whole"), SPEC, captions=source)
    real, done = copying.copy_shards, [0]

    def dies(job: Any) -> Any:
        done[0] += 1
        if done[0] == 4:
            raise KeyboardInterrupt
        return real(job)

    monkeypatch.setattr(reshard, "copy_shards", dies)
    with pytest.raises(KeyboardInterrupt):
        reshard_folders(Folder(tmp_path / "pool"), where, Folder(tmp_path / "out"), SPEC, captions=source)
    monkeypatch.undo()
    reshard_folders(Folder(tmp_path / "pool"), where, Folder(tmp_path / "out"), SPEC, captions=source)
    assert world.files_of(tmp_path / "out") == world.files_of(tmp_path / "whole")
    other, _ = captioned(tmp_path / "d", uids[::-1], draws=False)
    with pytest.raises(DataError, match="captions differ"):
        reshard_folders(Folder(tmp_path / "pool"), where, Folder(tmp_path / "out"), SPEC, captions=other)


@pytest.mark.parametrize("draws", [False, True])
def test_parts_that_are_read_before_their_turn_wait_on_the_disk(
    draws: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first part takes longest, and no more than one part's captions are held."""
    uids = world.write_pool(tmp_path / "pool")
    source, _ = captioned(tmp_path / "c", uids, draws=draws)
    where = world.write_subset(tmp_path / "s.npy", sorted(uids))
    reshard_folders(Folder(tmp_path / "pool"), where, Folder(tmp_path / "whole"), SPEC, captions=source)
    in_order = captions.prepared_map
    monkeypatch.setattr(captions, "MOST_PARTS_IN_MEMORY", 0)
    monkeypatch.setattr(captions, "prepared_map", lambda *given, **how: reversed(list(in_order(*given, **how))))
    reshard_folders(Folder(tmp_path / "pool"), where, Folder(tmp_path / "out"), SPEC, captions=source)
    assert world.files_of(tmp_path / "out") == world.files_of(tmp_path / "whole")


def test_a_chosen_sample_without_a_caption_is_an_error(tmp_path: Path) -> None:
    uids = world.write_pool(tmp_path / "pool")
    source, _ = captioned(tmp_path / "c", uids, draws=False, without=2)
    where = world.write_subset(tmp_path / "s.npy", sorted(uids))
    with pytest.raises(DataError, match="have no caption by the policy it"):
        reshard_folders(Folder(tmp_path / "pool"), where, Folder(tmp_path / "out"), SPEC, captions=source)
    assert not (tmp_path / "out/accounting.json").exists()


def test_a_uid_that_several_rows_have_takes_the_caption_of_the_first(tmp_path: Path) -> None:
    uids = world.write_pool(tmp_path / "pool")
    source, texts = captioned(tmp_path / "c", uids, draws=False)
    extra = pl.DataFrame({"uid": uids, "text": ["later"] * len(uids), "caption_source": ["blip2"] * len(uids)})
    extra.write_parquet(tmp_path / "c/scores/00000009.parquet")
    where = world.write_subset(tmp_path / "s.npy", sorted(uids))
    reshard_folders(Folder(tmp_path / "pool"), where, Folder(tmp_path / "out"), SPEC, captions=source)
    for key, sample in world.read_tars(tmp_path / "out").items():
        name, text = texts[key.partition("-")[0]][0]
        assert name == "raw" or sample["txt"].decode() == text
