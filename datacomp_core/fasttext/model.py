"""fastText's language identification of many captions at once: its answers in a fraction of its time.

A caption's vector is the mean over the pieces of its tokens, so each distinct token is taken to pieces once and not wherever it
stands, and the tree of labels is walked for all captions together. This adds in another order than fastText: where the two best
labels are closer than rounding explains, or a caption is unusual, `exact.py` adds in fastText's order. fastText is not needed.
Followed are lid.176 (Joulin et al. 2016) and `Dictionary`, `QuantMatrix` and `HierarchicalSoftmaxLoss` of fastText 0.9.2.
"""

from __future__ import annotations

from functools import cache
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from datacomp_core.assets import asset
from datacomp_core.fasttext.exact import ExactModel
from datacomp_core.fasttext.reader import END, LABEL, LanguageFile
from datacomp_core.fasttext.subwords import pieces

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
SEPARATORS = r"[\n\r\t\x0b\x0c\x00]"
"""And the space: what fastText splits captions at."""
CLOSE = np.float32(0.01)
"""Of the best two log-probabilities. Orders of adding were seen to differ by 2e-6, over 60,000 captions."""
LONG = 1000
"""Bytes of a caption from which on it is left to `exact.py`: the more is added up, the more rounding."""
TOGETHER = 1 << 18
TOKENS_AT_ONCE = 1 << 13
CAPTIONS_AT_ONCE = 1 << 10
HALF = np.float32(np.log(0.51))
"""A log-probability that leaves too little for any other label to come `CLOSE`."""
ALMOST_NONE = np.float32(1e-5)  # fastText adds it to what it takes the logarithm of


class LanguageModel:
    """Tells the language of captions."""

    def __init__(self, path: Path) -> None:
        self._file = LanguageFile.read(path)
        self._left, self._right = tree(self._file.label_counts)
        self._exact = ExactModel(self._file, self._left, self._right)
        [self._end] = self._sums(pl.Series([END]), is_word=False)

    def languages(self, captions: pl.Series) -> pl.Series:
        """The best label of each caption, as `en`. Captions have no newline and are not null."""
        slices = [captions[start : start + TOGETHER] for start in range(0, len(captions), TOGETHER)]
        return pl.concat([pl.Series(captions.name, [], pl.String), *map(self._languages, slices)])

    def _languages(self, captions: pl.Series) -> pl.Series:
        best, is_sure = self._best(captions)
        labels = pl.Series(captions.name, self._file.labels, pl.String).gather(best)
        plain = (captions.str.len_bytes() < LONG) & ~captions.str.contains_any([END, LABEL])
        unsure = np.flatnonzero(~(is_sure & plain.to_numpy()))
        return labels.scatter(unsure, self._exact.labels(captions.gather(unsure).to_list()))

    def _best(self, captions: pl.Series) -> tuple[Places, Mask]:
        """The place of each caption's best label, and whether it is so by more than rounding. Both (n,)."""
        tokens = captions.str.replace_all(SEPARATORS, " ").str.split(" ")
        begins = np.append(0, np.cumsum(tokens.list.len().to_numpy(), dtype=np.int64))
        distinct, codes = numbered(tokens.explode())
        sums = self._sums(distinct)
        best, is_sure = np.empty(len(captions), np.int64), np.empty(len(captions), np.bool_)
        for start in range(0, len(captions), CAPTIONS_AT_ONCE):
            some = slice(start, min(start + CAPTIONS_AT_ONCE, len(captions)))
            of_tokens = sums[codes[begins[some.start] : begins[some.stop]]]
            whole = np.add.reduceat(of_tokens, begins[some] - begins[start], axis=0) + self._end
            best[some], is_sure[some] = self._labels(whole[:, :-1] / whole[:, -1:])
        return best, is_sure

    def _labels(self, vectors: Floats) -> tuple[Places, Mask]:
        """For vectors (n, d) what `_best` gives for captions."""
        best, is_sure = self._descended(vectors)
        rest = np.flatnonzero(~is_sure)
        if len(rest):
            best[rest], is_sure[rest] = self._walked(vectors[rest])
        return best, is_sure

    def _descended(self, vectors: Floats) -> tuple[Places, Mask]:
        """Down the likelier branch: a leaf that has more than half of all probability is the best, and most captions have one."""
        leaves = len(self._file.labels)
        best, is_sure = np.full(len(vectors), 2 * leaves - 2), np.zeros(len(vectors), np.bool_)
        going, score = np.arange(len(vectors)), np.zeros(len(vectors), np.float32)
        while len(going):
            node = best[going]
            with np.errstate(over="ignore"):
                to_right = 1 / (1 + np.exp(-np.einsum("nd,nd->n", vectors[going], self._file.output[node - leaves])))
            is_right = to_right > 0.5
            score += np.log(np.where(is_right, to_right, 1 - to_right) + ALMOST_NONE)
            best[going] = node = np.where(is_right, self._right[node], self._left[node])
            is_sure[going] = (node < leaves) & (score > HALF)
            further = (node >= leaves) & (score > HALF)
            going, score = going[further], score[further]
        return best, is_sure

    def _walked(self, vectors: Floats) -> tuple[Places, Mask]:
        """From the tree's root to all leaves, whose log-probabilities are sums over the way."""
        leaves, count = len(self._file.labels), len(vectors)
        with np.errstate(over="ignore"):
            to_right = 1 / (1 + np.exp(-(self._file.output[: leaves - 1] @ vectors.T)))
        right, left = np.log(to_right + ALMOST_NONE), np.log(1 - to_right + ALMOST_NONE)
        scores = np.empty((2 * leaves - 1, count), np.float32)
        scores[-1] = 0
        for node in range(2 * leaves - 2, leaves - 1, -1):  # children stand before their parents
            here, number = scores[node], node - leaves
            np.add(here, left[number], out=scores[self._left[node]])
            np.add(here, right[number], out=scores[self._right[node]])
        good = np.flatnonzero(scores[:leaves] >= scores[:leaves].max(0) - CLOSE)
        best = np.empty(count, np.int64)
        best[good % count] = good // count
        return best, np.bincount(good % count, minlength=count) == 1

    def _sums(self, tokens: pl.Series, *, is_word: bool = True) -> Floats:
        """For each token the sum of its pieces' vectors, and behind it their number; (n, dimensions + 1)."""
        words = np.fromiter(map(self._file.words.get, tokens.to_list(), repeat(-1)), np.int64, len(tokens))
        sums = np.zeros((len(tokens), self._file.rows.shape[1] + 1), np.float32)
        at = np.flatnonzero(words >= 0)
        sums[at, :-1], sums[at, -1] = self._file.rows[words[at]], 1
        for start in range(0, len(tokens) if is_word else 0, TOKENS_AT_ONCE):
            some = tokens[start : start + TOKENS_AT_ONCE]
            for owners, buckets in pieces(some, self._file.shortest, self._file.longest):
                rows = self._file.rows_of(buckets)
                mine, rows = owners[rows >= 0], rows[rows >= 0]
                if len(rows):
                    firsts = np.flatnonzero(np.append(True, mine[1:] != mine[:-1]))
                    at = start + mine[firsts]
                    sums[at, :-1] += np.add.reduceat(self._file.rows[rows], firsts, axis=0)
                    sums[at, -1] += np.diff(np.append(firsts, len(rows)))
        sums[(tokens == "").to_numpy()] = 0  # the text between two separators is not a token
        return sums


@cache
def language_model(name: str) -> LanguageModel:
    """The model of an asset, loaded once a process."""
    return LanguageModel(asset(name))


def numbered(texts: pl.Series) -> tuple[pl.Series, Places]:
    """The distinct texts, and the place of each text among them, (n,)."""
    coded = texts.cast(pl.Categorical(pl.Categories.random()))
    distinct = coded.unique()
    numbers = distinct.to_physical().to_numpy()
    places = np.zeros(int(numbers.max()) + 1, np.int64)
    places[numbers] = np.arange(len(numbers))
    return distinct.cast(pl.String), places[coded.to_physical().to_numpy()]


def tree(counts: list[int]) -> tuple[Places, Places]:
    """Left and right child of each node of the Huffman tree over labels, from frequent to rare; its leaves are the labels."""
    leaves = len(counts)
    weights = [*counts, *[10**15] * (leaves - 1)]
    left, right = [-1] * len(weights), [-1] * len(weights)
    leaf, node = leaves - 1, leaves
    for new in range(leaves, len(weights)):
        pair: list[int] = []
        for _ in range(2):
            if leaf >= 0 and weights[leaf] < weights[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        left[new], right[new] = pair
        weights[new] = weights[pair[0]] + weights[pair[1]]
    return np.array(left), np.array(right)
