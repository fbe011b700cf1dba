"""The cached tokenizer gives open_clip's tokens, whatever the text."""

from __future__ import annotations

import pickle
import random
from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from datacomp_core import clip
from datacomp_core.tokens import CachedTokenizer, merge_pieces, with_cache

TEXTS = [
    "",
    " ",
    "a photo of a CAT, isn't it? they'll",
    "caf\u00e9 \u2013 \u201cquoted\u201d \ufb01ne",
    "AT&amp;T &lt;b&gt; &amp;amp;eacute;",
    "tab\tnew\nline\r\n\x1b[31mred\x1b[0m \x00\x07 end",
    "<start_of_text>inside<END_OF_TEXT>",
    "\u732b \U0001f408 \u0645\u0631\u062d\u0628\u0627 12345 x_y__z",
    "\u00c3\u00a9t\u00c3\u00a9 mojibake",
    "word " * 100,
    "a" * 400,
]


@cache
def tokenizers() -> tuple[Any, Any]:
    import open_clip

    clip.register()
    theirs = open_clip.get_tokenizer("ViT-B-32")
    return theirs, with_cache(open_clip.get_tokenizer("ViT-B-32"))


def test_the_tokens_are_open_clips_also_in_another_process() -> None:
    theirs, mine = tokenizers()
    assert isinstance(mine, CachedTokenizer)
    for one in (mine, mine, pickle.loads(pickle.dumps(mine))):
        assert one(TEXTS).tolist() == theirs(TEXTS).tolist()
        assert one(TEXTS[2], 16).tolist() == theirs(TEXTS[2], 16).tolist()
    assert one(TEXTS).dtype == theirs(TEXTS).dtype
    assert mine.vocab_size == theirs.vocab_size


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.text(), st.text(st.characters(max_codepoint=127))), max_size=4))
def test_any_text_has_open_clips_tokens(texts: list[str]) -> None:
    theirs, mine = tokenizers()
    assert mine(texts).tolist() == theirs(texts).tolist()


@settings(max_examples=300, deadline=None)
@given(st.text("aehinorst", min_size=1, max_size=60))
def test_the_pieces_of_a_word_are_open_clips(word: str) -> None:
    theirs, _ = tokenizers()
    assert merge_pieces([*word[:-1], f"{word[-1]}</w>"], theirs.bpe_ranks) == theirs.bpe(word).split(" ")


def test_a_word_of_100_000_letters_is_cut_like_any_other() -> None:
    """open_clip's own merges of such a word, as of base64 in a caption, take hours: it would hang a training."""
    chance = random.Random(0)
    word = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=100_000))
    theirs, mine = tokenizers()
    found = mine([word])[0].tolist()
    assert found[:60] == theirs([word[:1000]])[0].tolist()[:60]
    assert (len(found), found[-1]) == (77, theirs.eot_token_id)


def test_words_that_open_clips_tokenizer_has_seen_are_cut_as_it_cuts_them() -> None:
    """It keeps the pieces of a word in one string, beside its special tokens."""
    import open_clip

    texts = ["photographyphotography of xyzzyq", "<end_of_text>"]
    theirs = open_clip.get_tokenizer("ViT-B-32")
    before = theirs(texts).tolist()
    assert with_cache(theirs)(texts).tolist() == before


def test_other_tokenizers_stay_as_they_are() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    masking = SimpleTokenizer(reduction_mask="shuffle")
    canonical = SimpleTokenizer(clean="canonicalize")
    assert with_cache(masking) is masking
    assert with_cache(canonical) is canonical
