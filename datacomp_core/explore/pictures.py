"""Pictures of a pool, one by one, by their byte range in the shards; small ones are kept on this machine's disk.

What leaves this module is a picture that was decoded and written again, never the bytes that somebody else put on the web.
"""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl

from datacomp_core import shards
from datacomp_core.errors import DataError
from datacomp_core.explore.explore_source import Shards
from datacomp_core.explore.sample import map_arrow_file
from datacomp_core.pictures import pillow_image
from datacomp_core.sample_members import picture_in
from datacomp_core.store.local import replacing

MAX_INDEXES = 20_000
"""The files of an index to search; a sample in none of them has no picture here."""
READERS = 8
MAX_KEPT_BYTES = 2 << 30
SIZES = (128, 256, 1024)
UID = re.compile(r"[0-9a-f]{32}")
NOT_HERE = "no picture: it was never downloaded, or was removed"
PLACES = "places.arrow"


class Pictures:
    """`kept`: a folder for small pictures and for where each sample is. Its methods may be called from several threads."""

    def __init__(self, where: Shards | None, kept: Path) -> None:
        self.where, self.kept = where, kept
        self._places: dict[str, int] = {}
        self._table = pl.DataFrame()
        self._guard = threading.Lock()
        self._bytes = 0
        self.num_unseen = 0

    def locate(self, uids: pl.Series) -> None:
        """Find where samples are: each file of the index is read once, and what was found is kept."""
        if self.where is None:
            return
        file = self.kept / PLACES
        if not file.exists():
            self.kept.mkdir(parents=True, exist_ok=True)
            tables = list(self._found(uids))
            table = pl.concat(tables, how="diagonal") if tables else pl.DataFrame(schema=shards.INDEX_SCHEMA)
            with replacing(file) as temporary:
                table.unique("uid", keep="first", maintain_order=True).write_ipc(temporary)
        self._table = map_arrow_file(file)
        self._places = {name: place for place, name in enumerate(self._table["uid"].to_list())}

    def _found(self, uids: pl.Series) -> Iterator[pl.DataFrame]:
        assert self.where is not None
        folder, names = self.where.index, shards.index_names(self.where.index)
        self.num_unseen = max(0, len(names) - MAX_INDEXES)
        wanted = pl.LazyFrame({"uid": uids.unique()})

        def of(name: str) -> pl.DataFrame:
            rows, _ = shards.stored_index(folder, name)
            return rows.lazy().join(wanted, on="uid", how="semi").collect()

        with ThreadPoolExecutor(READERS) as pool:
            yield from (rows for rows in pool.map(of, names[:MAX_INDEXES]) if rows.height)

    def place(self, uid: str) -> dict[str, object] | None:
        """Shard, offset and length of a sample; None if it is not known to be in a shard."""
        found = self._places.get(uid)
        return None if found is None else self._table.row(found, named=True)

    def picture(self, uid: str, size: int) -> bytes:
        """A WebP of at most `size` pixels a side. DataError says why there is none."""
        if not UID.fullmatch(uid) or size not in SIZES:
            raise DataError(f"No picture of {uid[:40]!r} in size {size}.")
        file = self.kept / "small" / uid[:2] / f"{uid}-{size}.webp"
        if file.exists():
            return file.read_bytes()
        made = small_picture(self.original(uid), size)
        if size <= SIZES[1]:
            self._keep(file, made)
        return made

    def original(self, uid: str) -> bytes:
        """Return the bytes of the picture as they are in the shard. DataError if it has none."""
        found = self._places.get(uid)
        if self.where is None or found is None:
            raise DataError(NOT_HERE if self.where is not None else "no picture: the shards of this pool are unknown")
        rows = self._table[found : found + 1]
        [members] = shards.read_members(self.where.tars, rows)
        data = picture_in(members)
        if not data:
            raise DataError("no picture in the sample")
        return data

    def originals(self, uids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Pictures of some samples, shard by shard in order of place, neighbours in one read; others are left out."""
        if self.where is None:
            return
        places = [self._places[uid] for uid in uids if uid in self._places]
        rows = self._table[places]
        for _, group in rows.group_by("shard", maintain_order=True):
            yield from ((uid, picture_in(members)) for uid, members in shards.read_samples(self.where.tars, group.sort("offset")))

    def _keep(self, file: Path, data: bytes) -> None:
        """Keep a small picture while there is room for it."""
        with self._guard:
            if not self._bytes:
                self._bytes = sum(each.stat().st_size for each in (self.kept / "small").rglob("*.webp")) or 1
            if self._bytes + len(data) > MAX_KEPT_BYTES:
                return
            self._bytes += len(data)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.{threading.get_ident()}")
        temporary.write_bytes(data)
        temporary.replace(file)


def small_picture(data: bytes, size: int) -> bytes:
    """A picture as a WebP of at most `size` pixels a side. DataError if it cannot be decoded."""
    try:
        with pillow_image(data) as image:
            made = image.convert("RGBA" if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA") else "RGB")
            made.thumbnail((size, size))
            buffer = io.BytesIO()
            made.save(buffer, "WEBP", quality=84)
    except Exception as problem:  # Pillow's decoders raise a dozen kinds on odd bytes
        raise DataError("cannot decode the picture") from problem
    return buffer.getvalue()
