"""Captions through the chain: a policy makes an experiment byod, its entry says which captions; no score is of an old pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import small_writers
from small_chain import at_once, small_training

from datacomp_core.artifacts import BoardEntry, Captioned, Captions, Pool, ShardSet, Subset
from datacomp_core.captioners.hub_models import weights_hash
from datacomp_core.captions.import_captions import CaptionImportSpec
from datacomp_core.captions.template import TemplateSpec
from datacomp_core.errors import SpecError
from datacomp_core.leaderboard.entries.entry import Entry, read
from datacomp_core.leaderboard.site import caption_view
from datacomp_core.leaderboard.site.pages import write_site
from datacomp_core.pool.download_images import ImageSpec
from datacomp_core.pool.tiny import TinyPoolSpec
from datacomp_core.resharding.reshard import ReshardSpec
from datacomp_core.settings import settings
from datacomp_core.shards import index_names, read_index, read_samples
from datacomp_core.store import Store
from datacomp_core.uid import open_subset, unpack
from flows.candidate_pool import Candidates, candidates
from flows.captioning import CaptioningSpec, captions
from flows.chain import curate, train_and_evaluate
from flows.parameters import ExperimentSpec, Layout
from tasks import captions as captioning


class World:
    """A small pool with pictures, and two sets of captions of it."""

    def __init__(self, root: Path) -> None:
        self.store, self.root = Store.open(settings().store_url), root
        self.preparation = (
            ExperimentSpec()
            .preparation()
            .model_copy(
                update={
                    "pool": TinyPoolSpec(num_pairs=600, num_parts=2),
                    "images": ImageSpec(image_size=64, samples_per_shard=100, timeout_seconds=30, exif="drop"),
                    "scorer": small_training(1024),
                }
            )
        )
        self.found: Candidates = candidates(at_once, self.preparation)
        self.pool: Pool = self.found.pool
        metadata = self.store.folder(self.pool) / "metadata"
        self.rows = pl.concat([pl.read_parquet(metadata.at(name)) for name in metadata.files(".parquet")])
        texts = self.rows.select("uid", text=pl.lit("a caption of ") + pl.col("uid").str.head(6))
        texts.gather_every(2).write_csv(root / "t.csv")
        spec = CaptionImportSpec(file=str(root / "t.csv"), name="blip2", model="BLIP-2 of somebody")
        self.blip2: Captions = captioning.import_captions.fn(spec, self.pool, None, None)
        template = TemplateSpec(template="{text}, drawn", name="drawn")
        self.drawn: Captions = captioning.template_captions.fn(template, self.pool, ())

    def curated(self, recipe: str, plan: dict[str, Any], layout: Layout = Layout()) -> tuple[ExperimentSpec, Any]:  # noqa: B008
        spec = ExperimentSpec.model_validate({"recipe": recipe, "captions": plan, "layout": layout})
        curation = spec.curation().model_copy(update={"reshard": ReshardSpec(samples_per_shard=64)})
        return spec, curate(at_once, curation, self.preparation, self.found)


def see_a_policy_makes_the_experiment_byod_and_its_entry_says_which_captions(world: World) -> None:
    plan = {"sets": [world.blip2.address], "policy": {"first_of": ["blip2", "raw"]}}
    spec, curated = world.curated("no_filter", plan)
    scoring = spec.scoring().model_copy(update={"train": small_training(512)})
    made: BoardEntry = train_and_evaluate(at_once, scoring, curated).entry
    entry = read(world.store, made)
    assert entry.track == "byod"
    assert entry.captions is not None
    assert entry.captions.models == ["BLIP-2 of somebody"]
    assert entry.captions.sets == [world.blip2.address]
    shards: ShardSet = curated.shards
    new = set(world.rows["uid"].gather_every(2))
    folder = world.store.folder(shards)
    seen = {"raw": 0, "blip2": 0}
    for shard in index_names(folder):
        for uid, members in read_samples(folder, read_index(folder, shard)):
            seen["blip2" if uid in new else "raw"] += 1
            if uid in new:
                assert members["txt"].decode() == f"a caption of {uid[:6]}"
                assert json.loads(members["json"])["caption_source"] == "blip2"
    assert shards.counts["caption: blip2"] == seen["blip2"]
    assert entry.captions.shares == {name: round(count / sum(seen.values()), 4) for name, count in seen.items()}
    told = next(check for check in entry.checks if check.rule == "captions stated")
    assert "first_of_blip2_raw" in told.reason
    _, own = world.curated("no_filter", {})
    scoring = scoring.model_copy(update={"entry": ExperimentSpec().scoring().entry})
    plain = read(world.store, train_and_evaluate(at_once, scoring, own).entry)
    assert (plain.track, plain.captions) == ("filtering", None)
    assert b'"captions"' not in plain.to_bytes()
    see_the_captions_on_the_pages(world, entry)


def see_the_captions_on_the_pages(world: World, entry: Entry) -> None:
    """Every caption of a picture stands beside it with its score, and the one that the policy gives is marked."""
    [use] = caption_view.uses(world.store, entry)
    raw, new = dict(world.rows.select("uid", "text").iter_rows()), set(world.rows["uid"].gather_every(2))
    asked = [*world.rows["uid"].head(8), "f" * 32]
    found = caption_view.wordings(use, asked)
    assert sorted(found) == sorted(asked[:8])
    for uid, several in found.items():
        wanted = [("raw", raw[uid], uid not in new)]
        wanted += [("blip2", f"a caption of {uid[:6]}", True)] if uid in new else []
        assert [(one.source, one.text, one.is_used) for one in several] == wanted
    made = write_site(world.store, world.root / "pages", "tiny").parent
    pages = {path.name: path.read_text() for path in (made / "tiny").glob("*.html")} | {
        path.name: path.read_text() for path in made.rglob("tiny*.html")
    }
    [method] = [text for name, text in pages.items() if name.startswith("experiment-") and 'id="captions"' in text]
    assert entry.captions is not None
    assert entry.captions.sentence() in method
    assert f"{100 * entry.captions.shares['blip2']:.1f}" in method
    assert "a caption of" in method
    [compared] = [text for name, text in pages.items() if name.startswith("compare-") and "Captions side by side" in text]
    assert 'class="wording used"><b>blip2</b>' in compared


def see_scores_are_of_the_new_pairs_and_a_view_has_the_captions_of_a_reshard(world: World) -> None:
    plan = {"sets": [world.blip2.address, world.drawn.address], "policy": {"best": {"score": "tiny"}}}
    _, curated = world.curated("clip_score_tiny", plan)
    _, view = world.curated("clip_score_tiny", plan, Layout(form="view"))
    subset: Subset = curated.subset
    record = world.store.record(subset.address)
    assert record is not None
    [address] = [given["address"] for given in record.inputs["embeddings"] if given["address"].startswith("captioned/")]
    captioned = world.store.artifact(Captioned, world.store.record(address))  # pyright: ignore[reportArgumentType]
    assert not [name for name in captioned.counts if name.startswith("score_left_out")]
    folder = world.store.folder(captioned)
    rows = pl.concat([pl.read_parquet(folder.at(f"scores/{name}")) for name in (folder / "scores").files(".parquet")])
    assert set(rows["caption_source"].drop_nulls().unique()) == {"raw", "blip2", "drawn"}
    assert rows.filter("caption_changed")["clip_tiny_similarity_score"].null_count() == 0
    tars, overlay = world.store.folder(curated.shards), world.store.folder(view.shards)
    texts = dict(rows.select("uid", "text").iter_rows())
    for shard in index_names(tars):
        index = read_index(tars, shard)
        assert index["key"].to_list() == read_index(overlay, shard)["key"].to_list()
        new = pl.read_parquet(overlay.at(f"captions/{shard}.parquet"))["captions"].to_list()
        for (uid, members), laid in zip(read_samples(tars, index), new, strict=True):
            assert members["txt"].decode() == texts[uid]
            assert laid is None or [one["text"] for one in laid] == [texts[uid]]


def see_captions_that_only_the_filter_reads_leave_the_training_alone(world: World) -> None:
    plan = {"sets": [world.blip2.address], "policy": {"replace": "blip2"}, "use": "filter"}
    spec, curated = world.curated("basic_tiny", plan)
    assert spec.scoring().entry.track == "filtering"
    assert "caption: blip2" not in curated.shards.counts
    uids = set(world.rows["uid"].gather_every(2))
    assert curated.subset.counts["kept"] <= len(uids)
    record = world.store.record(curated.shards.address)
    assert record is not None
    assert "captioned" not in record.inputs


def see_a_filter_reads_the_captions_that_it_names(world: World) -> None:
    """A CLIP score of `blip2` and words of the pool's own captions, while the training keeps the pool's own."""
    named = {"kind": "captions_of", "captions": "blip2", "filter": {"kind": "top_count", "score": "tiny", "count": 20}}
    tree = {"kind": "all", "filters": [{"kind": "words", "at_least": 2}, named]}
    spec = ExperimentSpec.model_validate({"recipe": "mine", "filter": tree, "captions": {"sets": [world.blip2.address]}})
    curation = spec.curation().model_copy(update={"reshard": ReshardSpec(samples_per_shard=64)})
    made = curate(at_once, curation, world.preparation, world.found)
    record = world.store.record(made.subset.address)
    assert record is not None
    [named_by] = [one["address"] for one in record.inputs["named"]]
    assert named_by.startswith("captioned/")
    named_record = world.store.record(named_by)
    assert named_record is not None
    folder = world.store.folder(world.store.artifact(Captioned, named_record)) / "scores"
    texts = pl.concat([pl.read_parquet(folder.at(name)) for name in folder.files(".parquet")])
    wordy = set(world.rows.filter(pl.col("text").str.split(" ").list.len() >= 2)["uid"])
    rows = texts.filter(pl.col("uid").is_in(wordy) & pl.col("clip_tiny_similarity_score").is_finite())
    assert rows["text"].str.starts_with("a caption of ").all()
    least = rows["clip_tiny_similarity_score"].sort(descending=True)[19]
    wanted = rows.filter(pl.col("clip_tiny_similarity_score") >= least)["uid"]
    chosen = unpack(open_subset(Path(world.store.folder(made.subset).at("subset.npy"))))
    assert sorted(chosen) == sorted(wanted)
    assert spec.scoring().entry.track == "filtering"
    assert not [name for name in made.shards.counts if name.startswith("caption: ")]


def see_a_source_that_no_set_has_is_told_before_anything_runs(world: World) -> None:
    plan = {"sets": [world.blip2.address], "policy": {"draw": {"raw": 0.5, "blip": 0.5}}}
    spec = ExperimentSpec.model_validate({"recipe": "no_filter", "captions": plan})

    def nothing_runs(*_: Any, **__: Any) -> Any:
        raise AssertionError("a step ran")

    with pytest.raises(SpecError, match="names the caption source 'blip', but the given sets have blip2"):
        curate(nothing_runs, spec.curation(), world.preparation, world.found)


def see_generated_captions_reach_the_board(world: World) -> None:
    """By the flow's own parameters, as the form sends them: a small random BLIP writes them, and the entry names it."""
    folder = settings().home.resolve() / "assets" / "captioners" / "small" / "blip" / ("a" * 40)
    small_writers.save("blip", folder)
    make = {"kind": "generate", "name": "blip", "model": "small/blip", "revision": "a" * 40, "sha256": weights_hash(folder)}
    sent = {"scale": "tiny", "pool": world.pool.address, "shards": world.found.shards.address, "make": {**make, "max_tokens": 6}}
    generated: Captions = captions(at_once, CaptioningSpec.model_validate(sent))
    spec, curated = world.curated("no_filter", {"sets": [generated.address], "policy": {"replace": "blip"}})
    scoring = spec.scoring().model_copy(update={"train": small_training(512)})
    entry = read(world.store, train_and_evaluate(at_once, scoring, curated).entry)
    assert entry.captions is not None
    assert (entry.track, entry.captions.models, entry.captions.shares) == ("byod", [f"small/blip {'a' * 12}"], {"blip": 1.0})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_captions_through_the_chain(tmp_path: Path) -> None:
    """One after another over one pool, for it takes a minute to make."""
    world = World(tmp_path)
    see_captions_that_only_the_filter_reads_leave_the_training_alone(world)
    see_a_filter_reads_the_captions_that_it_names(world)
    see_a_source_that_no_set_has_is_told_before_anything_runs(world)
    see_scores_are_of_the_new_pairs_and_a_view_has_the_captions_of_a_reshard(world)
    see_a_policy_makes_the_experiment_byod_and_its_entry_says_which_captions(world)
    see_generated_captions_reach_the_board(world)
