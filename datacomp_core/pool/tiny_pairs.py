"""Makes candidate pairs of the embedded pool, as noisy as the web's: pure functions of the seed. `Candidate.kind` is the kind
of a pair, for analysis only: it is written only to `truth.parquet`.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import NamedTuple

from datacomp_core.pool import tiny_captions as captions
from datacomp_core.pool import tiny_pixels as pixels
from datacomp_core.pool.tiny_holdout import holdout
from datacomp_core.pool.tiny_source import CLIPART_SET, POOL_SETS, Drawing, of_sets

SHARES = {"drawing": 0.76, "near_duplicate": 0.06, "clipart": 0.12, "words": 0.06}
"""Kinds of images."""

DRAWING_CAPTIONS = {"alt_text": 0.34, "translation": 0.22, "junk": 0.14, "mismatch": 0.30}
"""Kinds of captions of the emoji drawings."""

SHAPES = {"as_is": 0.66, "saved_again": 0.22, "thumbnail": 0.07, "banner": 0.05}
FATES = {"alive": 0.95, "dead": 0.03, "changed": 0.02}
"""A dead url answers 404; a changed url returns the same image in other bytes than the crawler hashed."""


class Candidate(NamedTuple):
    """One pair as the crawler saw it, and the later state of its url."""

    kind: str
    drawing: Drawing
    lang: str
    text: str
    shape: str
    fate: str
    crawled: bytes
    served: bytes
    path: str


def candidates(seed: int, num_pairs: int) -> list[Candidate]:
    """`num_pairs` candidates in random order. Everything random depends on the seed; held-out drawings never appear."""
    chance = random.Random(f"tiny pool {seed}")
    may_train = holdout().may_train
    drawn = [drawing for drawing in of_sets(*POOL_SETS) if may_train(drawing)]
    arts = [drawing for drawing in of_sets(CLIPART_SET) if may_train(drawing)]
    numbers = {kind: int(share * num_pairs) for kind, share in SHARES.items()}
    numbers["drawing"] += num_pairs - sum(numbers.values())
    pairs = list(_drawings(drawn, numbers["drawing"], chance))
    again = _again_and_again(drawn, numbers["near_duplicate"], chance)
    pairs += [("near_duplicate", drawing, "en", _any_caption(drawn, chance)) for drawing in again]
    pairs += [("clipart", d, "", captions.clipart(d, chance)) for d in _again_and_again(arts, numbers["clipart"], chance)]
    pairs += [("words", d, "en", _worded(d, chance)) for d in _again_and_again(drawn, numbers["words"], chance)]
    chance.shuffle(pairs)
    return [_crawled(seed, number, pair, chance) for number, pair in enumerate(pairs)]


def _again_and_again(drawings: list[Drawing], number: int, chance: random.Random) -> Iterator[Drawing]:
    """Return `number` drawings; none repeats before each has occurred once."""
    while number > 0:
        some = chance.sample(drawings, min(number, len(drawings)))
        number -= len(some)
        yield from some


def _drawings(drawn: list[Drawing], number: int, chance: random.Random) -> Iterator[tuple[str, Drawing, str, str]]:
    for drawing in _again_and_again(drawn, number, chance):
        kind = _one_of(DRAWING_CAPTIONS, chance)
        other = captions.foreign(drawing, chance) if kind == "translation" else None
        if other is not None:
            yield kind, drawing, *other
        elif kind == "junk":
            yield kind, drawing, "en", captions.junk(chance)
        elif kind == "mismatch":
            yield kind, drawing, "en", captions.english(_another(drawing, drawn, chance), captions.POOL_TEMPLATES, chance)
        else:  # including those without a translation
            yield "alt_text", drawing, "en", captions.english(drawing, captions.POOL_TEMPLATES, chance)


def _another(drawing: Drawing, drawn: list[Drawing], chance: random.Random) -> Drawing:
    while (other := chance.choice(drawn)).key == drawing.key:
        pass
    return other


def _any_caption(drawn: list[Drawing], chance: random.Random) -> str:
    if chance.random() < 0.5:
        return captions.junk(chance)
    return captions.english(chance.choice(drawn), captions.POOL_TEMPLATES, chance)


def _worded(drawing: Drawing, chance: random.Random) -> str:
    more = f" {chance.choice(drawing.keywords)}" if drawing.keywords and chance.random() < 0.6 else ""
    return f"{drawing.name}{more}"


def _crawled(seed: int, number: int, pair: tuple[str, Drawing, str, str], chance: random.Random) -> Candidate:
    kind, drawing, lang, text = pair
    shape, fate = _one_of(SHAPES, chance), _one_of(FATES, chance)
    image = drawing.image
    if kind == "words":
        image = pixels.words(text, chance)
    elif kind == "near_duplicate":
        image = pixels.mirrored(image, chance)
    if shape != "as_is":
        image = {"saved_again": pixels.saved_again, "thumbnail": pixels.thumbnail, "banner": pixels.banner}[shape](image, chance)
    served = b"" if fate == "dead" else pixels.saved_again(image, chance) if fate == "changed" else image
    suffix = "jpg" if pixels.is_jpeg(image) else "webp"
    name = hashlib.sha256(f"{seed}/{number}".encode()).hexdigest()[:16]
    return Candidate(kind, drawing, lang, text, shape, fate, image, served, f"/{seed}/{name[:2]}/{name}.{suffix}")


def _one_of(shares: dict[str, float], chance: random.Random) -> str:
    return chance.choices(list(shares), list(shares.values()))[0]
