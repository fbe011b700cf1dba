"""Reads a file of fastText's lid.176, quantized (`.ftz`) or not (`.bin`): words, labels and vectors.

The layout follows `FastText::loadModel` 0.9.2. Only classifiers with a tree of labels are supported; other models raise an error.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from datacomp_core.errors import DataError

Floats = npt.NDArray[np.float32]
MAGIC = 793712314
TREE_OF_LABELS = 1
CENTROIDS = 256
LABEL, END = "__label__", "</s>"


@dataclass(frozen=True)
class LanguageFile:
    """`rows` (n, d): vectors of words, then of pieces of words by bucket. `places`: which row a bucket has, if not all have one.
    `shortest`, `longest`: pieces, in characters. `output` (labels, d): of the tree's inner nodes."""

    labels: list[str]
    label_counts: list[int]
    words: dict[str, int]
    shortest: int
    longest: int
    buckets: int
    places: npt.NDArray[np.int32] | None
    rows: Floats
    output: Floats

    @classmethod
    def read(cls, path: Path) -> LanguageFile:
        """DataError if it is another model."""
        file = _Bytes(path.read_bytes())
        magic, _, *arguments = file.take("<2i12id")
        _, _, _, _, _, ngrams, loss, _, buckets, shortest, longest, _, _ = arguments
        if (magic, ngrams, loss) != (MAGIC, 1, TREE_OF_LABELS) or shortest < 2:
            raise DataError(f"{path} is not a fastText model for languages such as lid.176.")
        size, num_words, _, _, num_kept = file.take("<3i2q")
        entries = [file.entry() for _ in range(size)]
        places = None
        if num_kept >= 0:
            kept = file.array(np.int32, 2 * num_kept).reshape(-1, 2)
            places = np.full(buckets, -1, np.int32)
            places[kept[:, 0]] = kept[:, 1]
        [is_quantized] = file.take("<?")
        rows = file.quantized() if is_quantized else file.matrix()
        [is_output_quantized] = file.take("<?")
        return cls(
            labels=[word.removeprefix(LABEL) for word, _ in entries[num_words:]],
            label_counts=[count for _, count in entries[num_words:]],
            words={word: place for place, (word, _) in enumerate(entries[:num_words])},
            shortest=shortest,
            longest=longest,
            buckets=buckets,
            places=places,
            rows=rows,
            output=file.quantized() if is_quantized and is_output_quantized else file.matrix(),
        )

    def rows_of(self, hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
        """The rows of pieces, by their hashes; negative for those that have none. Shape (n,)."""
        found = (hashes % np.uint32(self.buckets)).astype(np.int64)
        if self.places is not None:
            found = self.places[found].astype(np.int64)
        return np.where(found >= 0, found + len(self.words), -1)


class _Bytes:
    """Reads on from where it stopped."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def take(self, form: str) -> tuple[Any, ...]:
        begin, self.place = self.place, self.place + struct.calcsize(form)
        return struct.unpack_from(form, self.data, begin)

    def array(self, dtype: Any, count: int) -> npt.NDArray[Any]:
        begin, self.place = self.place, self.place + count * np.dtype(dtype).itemsize
        return np.frombuffer(self.data, dtype, count, begin).copy()  # aligned, and the file need not stay in memory

    def entry(self) -> tuple[str, int]:
        """A word or label and its count."""
        end = self.data.index(b"\0", self.place)
        word = self.data[self.place : end].decode("utf-8", "surrogateescape")
        self.place = end + 1
        count, _ = self.take("<qb")
        return word, count

    def matrix(self) -> Floats:
        """Vectors as they are, (n, d)."""
        count, size = self.take("<2q")
        return self.array(np.float32, count * size).reshape(count, size)

    def quantized(self) -> Floats:
        """Vectors from codes: each is a norm times one centroid for every few dimensions."""
        has_norms, count, size, num_codes = self.take("<?2qi")
        codes = self.array(np.uint8, num_codes).reshape(count, -1)
        centroids = self._centroids()
        rows = np.concatenate([some[codes[:, place]] for place, some in enumerate(centroids)], axis=1)
        assert rows.shape == (count, size)
        if not has_norms:
            return rows
        norm_codes = self.array(np.uint8, count)
        return rows * self._centroids()[0][norm_codes]

    def _centroids(self) -> list[Floats]:
        size, parts, width, last = self.take("<4i")
        every = self.array(np.float32, size * CENTROIDS)
        first, rest = np.split(every, [(parts - 1) * CENTROIDS * width])
        return [*first.reshape(parts - 1, CENTROIDS, width), rest.reshape(CENTROIDS, last)]
