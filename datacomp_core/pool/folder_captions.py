"""Reads captions for a folder of images: from a table that names the files, a text file next to each image, or class folders."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from datacomp_core.errors import DataError
from datacomp_core.pool.tables import TableFormat, TableRequest, batches, ending_of, is_hidden
from datacomp_core.store import Folder
from datacomp_core.untrusted_documents import parse_json

PICTURES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")
SIDE = ".txt"
FILE, TEXT = "file", "text"
TABLES_NOT_READ = "tables_not_read"
"""The count of tables in a folder of images that no option names."""


def is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES) and not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def placed(source: Folder, table: str) -> tuple[Folder, str]:
    """Return the folder and the name of a file given relative to the source, or by its own path."""
    if not table.startswith("/") and "://" not in table and source.is_file(table):
        return source, table
    path = Folder(table).url
    return Folder(path.rpartition("/")[0] or "/"), path.rpartition("/")[2]


def left_over(source: Folder, listed: Iterable[str], read: Iterable[str]) -> Counter[str]:
    """Count the files of a folder that were not read: tables, which may have the captions, and all others."""
    used = {source.at(name) if "://" not in name and not name.startswith("/") else name for name in read}
    others = [name for name in listed if source.at(name) not in used and not is_hidden(name)]
    tables = sum(bool(ending_of(name)) for name in others)
    return +Counter({TABLES_NOT_READ: tables, "other_files": len(others) - tables})


def from_table(
    source: Folder, table: str, names: tuple[str, str], how: TableFormat, files: Sequence[str]
) -> tuple[pl.DataFrame, Counter[str]]:
    """Return rows (file, text) of a table, in its order, and losses: rows without a file, files without a row. `names` are its
    columns. A file may occur in several rows: each is a pair.
    """
    place, name = placed(source, table)
    if not ending_of(name):
        raise DataError(
            f"{table} is not a table: give a .csv, .tsv, .jsonl or .parquet file with the columns {names[0]}, {names[1]}."
        )
    counts: Counter[str] = Counter()
    found: list[pl.DataFrame] = []
    asked = TableRequest({FILE: names[0], TEXT: names[1]}, how, {FILE: "file_column", TEXT: "text_column"})
    for batch in batches(place, name, asked):
        counts.update(reason for _, reason in batch.faults)
        found.append(batch.table)
    rows = pl.concat(found) if found else pl.DataFrame(schema={FILE: pl.String, TEXT: pl.String})
    rows = rows.with_columns(pl.col(FILE).str.strip_prefix(f"{source.url}/").str.strip_prefix("./"))
    counts["without_caption"] += rows.filter(pl.col(TEXT).is_null()).height
    rows = rows.drop_nulls()
    there = pl.Series(FILE, list(files), pl.String)
    known = rows.filter(pl.col(FILE).is_in(there.implode()))
    counts["file_missing"] += rows.height - known.height
    counts["not_in_the_table"] += len(there) - known[FILE].n_unique()
    return known, +counts


def from_files(source: Folder, files: Sequence[str], texts: set[str]) -> tuple[pl.DataFrame, Counter[str]]:
    """Return rows (file, text) of images with a text file of the same name, and lost images: without text, or not UTF-8."""
    rows: list[tuple[str, str]] = []
    counts: Counter[str] = Counter()
    for name in files:
        if caption_file_of(name) not in texts:
            counts["without_caption"] += 1
            continue
        try:
            rows.append((name, source.read(caption_file_of(name)).decode("utf-8-sig").strip()))
        except UnicodeDecodeError:
            counts["not_utf8_text"] += 1
    return pl.DataFrame(rows, schema={FILE: pl.String, TEXT: pl.String}, orient="row"), counts


def caption_file_of(name: str) -> str:
    """Return the text file of an image."""
    return name.rpartition(".")[0] + SIDE


def from_classes(files: Sequence[str], classes: dict[str, str], templates: Sequence[str]) -> tuple[pl.DataFrame, Counter[str]]:
    """Return rows (file, text): the class of an image's folder, in one of the templates, drawn by the file's name. With
    `classes` it is the nearest folder above the image that has a class (`n01443537/images/0.JPEG`).
    """
    rows: list[tuple[str, str]] = []
    counts: Counter[str] = Counter()
    for name in files:
        above = name.split("/")[-2::-1]
        folder = next((one for one in above if not classes or one in classes), "")
        if not folder:
            counts["without_class"] += 1
            continue
        said = classes.get(folder, folder.replace("_", " "))
        number = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")
        rows.append((name, (templates[number % len(templates)].replace("{}", said)) if templates else said))
    return pl.DataFrame(rows, schema={FILE: pl.String, TEXT: pl.String}, orient="row"), counts


def class_names(path: str) -> dict[str, str]:
    """Folder -> class: a JSON object, or lines `n01440764 tench` (a blank, tab or comma between). DataError if it is neither.

    Of Keras' `imagenet_class_index.json` (`{"0": ["n01440764", "tench"]}`) the pairs are taken.
    """
    place, name = placed(Folder("/"), path)
    try:
        text = place.read(name).decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise DataError(f"{path}, byte {problem.start}: the class names are not UTF-8: save the file as UTF-8.") from problem
    if text.lstrip().startswith("{"):
        return dict(_class_of(str(key), said, path) for key, said in parse_json(text, path).items())
    made: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        folder, *said = re.split(r"[\s,]+", line.strip(), maxsplit=1)
        if not said or not said[0]:
            raise DataError(f"{path}, line {number}: write a folder and its class, such as `n01440764 tench`.")
        made[folder] = said[0]
    return made


def _class_of(key: str, said: Any, path: str) -> tuple[str, str]:
    if isinstance(said, str):
        return key, said
    if key.isdigit() and isinstance(said, list) and len(said) == 2:
        return str(said[0]), str(said[1]).replace("_", " ")
    raise DataError(f"{path}: the class of {key!r} is {said!r}, but must be its name.")


def advice(table: str, classes: str, first: str, listed: Iterable[str]) -> str:
    """Return advice for a folder without captions; `first` is one of its pictures, and `listed` are all its files."""
    if table:
        return f"{table} must name them by their paths below the folder, such as {first}."
    if classes:
        return f"{classes} must name the folders that contain them, such as {first.rpartition('/')[0] or 'tench'}."
    there = next((name for name in listed if ending_of(name) and not is_hidden(name)), "")
    named = f", such as {there}" if there else ""
    return f"name the table that has them with --captions{named}."
