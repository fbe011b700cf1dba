"""Writes several output shards at once: copies byte ranges of input shards unchanged, with new tar headers. The input is read
in its order, each range once for all shards of the job; each sample is written to its planned position. Nothing is decoded. If
a sample's new length differs from the plan, the samples are first stored in the order of the input and then arranged in the
order of the output.
"""

from __future__ import annotations

import errno
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Literal

import numpy as np
import polars as pl

from datacomp_core import uid
from datacomp_core.errors import DataError, DiskFullError
from datacomp_core.resharding.byte_ranges import InputTar, SampleBatch, in_order, read
from datacomp_core.resharding.captions import CaptionEdits
from datacomp_core.resharding.faces import FaceEdits
from datacomp_core.resharding.plan import Positions, Rows
from datacomp_core.resharding.tar_headers import Renamed, frame_anew, json_of, names_of, rename
from datacomp_core.sample_members import names_of as names_of_members
from datacomp_core.shards import INDEX, INDEX_SCHEMA, index_bytes, see_sample
from datacomp_core.store.folder import FileStat, Folder
from datacomp_core.tar import BLOCK, TarDamageError, ending, printable


@dataclass(frozen=True)
class CopyJob:
    """Output shards to write: `rows[cuts[n]:cuts[n + 1]]` in their order become `shards[n]`; `row["shard"]` is one of `tars`.

    `record` says whether sizes and hashes of the written files are needed: hashing costs as much as copying. `overread` is
    the share of bytes that may be read in vain for the sake of fewer requests to a bucket.
    """

    shards: tuple[str, ...]
    cuts: tuple[int, ...]
    rows: Rows
    tars: tuple[InputTar, ...]
    out: Folder
    record: Literal["files", "nothing"] = "nothing"
    overread: float = 0.1
    faces: FaceEdits | None = None
    captions: CaptionEdits | None = None


@dataclass(frozen=True)
class CopyResult:
    samples: int
    edited: int
    files: tuple[FileStat, ...]


class _OddError(Exception):
    """A sample whose new length is not the foreseen one."""


def copy_shards(job: CopyJob) -> CopyResult:
    """Write each `<shard>.tar`, its index and, last, `<shard>_stats.json`. DataError if the input is not what its index says."""
    out = job.out.journaled() if job.record == "files" else job.out
    writing = _Writing(job)
    try:
        with ExitStack() as stack:
            writing.write([stack.enter_context(out.writing(f"{shard}.tar")) for shard in job.shards])
    except OSError as problem:
        if problem.errno == errno.ENOSPC:
            raise DiskFullError(str(out)) from problem
        raise
    for n, shard in enumerate(job.shards):
        mine = slice(job.cuts[n], job.cuts[n + 1])
        columns = {"uid": writing.uids[mine], "key": writing.keys[mine], "offset": writing.offsets[mine]}
        index = pl.DataFrame({**columns, "length": writing.lengths[mine]}).with_columns(shard=pl.lit(shard))
        out.write(f"{INDEX}/{shard}.parquet", index_bytes(index.select(INDEX_SCHEMA.names()).cast(INDEX_SCHEMA)))
        out.write_json(f"{shard}_stats.json", {"successes": index.height})
    return CopyResult(len(job.rows), writing.edited, tuple(out.journal.values()))


def keys_of(rows: Rows) -> tuple[pl.Series, pl.Series]:
    """uid and key (`<uid>-<copy>`) of each row."""
    packed = np.empty(len(rows), uid.DTYPE)
    packed["f0"], packed["f1"] = rows["f0"], rows["f1"]
    uids = uid.unpack(packed)
    return uids, (uids + "-" + pl.Series(rows["copy"].astype(np.int64)).cast(pl.String)).alias("key")


class _Writing:
    """The tars of one job, and the place of each sample in them."""

    def __init__(self, job: CopyJob) -> None:
        self.job = job
        self.uids, self.keys = keys_of(job.rows)
        self.names = names_of(self.keys.to_list())
        self.uid_bytes = [uid.encode() for uid in self.uids]
        self.usual = np.array([not tar.members for tar in job.tars])
        self.shard_of_row = np.repeat(np.arange(len(job.shards)), np.diff(job.cuts))
        self.lengths = self.offsets = np.empty(0, np.int64)
        self.edited = 0

    def write(self, paths: list[Path]) -> None:
        with ExitStack() as stack:
            tars: list[IO[bytes]] = [stack.enter_context(path.open("w+b", buffering=0)) for path in paths]
            try:
                if self.job.faces is not None or self.job.captions is not None:
                    raise _OddError
                self._place(self._foreseen())
                self._write_in_place(tars)
            except _OddError:
                with tempfile.TemporaryFile(dir=paths[0].parent, buffering=0) as aside:
                    self._write_aside(aside, tars)
            for n, tar in enumerate(tars):
                end = int(self.lengths[self.job.cuts[n] : self.job.cuts[n + 1]].sum())
                tar.truncate(end)
                tar.seek(end)
                tar.write(ending(end))

    def _place(self, lengths: Positions) -> None:
        """Each sample behind the one before it in its shard."""
        self.lengths = lengths
        total = np.cumsum(lengths) - lengths
        self.offsets = total - total[list(self.job.cuts[:-1])][self.shard_of_row]

    def _foreseen(self) -> Positions:
        """The lengths to come, if every sample of a folder loses as many blocks as the folder's first one does."""
        rows, lengths = self.job.rows, self.job.rows["length"].copy()
        turns = in_order(rows)
        folders = list(dict.fromkeys(tar.folder for tar in self.job.tars))
        folder_of_tar = np.array([folders.index(tar.folder) for tar in self.job.tars])
        for number in range(len(folders)):
            mine = folder_of_tar[rows["shard"]] == number
            row = turns[np.argmax(mine[turns])]
            tar, begin = self.job.tars[rows["shard"][row]], int(rows["offset"][row])
            data = tar.folder.read_range(tar.file, begin, begin + int(rows["length"][row]))
            blocks = np.frombuffer(bytearray(data), np.uint8).reshape(-1, BLOCK)
            usual = np.array([not self.job.tars[rows["shard"][row]].members])
            done = rename(blocks, np.zeros(1, np.int64), np.array([len(blocks)]), self.names[row : row + 1], usual)
            if not done.fits[0]:
                raise _OddError
            lengths[mine] -= (len(blocks) - int(_new_blocks(done, np.array([len(blocks)]))[0])) * BLOCK
        return lengths

    def _batches(self) -> Iterator[tuple[SampleBatch, Positions, Renamed]]:
        """The renamed bytes of a batch: which samples they are (one copy of each at a time), and their outcome."""
        for batch in read(self.job.rows, self.job.tars, overread=self.job.overread):
            again = np.concatenate(([False], batch.begins[1:] == batch.begins[:-1]))
            here = np.arange(len(again))
            turn = here - np.maximum.accumulate(np.where(again, 0, here))
            for copy in range(int(turn.max()) + 1):
                some = np.flatnonzero(turn == copy)
                rows, begins = batch.rows[some], batch.begins[some]
                ends, usual = begins + self.job.rows["length"][rows] // BLOCK, self.usual[self.job.rows["shard"][rows]]
                done = rename(batch.blocks, begins, ends, self.names[rows], usual)
                self._see_renamed(batch, rows, done)
                yield batch, some, done

    def _see_renamed(self, batch: SampleBatch, rows: Positions, done: Renamed) -> None:
        """DataError if a sample's bytes are of another one than the index says."""
        data, stems = batch.blocks.reshape(-1).data, done.stems
        where = json_of(batch.blocks, done, self.names[rows])
        for n, (row, fits, (start, stop)) in enumerate(zip(rows.tolist(), done.fits.tolist(), where, strict=True)):
            about = bytes(data[start:stop]) if stop else None
            if fits and not (about and self.uid_bytes[row] in about):
                stem = bytes(stems[n]).rstrip(b"\0")[:-1].decode("utf-8", "surrogateescape")
                self._see(row, printable(stem), about.rstrip(b"\0") if about else None)

    def _see(self, row: int, found: str, about: bytes | None) -> None:
        same = zlib.crc32(found.encode()) == self.job.rows["key"][row]
        try:
            see_sample(found, about, self.uids[row], found if same else "")
        except TarDamageError as problem:
            raise self._told(row, problem) from problem

    def _write_in_place(self, tars: list[IO[bytes]]) -> None:
        files = [tar.fileno() for tar in tars]
        for batch, some, done in self._batches():
            rows = batch.rows[some]
            pieces = _Pieces(batch, some, done, self.job.rows["length"][rows])
            if not done.fits.all() or np.any(pieces.lengths != self.lengths[rows]):
                raise _OddError
            where = (self.shard_of_row[rows].tolist(), self.offsets[rows].tolist(), pieces.lengths.tolist())
            for shard, offset, length, piece in zip(*where, pieces, strict=True):
                _write_all(files[shard], piece, offset, length)

    def _write_aside(self, aside: IO[bytes], tars: list[IO[bytes]]) -> None:
        """All samples to one file as they come, then from there to the tars in the order of the output."""
        lengths, places = np.empty(len(self.job.rows), np.int64), np.empty(len(self.job.rows), np.int64)
        end = 0
        for batch, some, done in self._batches():
            rows = batch.rows[some]
            pieces = _Pieces(batch, some, done, self.job.rows["length"][rows])
            for row, fits, piece in zip(rows.tolist(), done.fits.tolist(), pieces, strict=True):
                ready = self._edited(row, piece if fits else [self._anew(row, piece[0])])
                places[row], lengths[row] = end, sum(map(len, ready))
                _write_all(aside.fileno(), ready, end, int(lengths[row]))
                end += int(lengths[row])
        self._place(lengths)
        where = zip(self.shard_of_row.tolist(), places.tolist(), self.offsets.tolist(), lengths.tolist(), strict=True)
        for shard, place, offset, length in where:
            _write_all(tars[shard].fileno(), [memoryview(os.pread(aside.fileno(), length, place))], offset, length)

    def _anew(self, row: int, data: memoryview) -> memoryview:
        try:
            members = names_of_members(self.job.tars[self.job.rows["shard"][row]].members)
            found, about, framed = frame_anew(bytes(data), self.keys[row], members)
        except TarDamageError as problem:
            raise self._told(row, problem) from problem
        self._see(row, found, about)
        return memoryview(framed)

    def _told(self, row: int, problem: TarDamageError) -> DataError:
        found = self.job.rows[row]
        tar = self.job.tars[found["shard"]]
        return DataError(
            f"Shard {tar.folder.at(tar.file)} does not match its index at bytes {found['offset']} to "
            f"{found['offset'] + found['length']}: {problem.reason}; index it again or download it again."
        )

    def _edited(self, row: int, pieces: list[memoryview]) -> list[memoryview]:
        edits = [edit for edit in (self.job.captions, self.job.faces) if edit is not None and edit.concern(row)]
        for edit in edits:
            pieces = [memoryview(edit.edit(row, b"".join(pieces), self.keys[row]))]
        self.edited += bool(edits)
        return pieces


def _new_blocks(done: Renamed, size: Positions) -> Positions:
    """How many blocks each renamed sample has now, of `size` before."""
    blocks = np.where(done.stripped, 0, size)
    for members in done.members:
        here = done.stripped[members.sample]
        blocks[members.sample[here]] += (members.stop - members.head)[here]
    return blocks


class _Pieces:
    """The bytes to write for each sample: its range, or its members without what stood before them. `lengths` is of each."""

    def __init__(self, batch: SampleBatch, some: Positions, done: Renamed, lengths: Positions) -> None:
        anew, start = done.fits & done.stripped, batch.begins[some] * BLOCK
        whole = np.flatnonzero(~anew)
        sample, begin, end = [whole], [start[whole]], [(start + lengths)[whole]]
        for members in done.members if anew.any() else ():
            mine = anew[members.sample]
            sample.append(members.sample[mine])
            begin.append(members.head[mine] * BLOCK)
            end.append(members.stop[mine] * BLOCK)
        whose = np.concatenate(sample)
        order = np.argsort(whose, kind="stable")
        begins, ends = np.concatenate(begin)[order], np.concatenate(end)[order]
        self._begins, self._ends = begins.tolist(), ends.tolist()
        self._first = np.searchsorted(whose[order], np.arange(len(some) + 1)).tolist()
        total = np.concatenate(([0], np.cumsum(ends - begins)))[self._first]
        self.lengths: Positions = total[1:] - total[:-1]
        self._data = batch.blocks.reshape(-1).data

    def __iter__(self) -> Iterator[list[memoryview]]:
        data, begins, ends, first = self._data, self._begins, self._ends, self._first
        for low, high in pairwise(first):
            yield [data[begins[n] : ends[n]] for n in range(low, high)]


def _write_all(file: int, pieces: list[memoryview], place: int, length: int) -> None:
    written = os.pwritev(file, pieces, place)
    while written < length:
        rest = memoryview(b"".join(pieces))[written:]
        written += os.pwrite(file, rest, place + written)
