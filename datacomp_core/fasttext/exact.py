"""fastText's answer about a caption, bit for bit: its additions in its order, in 32-bit floats, and its walk through the labels.

`model.py` adds in another order, which is faster, and asks here where rounding could decide. The order follows
`Dictionary::getLine`, `Model::computeHidden` and `HierarchicalSoftmaxLoss::dfs` of fastText 0.9.2 with k = 1 and threshold 0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.fasttext.reader import END, LABEL, LanguageFile
from datacomp_core.fasttext.subwords import pieces

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
SEPARATORS = re.compile("[ \n\r\t\x0b\x0c\x00]+")
ADDED = 1e-5
"""fastText adds it to what it takes the logarithm of."""
LOWEST = np.float32(np.log(ADDED))
"""fastText's threshold of 0, as a log-probability: less likely branches are not walked."""
CLEAR = np.float32(1e-3)
"""Of two log-probabilities. Each step of the walk can add at most `ADDED`, and no label is more than some tens of steps deep."""
CHARACTERS_AT_ONCE = 1 << 17
CAPTIONS_AT_ONCE = 1 << 10


class ExactModel:
    """Answers for few captions. `left`, `right`: children of the nodes of the tree of labels."""

    def __init__(self, file: LanguageFile, left: Integers, right: Integers) -> None:
        self._file, self._left, self._right = file, left, right

    def labels(self, captions: Sequence[str]) -> list[str | None]:
        """The best label of each caption; None where fastText gives none. Captions have no newline."""
        found: list[str | None] = []
        for start in range(0, len(captions), CAPTIONS_AT_ONCE):
            sums, counts = self._sums(captions[start : start + CAPTIONS_AT_ONCE])
            with np.errstate(divide="ignore", invalid="ignore"):
                hidden = sums * (1 / counts).astype(np.float32)[:, None]
            found += [label if count else None for label, count in zip(self._best(hidden), counts, strict=True)]
        return found

    def _sums(self, captions: Sequence[str]) -> tuple[Floats, Integers]:
        """For each caption the sum of the vectors of its pieces (n, d), and their number (n,)."""
        sums = np.zeros((len(captions), self._file.rows.shape[1]), np.float32)
        counts = np.zeros(len(captions), np.int64)
        for owners, tokens in _chunks(captions):
            rows, places = self._rows(tokens)
            of_rows = owners[places]
            bounds = [*np.flatnonzero(np.append(len(rows) > 0, of_rows[1:] != of_rows[:-1])), len(rows)]
            for begin, end in pairwise(bounds):
                caption = of_rows[begin]
                one_after_the_other = np.cumsum(np.vstack([sums[caption], self._file.rows[rows[begin:end]]]), axis=0)
                sums[caption] = one_after_the_other[-1]
                counts[caption] += end - begin
        return sums, counts

    def _rows(self, tokens: list[str]) -> tuple[Integers, Integers]:
        """The rows of all pieces in fastText's order (a token's own, then by start, then by length), and the token of each."""
        words = np.array([self._file.words.get(token, -1) for token in tokens], np.int64)
        known = np.flatnonzero(words >= 0)
        rows, places, starts = [words[known]], [known], [np.full(len(known), -1)]
        in_pieces = np.array([place for place, token in enumerate(tokens) if token != END], np.int64)
        for owners, hashes in pieces(pl.Series([tokens[n] for n in in_pieces], dtype=pl.String), *self._lengths()):
            first_of_owner = np.searchsorted(owners, owners)
            found = self._file.rows_of(hashes)
            kept = found >= 0
            rows.append(found[kept])
            places.append(in_pieces[owners[kept]])
            starts.append((np.arange(len(owners)) - first_of_owner)[kept])
        order = np.lexsort((np.concatenate(starts), np.concatenate(places)))  # stable: of one start, the shorter piece is first
        return np.concatenate(rows)[order], np.concatenate(places)[order]

    def _lengths(self) -> tuple[int, int]:
        return self._file.shortest, self._file.longest

    def _best(self, hidden: Floats) -> list[str | None]:
        """The labels for vectors (n, d)."""
        left, right = self._branches(hidden)
        leaves = len(self._file.labels)
        scores = np.empty((2 * leaves - 1, len(hidden)), np.float32)
        scores[-1] = 0
        for node in range(2 * leaves - 2, leaves - 1, -1):  # children stand before their parents
            scores[self._left[node]] = scores[node] + left[node - leaves]
            scores[self._right[node]] = scores[node] + right[node - leaves]
        best, highest = scores[:leaves].argmax(0), scores[:leaves].max(0)
        is_clear = (np.count_nonzero(scores[:leaves] >= highest - CLEAR, axis=0) == 1) & (highest > LOWEST + 1)
        places = [
            int(place) if clear else self._walked(left[:, n], right[:, n])
            for n, (place, clear) in enumerate(zip(best, is_clear, strict=True))
        ]
        return [None if place is None else self._file.labels[place] for place in places]

    def _branches(self, hidden: Floats) -> tuple[Floats, Floats]:
        """Log-probabilities of going left and right at each inner node, (labels - 1, n) each."""
        inner = len(self._file.labels) - 1
        dots = np.zeros((inner, len(hidden)), np.float32)
        for place in range(hidden.shape[1]):
            dots += self._file.output[:inner, place, None] * hidden[None, :, place]
        # The C library's exp of a float is rounded from one of higher precision, and NumPy's own is not.
        with np.errstate(over="ignore"):
            exponential = np.exp(-dots.astype(np.float64)).astype(np.float32)
            to_right = (1 / (np.float32(1) + exponential).astype(np.float64)).astype(np.float32)
        to_left = (1.0 - to_right.astype(np.float64)).astype(np.float32)
        return _logarithm(to_left), _logarithm(to_right)

    def _walked(self, left: Floats, right: Floats) -> int | None:
        """The label that fastText's walk ends with: it leaves out branches that cannot win, and of equals the last one wins."""
        leaves = len(self._file.labels)
        best, highest = None, LOWEST
        ahead = [(2 * leaves - 2, np.float32(0))]
        while ahead:
            node, score = ahead.pop()
            if score < highest:
                continue
            if node < leaves:
                best, highest = node, score
                continue
            ahead.append((int(self._right[node]), score + right[node - leaves]))
            ahead.append((int(self._left[node]), score + left[node - leaves]))
        return best


def _logarithm(shares: Floats) -> Floats:
    return np.log(shares.astype(np.float64) + ADDED).astype(np.float32)


def _chunks(captions: Sequence[str]) -> Iterator[tuple[Integers, list[str]]]:
    """The tokens of all captions in order, some at a time, and the caption of each, (n,)."""
    owners: list[int] = []
    tokens: list[str] = []
    size = 0
    for place, caption in enumerate(captions):
        for token in _tokens(caption):
            owners.append(place)
            tokens.append(token)
            size += len(token) + 2
            if size >= CHARACTERS_AT_ONCE:
                yield np.array(owners), tokens
                owners, tokens, size = [], [], 0
    if tokens:
        yield np.array(owners), tokens


def _tokens(caption: str) -> Iterator[str]:
    """Yield the tokens that fastText reads from a line: labels are not words, and `</s>` ends the line at any position."""
    for token in SEPARATORS.split(caption):
        if token == END:
            break
        if token and not token.startswith(LABEL):
            yield token
    yield END
