"""`datacomp captions` and `--captions` on plain folders: from a table to new shards, by the command line alone."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from datacomp_core import uid
from datacomp_core.caption_policy import CaptionPolicy
from datacomp_core.caption_recipes import CAPTION_RECIPES, load_plan
from datacomp_core.errors import SpecError
from datacomp_core.settings import settings
from deployments.cli.main import main

Command = Callable[..., tuple[int, str, str]]
NUM = 40


def name_of(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture
def datacomp(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setenv("DATACOMP_WORKERS", "1")
        monkeypatch.setattr(sys, "argv", ["datacomp", *arguments])
        settings.cache_clear()
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return int(str(ended.value.code)), *capfd.readouterr()

    return call


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Metadata in two parts, a shard of its samples, and a table that has a caption for every even one."""
    (tmp_path / "m").mkdir()
    (tmp_path / "s").mkdir()
    for part in range(2):
        numbers = range(NUM // 2 * part, NUM // 2 * (part + 1))
        columns = {"uid": [name_of(n) for n in numbers], "text": [f"own {n}" for n in numbers]}
        scores = pl.Series("clip_l14_similarity_score", [n / NUM for n in numbers], dtype=pl.Float32)
        pl.DataFrame(columns).with_columns(scores).write_parquet(tmp_path / f"m/{part}.parquet")
    with tarfile.open(tmp_path / "s/00000000.tar", "w") as archive:
        for number in range(NUM):
            about = json.dumps({"uid": name_of(number)}).encode()
            for extension, content in (("jpg", bytes([number]) * 99), ("json", about), ("txt", f"own {number}".encode())):
                member = tarfile.TarInfo(f"{number:09d}.{extension}")
                member.size = len(content)
                archive.addfile(member, BytesIO(content))
    rows = [{"uid": name_of(n), "caption": f"a new caption of number {n}"} for n in range(0, NUM, 2)]
    pl.DataFrame(rows).write_ndjson(tmp_path / "t.jsonl")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_table_to_new_shards(world: Path, datacomp: Command) -> None:
    status, out, _ = datacomp("captions", "import", "t.jsonl", "--name", "blip2", "--metadata", "m", "--out", "c", "--json")
    assert (status, json.loads(out)["counts"]["matched"]) == (0, NUM // 2)
    status, out, _ = datacomp("captions", "stats", "c", "--json")
    told = json.loads(out)["sources"][0]
    assert (status, told["source"], told["num_captions"], told["share"]) == (0, "blip2", NUM // 2, 0.5)
    status, _, _ = datacomp(
        "captions", "template", "{text} ({blip2})", "--name", "both", "--captions", "c", "--metadata", "m", "--out", "d"
    )
    assert status == 0
    assert pl.read_parquet("d/captions/0.parquet")["text"][0] == "own 0 (a new caption of number 0)"

    Path("p.yaml").write_text("captions: [c]\npolicy: {replace: blip2}\n")
    filtering = ("filter", "--metadata", "m", "--recipe", "words.yaml", "--captions", "p.yaml", "--out", "s.npy", "--json")
    Path("words.yaml").write_text("filter: {kind: words, at_least: 5}\n")
    status, out, error = datacomp(*filtering)
    assert (status, json.loads(out)["dropped"]) == (0, {"no caption by the policy": NUM // 2}), error
    kept = uid.unpack(np.load("s.npy")).to_list()
    assert kept == [name_of(n) for n in range(0, NUM, 2)]

    laying_out = ("reshard", "--shards", "s", "--subset", "s.npy", "--metadata", "m", "--captions", "p.yaml", "--out", "new")
    assert datacomp(*laying_out)[0] == 0
    with tarfile.open("new/00000000.tar") as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive}  # pyright: ignore[reportOptionalMemberAccess]
    for n in range(0, NUM, 2):
        key = f"{name_of(n)}-0"
        assert found[f"{key}.txt"].decode() == f"a new caption of number {n}"
        assert found[f"{key}.jpg"] == bytes([n]) * 99
        assert json.loads(found[f"{key}.json"])["original_caption"] == f"own {n}"

    every = uid.subset_bytes(uid.pack(pl.Series([name_of(n) for n in range(NUM)])))
    Path("all.npy").write_bytes(every)
    status, _, error = datacomp(
        "reshard", "--shards", "s", "--subset", "all.npy", "--metadata", "m", "--captions", "p.yaml", "--out", "x"
    )
    assert status == 1
    assert "have no caption by the policy replace_blip2" in error
    status, _, error = datacomp("reshard", "--shards", "s", "--subset", "all.npy", "--captions", "p.yaml", "--out", "x")
    assert (status, "together" in error) == (2, True)


def test_a_released_score_is_not_used_for_a_changed_caption(world: Path, datacomp: Command) -> None:
    datacomp("captions", "import", "t.jsonl", "--name", "blip2", "--metadata", "m", "--out", "c")
    Path("p.yaml").write_text("captions: [c]\nfirst_of: [blip2, raw]\n")
    status, out, error = datacomp(
        "filter",
        "--metadata",
        "m",
        "--recipe",
        "clip_score:score=l14,threshold=0.5",
        "--captions",
        "p.yaml",
        "--out",
        "s.npy",
        "--json",
    )
    assert (status, json.loads(out)["num_samples"]) == (0, NUM // 4), error
    assert error.count("20 of 40 rows have a different caption from the one that clip_l14_similarity_score was computed for") == 1


def test_a_score_from_outside_is_told_where_captions_changed(
    world: Path, datacomp: Command, caplog: pytest.LogCaptureFixture
) -> None:
    datacomp("captions", "import", "t.jsonl", "--name", "blip2", "--metadata", "m", "--out", "c")
    (world / "scores").mkdir()
    for part in range(2):
        uids = pl.read_parquet(f"m/{part}.parquet")["uid"]
        pl.DataFrame({"uid": uids.reverse(), "mine": [0.5] * len(uids)}).write_parquet(f"scores/{part}.parquet")
    Path("f.yaml").write_text("filter: {kind: threshold, score: mine, at_least: 0.1}\n")
    asked = ("filter", "--metadata", "m", "--scores", "scores", "--recipe", "f.yaml", "--out", "s.npy")
    for policy, told in (("first_of: [blip2, raw]", True), ("draw: {raw: 1, blip2: 1}", False)):
        Path("p.yaml").write_text(f"captions: [c]\n{policy}\n")
        caplog.clear()
        assert datacomp(*asked, "--captions", "p.yaml")[0] == 0
        assert ("The score mine comes from outside" in caplog.text) == told


def test_a_policy_that_compares_scores_is_resharded(world: Path, datacomp: Command) -> None:
    """The pool's own scores lie in a folder of their own, in another order; odd rows have no caption but their own."""
    rows = [{"uid": name_of(n), "caption": f"new {n}", "s": (n % 4) / 4} for n in range(0, NUM, 2)]
    pl.DataFrame(rows).write_csv("t.csv")
    datacomp(
        *("captions", "import", "t.csv", "--name", "a", "--score-column", "s", "--score", "mine"),
        *("--metadata", "m", "--out", "c"),
    )
    (world / "scores").mkdir()
    uids = [name_of(n) for n in reversed(range(NUM))]
    pl.DataFrame({"uid": uids, "clip_mine_similarity_score": [0.25] * NUM}).write_parquet("scores/all.parquet")
    Path("p.yaml").write_text("captions: [c]\nbest: mine\n")
    Path("all.npy").write_bytes(uid.subset_bytes(uid.pack(pl.Series(sorted(uids)))))
    asked = ("reshard", "--shards", "s", "--subset", "all.npy", "--metadata", "m", "--captions", "p.yaml", "--out", "new")
    status, _, error = datacomp(*asked, "--scores", "scores")
    assert (status, f"a {NUM // 4}, raw {NUM * 3 // 4}" in error) == (0, True), error
    with tarfile.open("new/00000000.tar") as archive:
        texts = {m.name[:32]: archive.extractfile(m).read().decode() for m in archive if m.name.endswith("txt")}  # pyright: ignore[reportOptionalMemberAccess]
    assert texts == {name_of(n): f"new {n}" if n % 4 == 2 else f"own {n}" for n in range(NUM)}
    Path("p.yaml").write_text("captions: [c]\nreplace: a\nuse: filter\n")
    status, _, error = datacomp(*asked[:-1], "other")
    assert (status, "the new shards keep the pool's own captions" in error) == (2, True), error


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("nothing.yaml", "nothing.yaml"),
        ("generated_below_scor", "Did you mean 'generated_below_score'"),
        ("translated:captions=captions/x", "needs source"),
        ("translated:captions=captions/x,source=a,weight=2", "weight"),
        ("recaption_mix:captions=captions/x,source=a,recaption=lots", "lots"),
    ],
)
def test_a_wrong_policy_is_one_sentence(given: str, told: str, world: Path, datacomp: Command) -> None:
    status, _, error = datacomp("filter", "--metadata", "m", "--recipe", "no_filter", "--captions", given, "--out", "s.npy")
    assert (status, told in error, "Traceback" in error) == (2, True, False), error


def test_published_policies_are_what_their_papers_say() -> None:
    given = "captions=captions/one+captions/two,source=blip2"
    plan = load_plan(f"generated_below_score:{given}")
    assert plan.sets == ("captions/one", "captions/two")
    asked = {"sources": ["blip2"], "threshold": 0.243, "score": "l14"}
    assert plan.policy == CaptionPolicy.model_validate({"replace_below": asked})
    assert load_plan(f"recaption_mix:{given},recaption=0.25").policy.weights == {"raw": 0.75, "blip2": 0.25}
    assert all(recipe.source and recipe.description for recipe in CAPTION_RECIPES.values())
    with pytest.raises(SpecError, match="Unknown"):
        load_plan("nobody")


def test_a_refused_first_attempt_does_not_bind_its_folder(world: Path, datacomp: Command) -> None:
    """A result does: the same folder is refused for another request then, also if a kill left it half done."""
    there = ("--metadata", "m", "--out", "d")
    status, _, error = datacomp("captions", "template", "{width_x}", *there)
    assert (status, "width_x" in error) == (2, True), error
    (world / "empty.csv").write_text("")
    assert datacomp("captions", "import", "empty.csv", "--name", "x", *there)[0] == 1
    status, _, error = datacomp("captions", "template", "{text}, drawn", *there)
    assert status == 0, error
    (world / "d/captions.json").unlink()
    status, _, error = datacomp("captions", "template", "{text}, painted", *there)
    assert (status, "was started with another template" in error.replace("\n", " ")) == (2, True), error
    assert datacomp("captions", "template", "{text}, drawn", *there)[0] == 0
