"""open_clip's own tokenizer in a fraction of its time, token for token: plain captions need no repair, and words are looked up.

Most captions are printable ASCII without `&`, of which ftfy and HTML unescaping change nothing; all others go through them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

WORDS = 1 << 18  # that are kept with their tokens


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
        found = tuple(own.encoder[piece] for piece in own.bpe(letters).split(" "))
        if len(self._words) < WORDS:
            self._words[word] = found
        return found


def cached(tokenizer: Any) -> Any:
    """The tokenizer with a cache, if it is open_clip's own that writes small letters and cuts; any other one as it is."""
    from open_clip import tokenizer as theirs

    ours = type(tokenizer) is theirs.SimpleTokenizer and tokenizer.reduction_fn is None
    return CachedTokenizer(tokenizer) if ours and tokenizer.clean_fn is theirs.get_clean_fn("lower") else tokenizer
