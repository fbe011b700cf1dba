"""open_clip's own tokenizer in a fraction of its time, token for token: plain captions need no repair, and words are looked up.

Most captions are printable ASCII without `&`, of which ftfy and HTML unescaping change nothing; all others go through them.
A word of 100,000 letters (such as base64 in a caption) takes a second; open_clip's own merges take hours and cache it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

WORDS = 1 << 18  # number of words whose tokens are cached
LONGEST = 64  # longer words are not cached


class CachedTokenizer:
    """Calls like open_clip's `SimpleTokenizer`, whose attributes it also has. Picklable."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._words: dict[str, tuple[int, ...]] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "tokenizer":
            raise AttributeError(name)
        return getattr(self.tokenizer, name)

    def __getstate__(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer, "_words": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> torch.Tensor:
        """Tokens (n, context) as int64, cut at the context's length with the end token last."""
        import torch

        texts = [texts] if isinstance(texts, str) else texts
        length = context_length or self.tokenizer.context_length
        made = np.zeros((len(texts), length), np.int64)
        for row, text in zip(made, texts, strict=True):
            tokens = [self.tokenizer.sot_token_id, *self.encode(text), self.tokenizer.eot_token_id][:length]
            tokens[-1] = self.tokenizer.eot_token_id
            row[: len(tokens)] = tokens
        return torch.from_numpy(made)

    def encode(self, text: str) -> list[int]:
        plain = text.isascii() and text.isprintable() and "&" not in text
        cleaned = " ".join(text.split()).lower() if plain else self.tokenizer.clean_fn(text)
        tokens: list[int] = []
        for word in self.tokenizer.pat.findall(cleaned):
            found = self._words.get(word)
            if found is None:
                found = self._of(word)
            tokens.extend(found)
        return tokens

    def _of(self, word: str) -> tuple[int, ...]:
        own = self.tokenizer
        letters = "".join(own.byte_encoder[byte] for byte in word.encode())
        known = own.cache.get(letters)  # special tokens, and words that open_clip's tokenizer has seen before
        pieces = known.split(" ") if known is not None else merge_pieces([*letters[:-1], f"{letters[-1]}</w>"], own.bpe_ranks)
        found = tuple(own.encoder[piece] for piece in pieces)
        if len(self._words) < WORDS and len(word) <= LONGEST:
            self._words[word] = found
        return found


def merge_pieces(letters: Sequence[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """The pieces of a word by open_clip's rule (`SimpleTokenizer.bpe`): all places of the pair of the lowest rank at a time."""
    pieces: list[str] = list(letters)  # one that was merged into the piece before it is empty
    end = len(pieces)
    before, after = list(range(-1, end - 1)), list(range(1, end + 1))
    waiting = [(ranks[pair], at) for at, pair in enumerate(pairwise(pieces)) if pair in ranks]
    heapify(waiting)
    while waiting:
        rank, made = waiting[0][0], list[int]()
        while waiting and waiting[0][0] == rank:
            _, at = heappop(waiting)
            other = after[at]
            if other == end or ranks.get((pieces[at], pieces[other])) != rank:
                continue
            pieces[at], pieces[other], after[at] = pieces[at] + pieces[other], "", after[other]
            if after[at] < end:
                before[after[at]] = at
            made.append(at)
        for place in made:
            for first, second in ((before[place], place), (place, after[place])):
                if first >= 0 and second < end and (found := ranks.get((pieces[first], pieces[second]))) is not None:
                    heappush(waiting, (found, first))
    return [piece for piece in pieces if piece]


def with_cache(tokenizer: Any) -> Any:
    """The tokenizer with a cache, if it is open_clip's own that writes small letters and cuts; any other one as it is."""
    from open_clip import tokenizer as theirs

    ours = type(tokenizer) is theirs.SimpleTokenizer and tokenizer.reduction_fn is None
    return CachedTokenizer(tokenizer) if ours and tokenizer.clean_fn is theirs.get_clean_fn("lower") else tokenizer
