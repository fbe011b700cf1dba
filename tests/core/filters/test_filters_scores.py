"""Computed scores against their formulas, written out; their names, their cache, and what a pool lacks."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import feature_world as features
import filter_world as world
import imagehash
import numpy as np
import polars as pl
import pytest
from PIL import Image, ImageDraw, ImageFont

from datacomp_core import uid
from datacomp_core.artifacts import Pool
from datacomp_core.errors import DataError, SpecError
from datacomp_core.filters import Threshold, TopFraction
from datacomp_core.pool_source import PoolSource
from datacomp_core.sampling_key import mixed_bits, sampling_keys
from datacomp_core.scores import KINDS, canonical, score_of
from datacomp_core.scores import compute as computing
from datacomp_core.scores.compute import compute
from datacomp_core.scores.dfn import Dfn
from datacomp_core.scores.neg_clip_loss import NegClipLoss, batches
from datacomp_core.scores.perceptual_hash import hash_of
from datacomp_core.scores.text_masked import TextMasked, mask
from datacomp_core.selection.select import SubsetSpec
from datacomp_core.shards import ShardWriter, write_index
from datacomp_core.store import Folder, Store


def _score(text: str) -> Any:
    found = score_of(text)
    assert found is not None
    return found


def _computed(text: str, source: PoolSource, out: Path, **options: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    score = _score(text)
    folder = compute(score, source, Folder(out), **options)
    values = features.column(folder, score.column_name)
    return np.array([np.nan if value is None else value for value in values], np.float64)


def test_neg_clip_loss_is_the_formula_averaged_over_batches(tmp_path: Path) -> None:
    folder, images, texts = features.embedded(tmp_path / "m", world.rows(1, 90))
    found = _computed("neg_clip_loss:batch=8,drawings=3,temperature=0.05,seed=4", PoolSource(folder), tmp_path / "out")
    score, tau = NegClipLoss(batch=8, drawings=3, temperature=0.05, seed=4), 0.05
    expected = np.full(90, np.nan)
    for number in range(3):
        rows = [row for row in range(number * 30, number * 30 + 30) if np.isfinite(images[row, 0])]
        total = dict.fromkeys(rows, 0.0)
        for drawing in range(score.drawings):
            for batch in batches(len(rows), 8, f"{number:08d}-4-{drawing}"):
                some = [rows[place] for place in batch]
                cosine = features.unit(images[some].astype(float)) @ features.unit(texts[some].astype(float)).T
                for place, row in enumerate(some):
                    sums = np.log(np.exp(cosine[place] / tau).sum()) + np.log(np.exp(cosine[:, place] / tau).sum())
                    total[row] += cosine[place, place] - tau / 2 * sums
        expected[rows] = [total[row] / 3 for row in rows]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_batches_are_a_partition_and_the_rest_joins_the_last() -> None:
    found = batches(100, 30, "key")
    assert [len(batch) for batch in found] == [30, 30, 40]
    assert sorted(np.concatenate(found).tolist()) == list(range(100))
    assert [len(batch) for batch in batches(5, 30, "key")] == [5]


@pytest.mark.parametrize("p", ["inf", "2"])
def test_norm_sim_is_the_norm_of_the_cosines(p: str, tmp_path: Path) -> None:
    folder, images, _ = features.embedded(tmp_path / "m", world.rows(2, 60))
    target = np.random.default_rng(3).normal(size=(25, features.DIMENSIONS))
    name = features.saved(tmp_path / "target.npy", target)
    found = _computed(f"norm_sim:target={name},p={p}", PoolSource(folder), tmp_path / "out")
    cosine = features.unit(images.astype(float)) @ features.unit(target).T
    np.testing.assert_allclose(found, np.linalg.norm(cosine, ord=2, axis=1) if p == "2" else cosine.max(1), atol=1e-6)


def test_metaclip_keeps_what_balancing_at_any_t_keeps(tmp_path: Path) -> None:
    table = world.rows(3, 200)
    entries = ["dog", "red dog", "Hund", "photo", "chat", "nothing", "a"]
    (tmp_path / "entries.txt").write_text("\n".join(entries))
    table[0]["text"] = "photo,dog;Hund."
    text = f"metaclip:entries={tmp_path}/entries.txt,seed=5"
    found = _computed(text, PoolSource(world.write(tmp_path / "m", table)), tmp_path / "out")
    held = [[e for e in entries if f" {e} " in _spaced(row["text"])] if row["text"] is not None else [] for row in table]
    count = Counter(entry for some in held for entry in some)
    assert held[0] == ["dog", "Hund", "photo"]
    assert len(count) == 6
    keys = sampling_keys(uid.pack(pl.Series([row["uid"] for row in table])), 5)
    for t in (3, 20, 1000):
        for row, some in enumerate(held):
            draws = [_uniform(keys[row], entries.index(entry)) for entry in some]
            kept = any(u <= t / max(count[entry], t) for u, entry in zip(draws, some, strict=True))
            assert kept == bool(found[row] >= 1 / t), (row, t)


def _spaced(text: str) -> str:
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    return f" {text} "


def _uniform(key: np.uint64, entry: int) -> float:
    return (float(mixed_bits(np.array([key ^ np.uint64(entry)]))[0] >> np.uint64(11)) + 1) / 2**53


def test_dfn_learns_what_trusted_pairs_look_like(tmp_path: Path) -> None:
    """Trusted texts are a rotation of the images: the cosine cannot see it, the trained maps can."""
    chance = np.random.default_rng(6)
    rotation = np.linalg.qr(chance.normal(size=(features.DIMENSIONS, features.DIMENSIONS)))[0]
    images = features.unit(chance.normal(size=(600, features.DIMENSIONS)))
    texts = images @ rotation
    names = [features.saved(tmp_path / f"{side}.npy", rows[:500]) for side, rows in (("i", images), ("t", texts))]
    folder = world.write(tmp_path / "m", world.rows(7, 100), 1)
    shown = np.where(np.arange(100)[:, None] < 50, texts[500:], np.roll(texts[500:], 1, axis=0))  # later ones are wrong
    np.savez(tmp_path / "m" / "00000000.npz", l14_img=images[500:], l14_txt=shown)
    text = f"dfn:trusted_images={names[0]},trusted_texts={names[1]},epochs=60,batch=100,learning_rate=0.02"
    found = _computed(text, PoolSource(folder), tmp_path / "out")
    assert found[:50].min() > np.quantile(found[50:], 0.95)
    heads = _score(text).trained(*(rows[:500].astype(np.float32) for rows in (images, texts)))
    expected = (features.unit(images[500:550] @ heads.images) * features.unit(texts[500:550] @ heads.texts)).sum(1)
    np.testing.assert_allclose(found[:50], expected, atol=1e-5)


def _jpeg(pixels: np.ndarray[Any, np.dtype[np.uint8]], quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def picture(seed: int, side: int = 96) -> np.ndarray[Any, np.dtype[np.uint8]]:
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def shards(folder: Path, samples: list[tuple[str, dict[str, bytes]]]) -> Folder:
    """Samples in two tars, last ones first, with their index."""
    out = Folder(folder)
    folder.mkdir()
    for number, some in enumerate((samples[1::2][::-1], samples[::2])):
        with (folder / f"{number:08d}.tar").open("wb") as file:
            writer = ShardWriter(file, f"{number:08d}")
            for place, (name, members) in enumerate(some):
                writer.add(name, f"{number:05d}{place:04d}", {**members, "json": f'{{"uid": "{name}"}}'.encode()})
            write_index(out, f"{number:08d}", writer.finish())
    return out


def test_the_perceptual_hash_is_imagehashs_and_lands_on_its_row(tmp_path: Path) -> None:
    table = world.rows(8, 12)
    data = {row["uid"]: _jpeg(picture(place)) for place, row in enumerate(table)}
    data[table[3]["uid"]] = b"no picture"
    there = [(name, {"jpg": content}) for name, content in data.items() if name != table[5]["uid"]]
    source = PoolSource(world.write(tmp_path / "m", table), shards=shards(tmp_path / "shards", there))
    folder = compute(_score("perceptual_hash"), source, Folder(tmp_path / "out"), workers=1)
    found = features.column(folder, "perceptual_hash")
    for place, row in enumerate(table):
        if place in {3, 5}:
            assert found[place] is None
            continue
        image = Image.open(io.BytesIO(data[row["uid"]])).convert("RGB")
        assert f"{found[place] & (2**64 - 1):016x}" == str(imagehash.phash(image))
    assert hash_of(Image.fromarray(picture(1))) == hash_of(Image.fromarray(picture(1)))


def test_masking_fills_each_box_with_the_mean_around_it() -> None:
    pixels = np.full((40, 60, 3), 10, np.uint8)
    pixels[:, 30:] = 200
    pixels[12:18, 35:50] = 0
    box = np.array([[[35, 12], [49, 12], [49, 17], [35, 17]]], np.float32)
    filled = mask(pixels, box)
    assert (filled[12:18, 35:50] == 200).all()
    assert (filled[:, :30] == 10).all()
    assert (mask(pixels, np.empty((0, 4, 2), np.float32)) == pixels).all()


def test_words_in_a_picture_are_found_and_covered() -> None:
    picture = Image.linear_gradient("L").convert("RGB")
    plain = np.asarray(picture)
    ImageDraw.Draw(picture).text((20, 80), "BUY SHOES NOW", fill=(255, 255, 255), font=ImageFont.load_default(28))
    written, score = np.asarray(picture), TextMasked()
    assert (written != plain).any()
    assert (score._masked(plain) == plain).all()  # pyright: ignore[reportPrivateUsage]
    masked = score._masked(written)  # pyright: ignore[reportPrivateUsage]
    assert np.abs(masked.astype(int) - plain).max() < 30
    assert (score._masked(masked) == masked).all()  # pyright: ignore[reportPrivateUsage]


def test_only_parts_of_an_earlier_attempt_are_read_to_be_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(str(tmp_path / "store"))
    world.write(tmp_path / "store/pool/metadata", world.rows(9, 60), 3)
    pool = Pool(data="pool", num_samples=60, num_parts=3, fingerprint="a" * 64, scale="tiny")
    scores = pl.concat([pl.read_parquet(path) for path in (tmp_path / "store/pool/metadata").glob("*.parquet")])
    scores.head(40).select("uid", mine=pl.int_range(40)).write_parquet(tmp_path / "mine.parquet")
    score = _score(f"column_of:file={tmp_path}/mine.parquet,column=mine")
    read: list[str] = []
    counts = computing._counts

    def told(*given: Any) -> tuple[int, int]:
        read.append(given[-1])
        return counts(*given)

    monkeypatch.setattr(computing, "_counts", told)
    made = computing.score_pool(score, pool, None, None, None, store=store)
    assert (made.num_samples, made.num_scored, read) == (60, 40, [])
    out = Folder(tmp_path / "out")
    part = store.folder(made).read("scores/00000001.parquet")
    out.write("scores/00000001.parquet", part)
    again = computing.score_pool.function(score, pool, None, None, None, out=out, store=store)
    assert (again.num_samples, again.num_scored, read) == (60, 40, ["00000001"])


def test_a_score_has_one_name_and_its_address_follows_the_file(tmp_path: Path) -> None:
    assert canonical("neg_clip_loss: drawings=10,seed=3") == canonical("neg_clip_loss:seed=3") == "neg_clip_loss:seed=3"
    assert canonical("clip_l14_similarity_score") == "clip_l14_similarity_score"
    name = features.saved(tmp_path / "target.npy", np.eye(4))
    first = canonical(f"norm_sim:target={name}")
    assert canonical(first) == first
    assert score_of(first) == score_of(f"norm_sim:target={name}")
    features.saved(tmp_path / "target.npy", np.eye(5))
    assert canonical(f"norm_sim:target={name}") != first
    spec = SubsetSpec(recipe="mine", filter=TopFraction(score=f"norm_sim:target={name}"))
    assert [score.kind for score in spec.scores()] == ["norm_sim"]
    assert spec.needs_features()
    assert not SubsetSpec(recipe="metaclip").needs_features()
    for model in KINDS.values():
        assert model.paper
        assert model.__doc__


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("neg_clip_los:seed=1", "Unknown score 'neg_clip_los'. Did you mean 'neg_clip_loss'"),
        ("neg_clip_loss:sed=1", "Unknown parameter of score neg_clip_loss 'sed'. Did you mean 'seed'"),
        ("neg_clip_loss:seed", "not parameter=value"),
        ("neg_clip_loss:seed=x", "seed: .*valid integer"),
        ("norm_sim:target=nowhere.npy", r"nowhere\.npy is not readable: give a file of vectors"),
        ("norm_sim:target=imagnet1k_l14", "Unknown set of vectors 'imagnet1k_l14'. Did you mean 'imagenet1k_l14'"),
        ("metaclip:entries=mine.txt", r"mine\.txt is not readable: give a word list"),
    ],
)
def test_a_wrong_score_is_one_sentence(text: str, told: str) -> None:
    with pytest.raises(SpecError, match=told):
        score_of(text)


def test_a_pool_that_lacks_what_a_score_reads_is_told_so(tmp_path: Path) -> None:
    source = PoolSource(world.write(tmp_path / "m", world.rows(9, 8)))
    for text, told in (
        ("neg_clip_loss", "has no embeddings 'l14_img' .there are no npz files"),
        ("perceptual_hash", "reads images, but this pool has none"),
        ("text_masked", "reads images, but this pool has none"),
    ):
        with pytest.raises(DataError, match=told):
            compute(_score(text), source, Folder(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    np.savez(tmp_path / "m" / "00000000.npz", l14_img=np.zeros((1, 4)), l14_txt=np.zeros((1, 4)))
    with pytest.raises(DataError, match="has 2 rows of metadata and other l14_img features .1 rows in"):
        compute(_score("neg_clip_loss"), PoolSource(source.metadata), Folder(tmp_path / "out"))


def test_a_part_that_is_there_is_not_computed_again(tmp_path: Path) -> None:
    folder, _, _ = features.embedded(tmp_path / "m", world.rows(10, 60))
    score, out = _score("neg_clip_loss:drawings=1"), Folder(tmp_path / "out")
    made = compute(score, PoolSource(folder), out)
    before = {name: made.read(name) for name in made.files()}
    made.write("00000001.parquet", b"made by somebody else")
    made.remove("00000002.parquet")
    compute(score, PoolSource(folder), out)
    assert made.read("00000001.parquet") == b"made by somebody else"
    assert made.read("00000002.parquet") == before["00000002.parquet"]


def test_a_recipe_reads_the_column_of_a_computed_score(tmp_path: Path) -> None:
    table = world.rows(11, 90)
    folder, _, _ = features.embedded(tmp_path / "m", table)
    made = compute(_score("neg_clip_loss:drawings=2"), PoolSource(folder), Folder(tmp_path / "out"))
    values = features.column(made, "neg_clip_loss:drawings=2")
    middle = float(np.median([value for value in values if value is not None]))
    from datacomp_core.recipes.base import Recipe
    from datacomp_core.selection.select import select

    recipe = Recipe(name="t", filter=Threshold(score="neg_clip_loss: drawings=2", at_least=middle))
    done = select(recipe, folder, [made], out=Folder(tmp_path))
    expected = sum(value is not None and np.float32(value) >= np.float32(middle) for value in values)
    assert done.num_samples == expected
    assert done.explanation.dropped["no neg_clip_loss:drawings=2"] == 9


def test_dfn_needs_its_trusted_pairs() -> None:
    with pytest.raises(SpecError, match="trusted_images: Field required"):
        score_of("dfn")
    assert Dfn.needs == {"features"}
