"""Sources of one's own: known by absolute address and content; folders of pictures without a web server."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from images_world import jpeg
from PIL import Image
from pydantic import ValidationError

from datacomp_core.artifacts import Artifact
from datacomp_core.errors import DataError
from datacomp_core.pool.adopt import AdoptedPoolSpec, adopt_metadata, adopt_shards
from datacomp_core.pool.byod import ByodPoolSpec, import_pool
from datacomp_core.pool.download_columns import LearnedSpec, _of_ledgers, read_download_columns  # pyright: ignore[reportPrivateUsage]
from datacomp_core.pool.image_folder import FolderPoolSpec, import_folder, pack_folder
from datacomp_core.shards import read_index, read_samples
from datacomp_core.store import Folder, Store
from datacomp_core.store.fingerprint import fingerprint
from datacomp_core.uid import uid_of


def table(path: Path, *names: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    (path / "a.csv").write_text("url,text\n" + "".join(f"http://h/{name},{name}\n" for name in names))


def test_two_working_folders_with_the_same_relative_name_are_two_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.open(str(tmp_path / "store"))
    made: list[str] = []
    for user in ("anna", "bert"):
        table(tmp_path / user / "wds", user)
        monkeypatch.chdir(tmp_path / user)
        one, slash, full = (import_pool(ByodPoolSpec(source=s), store=store) for s in ("wds", "wds/", f"{tmp_path}/{user}/wds"))
        assert one.address == slash.address == full.address
        assert pl.read_parquet(store.folder(one).path / "metadata")["text"].to_list() == [user]
        made.append(one.address)
    assert made[0] != made[1]


@pytest.mark.parametrize("change", ["content", "new", "gone"])
def test_a_changed_source_is_told_and_read_again_in_another_edition(tmp_path: Path, change: str) -> None:
    store, spec = Store.open(str(tmp_path / "store")), ByodPoolSpec(source=str(tmp_path / "in"))
    table(tmp_path / "in", "one")
    table(tmp_path / "in/more", "two")
    assert import_pool(spec, store=store).num_samples == 2
    assert import_pool.run(spec, store=store).status == "reused"
    if change == "content":
        stat = os.stat(tmp_path / "in/a.csv")
        table(tmp_path / "in", "uno")
        os.utime(tmp_path / "in/a.csv", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000_000))
        words = r"changed: a\.csv"
    elif change == "new":
        table(tmp_path / "in/third", "three")
        words = r"new: third/a\.csv"
    else:
        (tmp_path / "in/more/a.csv").unlink()
        words = r"gone: more/a\.csv"
    for use in (import_pool, import_pool.plan):
        with pytest.raises(DataError, match=rf"changed since.*{words}.*--refresh.*edition: 2"):
            use(spec, store=store)
    again = import_pool(spec.model_copy(update={"edition": 2}), store=store)
    assert again.num_samples == {"content": 2, "new": 3, "gone": 1}[change]


def later(*paths: Path) -> None:
    for path in paths:
        stat = os.stat(path)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 5_000_000_000))


def test_a_touched_file_is_the_same_and_another_of_its_size_is_not(tmp_path: Path) -> None:
    store, spec = Store.open(str(tmp_path / "store")), ByodPoolSpec(source=str(tmp_path / "in"))
    table(tmp_path / "in", "one")
    made = import_pool(spec, store=store)
    later(tmp_path / "in/a.csv")
    assert import_pool.run(spec, store=store).artifact == import_pool.plan(spec, store=store).artifact == made
    table(tmp_path / "in", "uno")
    later(tmp_path / "in/a.csv")
    with pytest.raises(DataError, match=r"changed since.*changed: a\.csv"):
        import_pool(spec, store=store)
    table(tmp_path / "in", "one")
    assert import_pool(spec, store=store) == made, "the old file was brought back"


def test_touched_pictures_texts_and_tables_are_the_same(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["a/1.jpg", "a/2.jpg", "3.jpg"])
    (tmp_path / "in/a/1.txt").write_text("one")
    (tmp_path / "captions.csv").write_text("file_name,text\na/1.jpg,one\n")
    store = Store.open(str(tmp_path / "store"))
    for how in ({}, {"captions": str(tmp_path / "captions.csv")}):
        spec = FolderPoolSpec.model_validate({"source": str(tmp_path / "in"), **how})
        import_folder(spec, store=store)
        later(*(tmp_path / "in").rglob("*.*"), tmp_path / "captions.csv")
        assert import_folder.run(spec, store=store).status == "reused"
    (tmp_path / "captions.csv").write_text("file_name,text\na/1.jpg,two\n")
    with pytest.raises(DataError, match=r"changed: .*/captions\.csv"):
        import_folder(spec, store=store)
    (tmp_path / "in/a/1.txt").write_text("two")
    with pytest.raises(DataError, match=r"changed: a/1\.txt"):
        import_folder(FolderPoolSpec(source=str(tmp_path / "in")), store=store)


def test_one_source_under_two_names_is_one_pool(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["cat/1.jpg", "cat/2.jpg"])
    table(tmp_path / "tables", "one")
    wds = tmp_path / "wds/0.tar"
    wds.parent.mkdir()
    with tarfile.open(wds, "w") as tar:
        for name, data in (("1.jpg", jpeg(1)), ("1.txt", b"one")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    store = Store.open(str(tmp_path / "store"))

    def made(name: str, edition: int = 1) -> list[Artifact]:
        how: dict[str, Any] = {"name": name, "edition": edition}
        own = FolderPoolSpec(source=str(tmp_path / "in"), **how)
        taken = AdoptedPoolSpec(source=str(wds.parent), **how)
        pool, adopted = import_folder(own, store=store), adopt_metadata(taken, store=store)
        shards = [pack_folder(own, pool, store=store), adopt_shards(taken, adopted, store=store)]
        return [pool, adopted, *shards, import_pool(ByodPoolSpec(source=str(tmp_path / "tables"), **how), store=store)]

    first = made("birds")
    assert made("my birds") == first
    assert import_pool.plan(ByodPoolSpec(source=str(tmp_path / "tables"), name="x"), store=store).address == first[-1].address
    again = made("my birds", 2)
    assert not {one.address for one in first} & {one.address for one in again}
    assert len(list(store.addresses("pools"))) == 6


def pictures(root: Path, names: list[str]) -> dict[str, bytes]:
    made: dict[str, bytes] = {}
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        data = jpeg(number)
        if not name.lower().endswith((".jpg", ".jpeg")):
            buffer = io.BytesIO()
            Image.open(io.BytesIO(data)).save(buffer, name.rpartition(".")[2].upper())
            data = buffer.getvalue()
        (root / name).write_bytes(data)
        made[name] = data
    return made


def packed(tmp_path: Path, **how: object) -> tuple[dict[str, tuple[str, bytes]], dict[str, int], dict[str, int]]:
    """By path: caption and picture, as they lie in the shards; and the counts of the pool and of the shards."""
    store = Store.open(str(tmp_path / "store"))
    spec = FolderPoolSpec.model_validate({"source": str(tmp_path / "in"), "samples_per_shard": 3, **how})
    pool = import_folder(spec, store=store)
    shards = pack_folder(spec, pool, store=store)
    folder = store.folder(shards)
    found: dict[str, tuple[str, bytes]] = {}
    for name in sorted(path.stem for path in folder.path.glob("*.tar")):
        for uid, members in read_samples(folder, read_index(folder, name)):
            about = json.loads(members["json"])
            picture = next(members[extension] for extension in ("jpg", "png", "webp") if extension in members)
            found[about["url"]] = (members["txt"].decode(), picture)
            assert uid == uid_of(f"sha256:{about['sha256']}", members["txt"].decode())
    assert pack_folder.run(spec, pool, store=store).status == "reused"
    values = read_download_columns(LearnedSpec(), pool, shards, store=store)
    assert values.num_scored == pool.num_samples
    return found, pool.counts, shards.counts


def test_of_copies_the_first_shards_columns_are_learned(tmp_path: Path) -> None:
    uids = [uid_of(str(number), "") for number in range(200)]
    for shard, reason in enumerate(["dns", None, None]):
        columns = {"uid": uids, "reason": pl.Series([reason] * 200, dtype=pl.String), "original_width": [shard] * 200}
        pl.DataFrame({**columns, "original_height": [1] * 200, "sha256": ["x"] * 200}).write_parquet(
            tmp_path / f"{shard}.parquet"
        )
    books = [f"{shard}.parquet" for shard in range(3)]
    found = _of_ledgers(Folder(tmp_path), books, pl.Series(uids))
    assert set(found["uid"]) == set(uids)
    assert set(found["original_width"]) == {1}


def test_class_folders_become_a_pool(tmp_path: Path) -> None:
    made = pictures(tmp_path / "in", ["cat/1.jpg", "cat/2.JPEG", "sea_lion/3.png", "sea_lion/4.webp", "5.jpg", "._x/6.jpg"])
    (tmp_path / "in/cat/broken.jpg").write_bytes(b"no picture")
    found, counts, losses = packed(tmp_path)
    assert found == {
        name: (name.split("/")[0].replace("_", " "), data) for name, data in made.items() if name not in ("5.jpg", "._x/6.jpg")
    }
    assert counts == {"rows": 5, "without_class": 1}
    assert losses == {"candidates": 5, "arrived": 4, "not_an_image": 1}


@pytest.mark.parametrize("captions", ["classes", "texts", "table"])
def test_files_of_a_folder_that_are_not_read_are_counted(tmp_path: Path, captions: str) -> None:
    pictures(tmp_path / "in", ["train/0.jpg", "train/1.jpg"])
    for name in (
        "train/metadata.csv",
        "more.jsonl",
        "2.heic",
        "._x.csv",
        "readme.txt",
        *(["train/0.txt"] * (captions == "texts")),
    ):
        (tmp_path / "in" / name).write_text("file_name,text\n0.jpg,one\n1.jpg,two\n")
    how = {"captions": str(tmp_path / "in/train/metadata.csv")} if captions == "table" else {}
    source = str(tmp_path / ("in/train" if captions == "table" else "in"))
    made = import_folder(FolderPoolSpec.model_validate({"source": source, **how}), store=Store.open(str(tmp_path / "store")))
    left = {"tables_not_read": 2, "other_files": 2}  # 2.heic and readme.txt
    assert (
        made.counts
        == {
            "classes": {"rows": 2, **left},
            "texts": {"rows": 1, "without_caption": 1, **left},
            "table": {"rows": 2},
        }[captions]
    )


def test_an_imagenet_style_train_set_takes_templates(tmp_path: Path) -> None:
    made = pictures(tmp_path / "in", [f"train/n0{n % 2}/{n}.jpg" for n in range(8)])
    (tmp_path / "classes.txt").write_text("n00 tench\nn01 great white shark\n")
    templates = ["a photo of a {}.", "art of {}."]
    found, _, _ = packed(tmp_path, class_names=str(tmp_path / "classes.txt"), templates=templates)
    assert found.keys() == made.keys()
    classes = {"n00": "tench", "n01": "great white shark"}
    for name, (caption, _) in found.items():
        assert caption in {template.format(classes[name.split("/")[1]]) for template in templates}
    assert len({caption.split(" tench")[0] for caption, _ in found.values() if "tench" in caption}) == 2


def test_the_class_is_the_nearest_folder_that_has_one(tmp_path: Path) -> None:
    """Tiny-ImageNet's layout: the pictures of a class lie in a folder `images`."""
    pictures(tmp_path / "in", ["train/n00/images/0.jpg", "train/n01/images/1.jpg", "train/n02/images/2.jpg"])
    (tmp_path / "classes.json").write_text(json.dumps({"n00": "tench", "n01": "shark"}))
    found, counts, _ = packed(tmp_path, class_names=str(tmp_path / "classes.json"))
    assert {name: caption for name, (caption, _) in found.items()} == {
        "train/n00/images/0.jpg": "tench",
        "train/n01/images/1.jpg": "shark",
    }
    assert counts == {"rows": 2, "without_class": 1}


def test_one_table_of_captions_is_one_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(tmp_path / "in", ["1.jpg"])
    table = tmp_path / "in/captions.csv"
    table.write_text("file,text\n1.jpg,one\n")
    monkeypatch.chdir(tmp_path)
    written = ["captions.csv", "in/captions.csv", "./in/captions.csv", str(table), f"{tmp_path}/in/../in/captions.csv"]
    specs = [FolderPoolSpec(source="in", captions=captions) for captions in written]
    assert len({fingerprint(spec) for spec in specs}) == 1
    monkeypatch.chdir(tmp_path / "in")
    assert FolderPoolSpec.model_validate_json(specs[0].model_dump_json()) == specs[0], "where a worker stands decides nothing"
    with pytest.raises(
        DataError, match=r"no column 'file_name' for 'file'; .*Name the column with --file-column NAME .in a form: `file_column`."
    ):
        import_folder(specs[0], store=Store.open(str(tmp_path / "store")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captions.csv").write_text("file,text\n1.jpg,another\n")
    with pytest.raises(ValidationError, match="both exist: give the table's absolute path"):
        FolderPoolSpec(source="in", captions="captions.csv")


def test_a_table_of_captions_is_followed_and_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    made = pictures(tmp_path / "in", ["a/1.jpg", "a/2.jpg", "3.gif", "4.jpg"])
    (tmp_path / "in/captions.csv").write_text(
        "file_name,text\na/1.jpg,007\n./a/2.jpg,NA\na/1.jpg,again\n3.gif,moves\nnone.jpg,x\n"
    )
    found, counts, losses = packed(tmp_path, captions="captions.csv")
    assert {name: caption for name, (caption, _) in found.items()} == {"a/1.jpg": "again", "a/2.jpg": "NA", "3.gif": "moves"}
    assert found["a/2.jpg"][1] == made["a/2.jpg"]
    assert Image.open(io.BytesIO(found["3.gif"][1])).format == "JPEG"
    assert counts == {"rows": 4, "file_missing": 1, "not_in_the_table": 1}
    assert losses == {"candidates": 4, "arrived": 4}


def test_texts_beside_pictures_are_their_captions(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["x/1.jpg", "x/2.jpg", "x/3.jpg", "x/4.jpg"])
    (tmp_path / "in/x/1.txt").write_text("one\n")
    (tmp_path / "in/x/3.txt").write_bytes("caf\u00e9".encode("latin-1"))
    (tmp_path / "in/x/4.txt").write_text("four", encoding="utf-8-sig")
    found, counts, _ = packed(tmp_path)
    assert {name: caption for name, (caption, _) in found.items()} == {"x/1.jpg": "one", "x/4.jpg": "four"}
    assert counts == {"rows": 2, "without_caption": 1, "not_utf8_text": 1}


def test_pictures_of_16_bits_and_turned_ones_are_counted_and_made_right_where_they_are_converted(tmp_path: Path) -> None:
    folder = tmp_path / "in/cat"
    folder.mkdir(parents=True)
    grey = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    Image.fromarray(grey).save(folder / "deep.tif")
    Image.fromarray(grey).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48), (9, 9, 200)).save(folder / "turned.tif", exif=exif)
    Image.new("RGB", (64, 48), (9, 9, 200)).save(folder / "turned.jpg", exif=exif)
    found, _, losses = packed(tmp_path)
    assert losses == {"candidates": 4, "arrived": 4, "deep_pictures": 2, "turned_pictures": 1}
    for name in ("deep.png", "turned.jpg"):
        assert found[f"cat/{name}"][1] == (folder / name).read_bytes()
    made = np.asarray(Image.open(io.BytesIO(found["cat/deep.tif"][1])).convert("L"), np.float64)
    assert np.abs(made - grey / 257).max() < 6
    assert Image.open(io.BytesIO(found["cat/turned.tif"][1])).size == (48, 64)


def test_a_program_for_a_printer_under_the_name_of_a_picture_is_no_picture(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["cat/1.jpg"])
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\nshowpage\n%%EOF\n"
    (tmp_path / "in/cat/2.jpg").write_bytes(eps)
    found, _, losses = packed(tmp_path)
    assert found.keys() == {"cat/1.jpg"}
    assert losses == {"candidates": 2, "arrived": 1, "not_an_image": 1}


def test_a_changed_picture_is_told(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["cat/1.jpg"])
    store, spec = Store.open(str(tmp_path / "store")), FolderPoolSpec(source=str(tmp_path / "in"))
    import_folder(spec, store=store)
    (tmp_path / "in/cat/1.jpg").write_bytes(jpeg(5))
    with pytest.raises(DataError, match=r"changed since.*changed: cat/1\.jpg"):
        import_folder(spec, store=store)


def test_a_folder_without_pictures_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="has no images"):
        import_folder(FolderPoolSpec(source=str(tmp_path / "in")), store=Store.open(str(tmp_path / "store")))
    with pytest.raises(ValueError, match="has no {} for the class"):
        FolderPoolSpec(templates=("a photo",))


def test_a_tar_that_was_written_again_is_told_although_all_is_built(tmp_path: Path) -> None:
    def tar(name: str, *colours: int) -> None:
        with tarfile.open(tmp_path / "wds" / name, "w") as file:
            for number, colour in enumerate(colours):
                for ending, data in (("jpg", jpeg(colour)), ("txt", f"number {colour}".encode())):
                    member = tarfile.TarInfo(f"{number:03d}.{ending}")
                    member.size = len(data)
                    file.addfile(member, io.BytesIO(data))

    (tmp_path / "wds").mkdir()
    tar("00000.tar", 1, 2)
    tar("00001.tar", 3)
    store, spec = Store.open(str(tmp_path / "store")), AdoptedPoolSpec(source=str(tmp_path / "wds"))
    pool = adopt_metadata(spec, store=store)
    adopt_shards(spec, pool, store=store)
    os.utime(tmp_path / "wds/00001.tar")
    assert adopt_shards.plan(spec, pool, store=store).is_built, "a tar that was only touched is the same"
    before = os.stat(tmp_path / "wds/00000.tar")
    tar("00000.tar", 4, 5)
    os.utime(tmp_path / "wds/00000.tar", ns=(before.st_atime_ns, before.st_mtime_ns - 10_000_000_000))  # older than its index
    for use in (adopt_shards, adopt_shards.plan):
        with pytest.raises(DataError, match=r"00000\.tar was changed after it was indexed.*adopt --refresh"):
            use(spec, pool, store=store)
    again = spec.model_copy(update={"edition": 2})
    assert adopt_shards(again, adopt_metadata(again, store=store), store=store).num_samples == 3


def test_classes_in_the_files_that_people_have(tmp_path: Path) -> None:
    from datacomp_core.pool.folder_captions import class_names, from_classes

    (tmp_path / "index.json").write_text(json.dumps({"0": ["n01440764", "tench"], "1": ["n01443537", "great_white"]}))
    assert class_names(str(tmp_path / "index.json")) == {"n01440764": "tench", "n01443537": "great white"}
    (tmp_path / "mapping.txt").write_text("n01440764 tench, Tinca tinca\nn01443537\tgoldfish\nn1,shark\n")
    found = class_names(str(tmp_path / "mapping.txt"))
    assert found == {"n01440764": "tench, Tinca tinca", "n01443537": "goldfish", "n1": "shark"}
    assert from_classes(["n1/a.jpg"], found, ["a {}."])[0].rows() == [("n1/a.jpg", "a shark.")]
    (tmp_path / "odd.json").write_text(json.dumps({"n1": ["a", "b"]}))
    with pytest.raises(DataError, match=r"odd\.json: the class of 'n1' is \['a', 'b'\]"):
        class_names(str(tmp_path / "odd.json"))


def test_a_folder_whose_table_was_not_named_names_it(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["1.jpg"])
    (tmp_path / "in/metadata.jsonl").write_text('{"file_name": "1.jpg", "text": "one"}\n')
    spec = FolderPoolSpec(source=str(tmp_path / "in"))
    with pytest.raises(DataError, match=r"none of 1 pictures has a caption .*--captions, such as metadata\.jsonl\."):
        import_folder(spec, store=Store.open(str(tmp_path / "store")))


def test_a_table_that_names_no_picture_says_how_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(jpeg(1))
    store = Store.open(str(tmp_path / "store"))
    for row, names in ((str(tmp_path / "in/a.jpg"), True), ("elsewhere/a.jpg", False)):
        (tmp_path / "t.csv").write_text(f"file_name,text\n{row},one\n")
        spec = FolderPoolSpec(source=str(tmp_path / "in"), captions=str(tmp_path / "t.csv"), edition=1 + names)
        if names:
            assert import_folder(spec, store=store).num_samples == 1
            continue
        with pytest.raises(DataError, match=r"t\.csv must name them by their paths below the folder, such as a\.jpg"):
            import_folder(spec, store=store)
    with pytest.raises(DataError, match="none is not there"):
        import_folder(FolderPoolSpec(source=str(tmp_path / "none")), store=store)


def bare_tars(root: Path, samples: list[tuple[str, bytes, str]], per_tar: int = 2) -> None:
    """`0.tar`, `1.tar`, ... with a picture and a txt for each `(name, picture, json)`, and the json if there is one."""
    root.mkdir()
    for number in range(0, len(samples), per_tar):
        with tarfile.open(root / f"{number // per_tar}.tar", "w") as tar:
            for name, data, about in samples[number : number + per_tar]:
                key = name.partition(".")[0]
                for member, content in ((name, data), (f"{key}.json", about.encode()), (f"{key}.txt", key.encode())):
                    if content:
                        entry = tarfile.TarInfo(member)
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))


def test_sizes_and_hashes_of_bare_tars_are_read_from_their_images(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (31, 17)).save(buffer, "WEBP")
    stated = json.dumps({"original_width": 900, "original_height": 800})
    samples = [("a.jpg", jpeg(1), ""), ("b.webp", buffer.getvalue(), ""), ("c.jpg", jpeg(2), stated), ("d.jpg", b"none", "")]
    bare_tars(tmp_path / "wds", samples)
    store, spec = Store.open(str(tmp_path / "store")), AdoptedPoolSpec(source=str(tmp_path / "wds"))
    pool = adopt_metadata(spec, store=store)
    shards = adopt_shards(spec, pool, store=store)
    sizes = {"a": Image.open(io.BytesIO(jpeg(1))).size, "b": (31, 17), "c": (900, 800), "d": (None, None)}
    hashes = {name[0]: hashlib.sha256(data).hexdigest() for name, data, _ in samples}

    def known(wanted: LearnedSpec) -> dict[str, tuple[tuple[int | None, int | None], str | None]]:
        made = read_download_columns(wanted, pool, shards, store=store)
        tables = [
            pl.concat([pl.read_parquet(store.folder(one).path / kind / f"{part}.parquet") for part in "01"])
            for one, kind in ((pool, "metadata"), (made, "scores"))
        ]
        both = tables[0].select("uid", "text").join(tables[1], on="uid", validate="1:1", maintain_order="left")
        return {text: ((width, height), sha256) for _, text, width, height, sha256 in both.iter_rows()}

    assert known(LearnedSpec()) == {key: (size if key == "c" else (None, None), None) for key, size in sizes.items()}
    every = LearnedSpec(from_images=("original_height", "original_width", "sha256"))
    assert known(every) == {key: (size, hashes[key]) for key, size in sizes.items()}
