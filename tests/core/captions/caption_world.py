"""A pool of a few hundred rows, a caption table in three unsorted files, and the join of both by the plainest Python there is."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import json
import lzma
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from datacomp_core.store import Folder

Row = dict[str, Any]
PARTS = 4
PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
ODD = b"caf\xe9 au lait"  # latin-1


def pool(seed: int = 0, number: int = 200) -> list[Row]:
    """Rows of metadata; a url and a picture may stand in several of them."""
    chance = random.Random(seed)
    rows: list[Row] = []
    for place in range(number):
        twin = rows[chance.randrange(place)] if place and chance.random() < 0.1 else None
        url = twin["url"] if twin else f"http://host/{place}.jpg"
        rows.append(
            {
                "uid": f"{chance.getrandbits(128):032x}",
                "url": url,
                "text": f"raw {place}",
                "sha256": hashlib.sha256(url.encode()).hexdigest(),
                "clip_l14_similarity_score": round(chance.random() / 2, 3),
            }
        )
    return rows


def write_pool(folder: Path, rows: list[Row]) -> Folder:
    folder.mkdir(parents=True, exist_ok=True)
    for part in range(PARTS):
        some = rows[len(rows) * part // PARTS : len(rows) * (part + 1) // PARTS]
        frame = pl.DataFrame(some).with_columns(pl.col("clip_l14_similarity_score").cast(pl.Float32))
        frame.write_parquet(folder / f"{part:08d}.parquet")
    return Folder(folder)


def table(rows: list[Row], column: str, seed: int = 1) -> list[tuple[str | None, bytes]]:
    """(key, text as bytes) in random order: repeats, unknown keys, empty texts, bytes of another encoding, keys that are none."""
    chance = random.Random(seed)
    keys = [str(row[column]) for row in rows]
    found: list[tuple[str | None, bytes]] = []
    for place in range(2 * len(rows)):
        key = chance.choice(keys[: len(keys) * 3 // 4])
        found.append((key, f"caption {place} of “{key[-4:]}”, é".encode()))
    found += [found[3], found[3]]
    found += [(f"{chance.getrandbits(256):064x}"[: len(keys[0])], b"nobody's") for _ in range(17)]
    found += [(chance.choice(keys), b"") for _ in range(5)] + [(chance.choice(keys), b"  \t ") for _ in range(3)]
    found += [(chance.choice(keys), ODD) for _ in range(7)] + [(None, b"of nothing") for _ in range(4)]
    chance.shuffle(found)
    return found


def write_table(folder: Path, given: list[tuple[str | None, bytes]], form: str, column: str) -> None:
    """Three files: every third row each, so that no file is in any order."""
    folder.mkdir()
    for number in range(3):
        some, path, form = given[number::3], folder / f"worker-{number}.{form}", form.partition(".")[0]
        if form == "parquet":
            texts = pa.array([text for _, text in some], pa.binary()).view(pa.string())  # which does not look at the bytes
            pq.write_table(pa.table({"n": pa.array(range(len(some))), "text": texts, column: [key for key, _ in some]}), path)
        elif form == "jsonl":
            lines = [
                b'{"n": 1, "%s": %s, "text": "%s"}' % (column.encode(), json.dumps(k).encode(), _escaped(t)) for k, t in some
            ]
            path.write_bytes(b"\n".join(lines))
        else:
            with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
                writer = csv.writer(file, delimiter="\t" if form == "tsv" else ",")
                writer.writerow([column, "text"])
                writer.writerows((key or "", text.decode("utf-8", "surrogateescape")) for key, text in some)
        if path.suffix in PACKERS:
            path.write_bytes(PACKERS[path.suffix](path.read_bytes()))


def _escaped(text: bytes) -> bytes:
    return text.replace(b"\t", b"\\t")


def brute_force(rows: list[Row], given: list[tuple[str | None, bytes]], column: str) -> tuple[list[list[str]], dict[str, int]]:
    """The captions of each row, in the order of the table's files, and the account."""
    ordered = [one for number in range(3) for one in given[number::3]]
    by_key: dict[str, list[str]] = defaultdict(list)
    counts = dict.fromkeys(("matched", "unmatched", "empty", "not_utf8", "without_key"), 0)
    known = {str(row[column]) for row in rows}
    for key, text in ordered:
        if not key:
            counts["without_key"] += 1
            continue
        try:
            caption = text.decode()
        except UnicodeDecodeError:
            counts["not_utf8"] += 1
            continue
        if not caption.strip():
            counts["empty"] += 1
            continue
        counts["matched" if key in known else "unmatched"] += 1
        by_key[key].append(caption)
    found = [by_key.get(str(row[column]), []) for row in rows]
    having = sum(1 for captions in found if captions)
    counts |= {"rows": len(ordered), "captioned": having, "uncaptioned": len(rows) - having}
    counts["several"] = sum(1 for captions in found if len(captions) > 1)
    counts["repeated"] = sum(len(captions) - len(set(captions)) for captions in found)
    return found, counts


def read_captions(folder: Path, rows: list[Row]) -> list[list[str]]:
    """The captions of each row of the pool, as the files have them."""
    found: list[list[str]] = [[] for _ in rows]
    for part in range(PARTS):
        start, path = len(rows) * part // PARTS, folder / f"captions/{part:08d}.parquet"
        if not path.exists():
            continue
        table = pl.read_parquet(path)
        assert table["row"].is_sorted()
        for row, uid, text in table.select("row", "uid", "text").iter_rows():
            assert rows[start + row]["uid"] == uid
            found[start + row].append(text)
    return found
