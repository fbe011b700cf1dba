"""Derive `datacomp_core/filters/imagenet21k_words.parquet`: every word whose first WordNet synset is a class of ImageNet-21k.

    python tests/parity/derive_imagenet21k_words.py WORDNET_3_0_DICT_FOLDER

WordNet's files are those of Debian's `wordnet-base` (/usr/share/wordnet); the class ids are the file that the reference
downloads, which `timm` ships as `imagenet21k_goog_synsets.txt` (same sha256). The rules are those of nltk 3.10's `morphy`,
which applies each suffix rule once: so the words that hit are finitely many, and the filter need only look a word up.
"""

from __future__ import annotations

import hashlib
import sys
from importlib import resources
from pathlib import Path

import polars as pl

IDS_SHA256 = "66362bdedf36d933382edca5493fc562dcc17128ce36403c9e730a75f48cb2f2"
TARGET = Path(__file__).parents[2] / "datacomp_core" / "filters" / "imagenet21k_words.parquet"
RULES = {
    "noun": [
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ],
    "verb": [("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")],
    "adj": [("er", ""), ("est", ""), ("er", "e"), ("est", "e")],
    "adv": [],
}
"""In the order in which nltk tries the parts of speech."""


class WordNet:
    """First synsets by lemma, and exceptions by inflected form, for each part of speech."""

    def __init__(self, folder: Path) -> None:
        self.first = {pos: self._index(folder / f"index.{pos}") for pos in RULES}
        self.exceptions = {pos: self._exceptions(folder / f"{pos}.exc") for pos in RULES}

    def _index(self, path: Path) -> dict[str, int]:
        lines = (line.split() for line in path.read_text().splitlines() if not line.startswith(" "))
        return {fields[0]: int(fields[-int(fields[2])]) for fields in lines}

    def _exceptions(self, path: Path) -> dict[str, list[str]]:
        return {fields[0]: fields[1:] for fields in (line.split() for line in path.read_text().splitlines())}

    def offset(self, word: str) -> int | None:
        """The offset of nltk's `synsets(word)[0]`."""
        for pos, rules in RULES.items():
            derived = self.exceptions[pos].get(word)
            if derived is None:
                derived = [word[: -len(old)] + new for old, new in rules if word.endswith(old)]
            for form in (word, *derived):
                if form in self.first[pos]:
                    return self.first[pos][form]
        return None

    def words(self) -> set[str]:
        """Every word that has a synset: lemmas, exceptions, and what a rule makes a lemma of."""
        found: set[str] = set()
        for pos, rules in RULES.items():
            found |= {*self.first[pos], *self.exceptions[pos]}
            for lemma in self.first[pos]:
                found |= {lemma.removesuffix(new) + old for old, new in rules if lemma.endswith(new)}
        return found


def class_ids() -> set[int]:
    data = (resources.files("timm") / "data" / "_info" / "imagenet21k_goog_synsets.txt").read_bytes()
    assert hashlib.sha256(data).hexdigest() == IDS_SHA256
    return {int(line[1:]) for line in data.decode().split()}


def main(folder: str) -> None:
    wordnet, wanted = WordNet(Path(folder)), class_ids()
    hits = sorted(word for word in wordnet.words() if wordnet.offset(word) in wanted)
    synsets = pl.Series([wordnet.offset(word) for word in hits], dtype=pl.UInt32)
    table = pl.DataFrame({"word": hits, "synset": synsets})
    table.write_parquet(TARGET, compression="zstd", compression_level=19, statistics=False)


if __name__ == "__main__":
    main(sys.argv[1])
