"""Writes captions of the embedded pool like those on the web, good and bad.

Pool, trusted set and test prompts each have separate templates; no two share one, and no template of the pool or the trusted
set is a test prompt.
"""

from __future__ import annotations

import random

from datacomp_core.pool.tiny_source import Drawing, translations

POOL_TEMPLATES = (
    "{name} icon on white background",
    "vector clip of {name}, {one}",
    "{one} {two} {name}",
    "cute {name} sticker for your laptop",
    "{title} | {one} and {two}",
    "how to draw the {name} step by step",
    "free {name} graphic ({one}, {two})",
    "{one} emoji: {name}",
)
TRUSTED_TEMPLATES = (
    "{name} - {one}, {two}, {three}",
    "this symbol shows {name}",
    "drawing of the {name}; also {one}",
)
TEST_TEMPLATES = ("a picture of {c}.", "an illustration showing one {c}.", "here you see {c} drawn by an artist.")
FLAG_TEMPLATES = ("a picture of the flag of {c}.", "the national colours of {c}.")
DIGIT_TEMPLATES = ("a picture of the number {c}.", "the handwritten digit {c}.")
RETRIEVAL_TEMPLATES = ("a picture of {name}.", "{one} with {two}: {name}")

WEB_LANGUAGES = {
    "ru": 14, "de": 13, "ja": 12, "es": 12, "fr": 11, "zh": 9, "pt": 7, "it": 7, "nl": 5, "pl": 5, "tr": 4, "vi": 3, "id": 3,
    "cs": 2, "ko": 2, "uk": 2, "sv": 2, "ro": 2, "hu": 2, "el": 2, "da": 1, "fi": 1, "ar": 2, "he": 1, "hi": 1, "th": 1,
}  # fmt: skip
"""The pool's languages other than English, weighted roughly like the web's."""

FILE_NAMES = (
    "IMG_{n:04d}.JPG", "DSC{n:05d}.jpg", "image{n}.png", "Screenshot {n}", "untitled-{n}", "{n}x{m}", "thumb_{n}_{m}.gif", "logo",
    "Image {d} of 12", "{n}.jpg", "photo", "icon-{d}.svg",
)  # fmt: skip
SPAM = (
    "free shipping on orders over ${n}",
    "click here to enlarge the image",
    "buy {d} get one free, today only",
    "Best price guaranteed! Save {m}% now",
    "sign up for our newsletter and never miss a post",
    "this image has been removed by its owner",
    "page {d} of {m}, next page, last page",
    "advertisement",
    "please enable cookies to see this content",
    "posted on Monday by admin, {d} comments",
    "all rights reserved, do not copy without permission",
    "loading, please wait ...",
)


def english(drawing: Drawing, templates: tuple[str, ...], chance: random.Random) -> str:
    """Return a correct caption of the drawing."""
    return fill(chance.choice(templates), drawing, chance)


def fill(template: str, drawing: Drawing, chance: random.Random) -> str:
    """A template over name and keywords; where a drawing has too few keywords its name or category steps in."""
    words = [word for word in drawing.keywords if word.lower() != drawing.name.lower()]
    chance.shuffle(words)
    words += [drawing.subcategory.replace("-", " "), drawing.category.lower(), drawing.name][: max(0, 3 - len(words))]
    return template.format(name=drawing.name, title=drawing.name.title(), one=words[0], two=words[1], three=words[2])


def foreign(drawing: Drawing, chance: random.Random) -> tuple[str, str] | None:
    """(language, caption) from a real translation of name and keywords; None if this drawing has none."""
    names = translations().get(drawing.key)
    if names is None:
        return None
    spoken = sorted(names.keys() & WEB_LANGUAGES.keys())
    lang = chance.choices(spoken, [WEB_LANGUAGES[one] for one in spoken])[0]
    name, keywords = names[lang]
    more = [word for word in keywords if word != name]
    chance.shuffle(more)
    return lang, ", ".join([name, *more[: chance.randint(0, 3)]])


def junk(chance: random.Random) -> str:
    """Return a file name or boiler-plate text, which describes no particular image."""
    template = chance.choice(FILE_NAMES) if chance.random() < 0.5 else chance.choice(SPAM)
    return template.format(n=chance.randint(1, 9999), m=chance.randint(10, 99), d=chance.randint(2, 9))


def clipart(drawing: Drawing, chance: random.Random) -> str:
    """Return the uploader's text: title, or keywords, or the file's name, unchanged."""
    choices = [drawing.title, ", ".join(drawing.keywords), drawing.path.rpartition("/")[2]]
    first = chance.choices(range(3), (6, 2, 2))[0]
    return choices[first] or next((text for text in choices if text), "")
