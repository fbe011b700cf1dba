"""Makes a pool from a folder of images without a web server; each image is copied once, into the shards. Captions come from a
table, from a text file next to each image, or from the class folders. A sample's uid is a hash of its image's bytes and its
caption, not of its path, so the same images get the same uids on every machine.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from functools import partial
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field, ValidationInfo, field_validator

from datacomp_core.artifacts import Pool, ShardSet, Spec
from datacomp_core.errors import DataError, tally_of
from datacomp_core.parallel import process_map
from datacomp_core.parts import METADATA, SCHEMA, part_names, scan
from datacomp_core.pictures import picture_size, pillow_image
from datacomp_core.pool import folder_captions as captions
from datacomp_core.pool import ledger, sources
from datacomp_core.pool.download_shard import account_stats, stats_name
from datacomp_core.pool.odd_pictures import DEEP, TURNED, corrected, oddities
from datacomp_core.pool.tables import TableFormat
from datacomp_core.pool.unique_uids import num_unique
from datacomp_core.progress import NO_PROGRESS, Progress
from datacomp_core.shards import LEDGER, ShardWriter, write_index
from datacomp_core.store import Folder, Store, step
from datacomp_core.store.content_marks import ContentMark, Marks
from datacomp_core.store.fingerprint import fingerprint
from datacomp_core.uid import uid_of

KEPT_AS_THEY_ARE = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
QUALITY = 95


class FolderPoolSpec(Spec):
    """A pool from a folder of images."""

    names_for_people: ClassVar[frozenset[str]] = frozenset({"name"})

    scale: Literal["folder"] = Field(default="folder", description="A folder of images.")
    source: str = Field(default="", description="Folder or bucket of images, at any depth.")
    name: str = Field(default="pictures", min_length=1, description="Name of the pool.")
    edition: int = Field(default=1, ge=1, description="Raise this number when the files at the source have changed.")
    captions: str = Field(
        default="",
        description="Table with one row per image, below the source or elsewhere. Empty: text files next to the images, else "
        "the class folders.",
    )
    file_column: str = Field(default="file_name", min_length=1, description="Its column of paths, relative to the source.")
    text_column: str = Field(default="text", min_length=1, description="Its column of captions.")
    tables: TableFormat = Field(default=TableFormat(), description="Format of the table.")
    class_names: str = Field(default="", description="File with the class of each folder: JSON, or lines `n01440764 tench`.")
    templates: tuple[str, ...] = Field(
        default=(), description="Caption templates of classes, such as `a photo of a {}.`; one is drawn per image."
    )
    samples_per_shard: int = Field(default=10_000, gt=0, description="Images per metadata part and shard.")
    max_pixels: int = Field(default=100_000_000, gt=0, description="Maximum number of pixels to decode.")

    @field_validator("source", "class_names")
    @classmethod
    def _absolute(cls, place: str) -> str:
        return sources.absolute(place)

    @field_validator("captions")
    @classmethod
    def _placed(cls, table: str, info: ValidationInfo) -> str:
        """Return a table's absolute path or url. A relative path starts in the working folder, or at the source."""
        if not table or "://" in table:
            return table
        if os.path.isabs(table):
            return os.path.normpath(table)
        source = str(info.data.get("source") or "")
        below = Folder(source).at(table) if source and Folder(source).is_file(table) else ""
        here = os.path.abspath(table) if os.path.exists(table) else ""
        if here and below and here != os.path.abspath(below):
            raise ValueError(f"{here} and {below} both exist: give the table's absolute path.")
        return below or here or table

    @field_validator("templates")
    @classmethod
    def _have_a_gap(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if "{}" not in template:
                raise ValueError(f"template {template!r} has no {{}} for the class")
        return templates

    def label(self) -> str:
        return self.name


def pictures(spec: FolderPoolSpec) -> tuple[Folder, list[str], set[str]]:
    """Return the source, its images by relative path in order, and the text files next to them. DataError if there is no
    image."""
    if not spec.source:
        raise DataError("No source is given: set `source` to a folder or bucket of images.")
    folder = Folder(spec.source)
    files = folder.files()
    if not files and not folder.exists():
        raise DataError(f"{folder} is not there: give a folder or bucket of pictures.")
    found = [name for name in files if captions.is_picture(name)]
    if not found:
        raise DataError(f"{folder} has no images ({', '.join(captions.PICTURES)}): check the path.")
    return folder, found, {name for name in files if name.endswith(captions.SIDE)}


def changes(spec: FolderPoolSpec, pool: Pool, data: Folder) -> str:
    """Describe what has changed at the source since the pool was made."""
    what = sources.describe_change(data, partial(_marked, spec))
    return str(sources.changed_source_error(pool.address, spec.edition, what)) if what else ""


def _marked(spec: FolderPoolSpec, known: Marks) -> tuple[Folder, Marks]:
    folder, found, texts = pictures(spec)
    marked = sources.marks(folder, [*found, *sorted(texts)], known)
    for table in filter(None, (spec.captions, spec.class_names)):
        place, name = captions.placed(folder, table)
        full = place.at(name)
        before = {name: known[full]} if full in known else None
        if found_there := sources.marks(place, [name], before):
            marked[full] = found_there[name]
    return folder, marked


def _hashed(spec: FolderPoolSpec, metadata: Folder, listed: dict[str, tuple[int, str, str]]) -> Marks:
    """Return the marks of the captioned images, which are not read again for their hashes. In a bucket they are ETags."""
    if not Folder(spec.source).is_local:
        return {}
    known: Marks = {}
    for part in part_names(metadata):
        for name, sha256 in scan(metadata, part).select("url", "sha256").collect().iter_rows():
            if name in listed:
                known[name] = ContentMark(listed[name][0], listed[name][1], f"sha256:{sha256}")
    return known


@step("pools", version=1, stale=changes)
def import_folder(
    spec: FolderPoolSpec,
    *,
    out: Folder,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> Pool:
    """`metadata/<8 digits>.parquet` in DataComp's schema; `url` is the path of the image below the source."""
    folder, found, texts = pictures(spec)
    listed = folder.details()
    rows, counts = _captioned(spec, folder, found, texts)
    if not rows.height:
        losses = tally_of(counts)
        advice = captions.advice(spec.captions, spec.class_names, found[0], listed)
        raise DataError(f"{folder}: none of {len(found):,} pictures has a caption ({losses}): {advice}")
    jobs = [
        (n, rows[n * spec.samples_per_shard :][: spec.samples_per_shard])
        for n in range(-(-rows.height // spec.samples_per_shard))
    ]
    progress.start(rows.height, "pictures")
    parts: dict[str, str] = {}
    for (_, some), (part, digest) in process_map(partial(_describe, folder, out), jobs, workers=workers):
        progress.advance(some.height)
        parts[part] = digest
    sources.keep(out, *_marked(spec, _hashed(spec, out / METADATA, listed)))
    used = [
        *found,
        *(captions.caption_file_of(name) for name in found if _uses_texts(spec, found, texts)),
        spec.captions,
        spec.class_names,
    ]
    told = {"rows": rows.height, **(+counts), **captions.left_over(folder, listed, used)}
    return Pool(num_samples=rows.height, num_parts=len(parts), content=fingerprint(parts), counts=told)


def _uses_texts(spec: FolderPoolSpec, found: list[str], texts: set[str]) -> bool:
    """Return whether the captions are text files next to the images."""
    return not (spec.captions or spec.templates or spec.class_names) and any(
        captions.caption_file_of(name) in texts for name in found
    )


def _captioned(spec: FolderPoolSpec, folder: Folder, found: list[str], texts: set[str]) -> tuple[pl.DataFrame, Counter[str]]:
    if spec.captions:
        return captions.from_table(folder, spec.captions, (spec.file_column, spec.text_column), spec.tables, found)
    if _uses_texts(spec, found, texts):
        return captions.from_files(folder, found, texts)
    return captions.from_classes(found, captions.class_names(spec.class_names) if spec.class_names else {}, spec.templates)


def _describe(folder: Folder, out: Folder, job: tuple[int, pl.DataFrame]) -> tuple[str, str]:
    """Make one metadata part: hash and size of every image of some rows. The ledger reports images that cannot be opened."""
    number, rows = job
    part = f"{number:08d}"
    made: list[dict[str, Any]] = []
    for name, text in rows.iter_rows():
        data = folder.read(name)
        sha256 = hashlib.sha256(data).hexdigest()
        width, height = picture_size(data)
        uid = uid_of(f"sha256:{sha256}", text)
        row = {"uid": uid, "url": name, "text": text, "original_width": width, "original_height": height, "sha256": sha256}
        made.append({**row, "face_bboxes": []})
    table = pl.DataFrame(made, schema=SCHEMA)
    with out.writing(f"{METADATA}/{part}.parquet") as path:
        table.write_parquet(path)
    return part, hashlib.sha256(table.write_ndjson().encode()).hexdigest()


@step("shards", version=1, name=lambda spec, pool: spec.label())
def pack_folder(
    spec: FolderPoolSpec,
    pool: Pool,
    *,
    out: Folder,
    store: Store,
    workers: int = 1,
    progress: Progress = NO_PROGRESS,
) -> ShardSet:
    """`<8 digits>.tar` of each metadata part, with `index/`, `ledger/` and stats as in a download. jpg, png and webp are
    copied unchanged; other formats are converted to jpg (8 bits, rotated by EXIF). Images with more than 8 bits per channel, and
    images rotated by EXIF, are counted. DataError if no image can be read.
    """
    metadata, folder = store.folder(pool) / METADATA, Folder(spec.source)
    names = part_names(metadata)
    todo = [name for name in names if not out.exists(stats_name(name))]
    progress.start(len(names), "shards")
    progress.advance(len(names) - len(todo))
    for _ in process_map(partial(_pack, spec, folder, metadata, out), todo, workers=workers):
        progress.advance()
    reasons: Counter[str] = Counter()
    odd: Counter[str] = Counter()
    digest = 0
    for name in names:
        told = out.read_json(stats_name(name))
        reasons.update(told["reasons"])
        odd.update({name: told[name] for name in ("deep_pictures", "turned_pictures") if name in told})
        digest = (digest + int(told["uids_digest"], 16)) % ledger.DIGEST_MODULUS
    arrived = reasons.get("arrived", 0)
    if not arrived:
        losses = tally_of(reasons)
        raise DataError(f"None of the {reasons.total():,} images in {folder} can be read ({losses}): check the files.")
    return ShardSet(
        scale=pool.scale,
        num_samples=arrived,
        num_unique=num_unique(out, names, arrived),
        num_shards=len(names),
        content=f"{digest:064x}",
        counts={"candidates": reasons.total(), **dict(sorted(reasons.items())), **dict(sorted(odd.items()))},
    )


def _pack(spec: FolderPoolSpec, folder: Folder, metadata: Folder, out: Folder, name: str) -> None:
    rows = scan(metadata, name).select("uid", "url", "text", "sha256").collect()
    book: list[dict[str, Any]] = []
    with out.writing(f"{name}.tar") as path, path.open("wb") as file:
        writer = ShardWriter(file, name)
        for place, (uid, url, text, sha256) in enumerate(rows.iter_rows()):
            key = f"{name}{place:05d}"
            row = {"uid": uid, "shard": name, "key": key, "status": "success", "sha256": sha256, "host": ""}
            try:
                data = folder.read(url)
                if hashlib.sha256(data).hexdigest() != sha256:
                    raise DataError(f"{folder.at(url)} changed while it was being read: run again when it is complete.")
                extension, picture, size, odd = _picture(data, spec.max_pixels)
            except _UnreadableError as problem:
                book.append({**row, "status": "failed_to_resize", "reason": problem.reason, "message": str(problem)})
                continue
            about = {
                "uid": uid,
                "key": key,
                "url": url,
                "caption": text,
                "sha256": sha256,
                "original_width": size[0],
                "original_height": size[1],
            }
            document = json.dumps(about, ensure_ascii=False).encode("utf-8", "surrogatepass")
            writer.add(uid, key, {extension: picture, "json": document, "txt": text.encode("utf-8", "surrogatepass")})
            sizes = {"bytes": len(picture), "original_width": size[0], "original_height": size[1]}
            book.append({**row, **sizes, "hash": "match", "picture": ", ".join(odd) or None})
        index = writer.finish()
    write_index(out, name, index)
    table = pl.DataFrame(book, schema=ledger.SCHEMA)
    with out.writing(f"{LEDGER}/{name}.parquet") as path:
        table.write_parquet(path, compression="zstd", statistics=False)
    out.write_json(stats_name(name), account_stats(table))


class _UnreadableError(Exception):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _picture(data: bytes, max_pixels: int) -> tuple[str, bytes, tuple[int, int], tuple[str, ...]]:
    """Return extension, bytes and size of an image that decodes completely, and its irregularities (`deep`, `turned`)."""
    try:
        image = pillow_image(data)
    except Exception as problem:
        raise _UnreadableError("not_an_image", f"{type(problem).__name__}: no picture that can be read") from problem
    with image:
        size = image.size
        if size[0] * size[1] > max_pixels:
            raise _UnreadableError("too_many_pixels", f"{size[0]} x {size[1]} pixels")
        try:
            deep, orientation = oddities(image, io.BytesIO(data))
            image.load()
            odd = (*([DEEP] if deep else []), *([TURNED] if orientation > 1 else []))
            if extension := KEPT_AS_THEY_ARE.get(image.format or ""):
                return extension, data, size, odd
            meant = pillow_image(corrected(io.BytesIO(data), deep=deep, orientation=orientation)) if odd else image
            buffer = io.BytesIO()
            meant.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
        except Exception as problem:
            raise _UnreadableError("decode", f"{type(problem).__name__}: {problem}") from problem
    return "jpg", buffer.getvalue(), size, odd
