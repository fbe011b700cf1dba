"""Archaic phrases do not come back: in help, messages, logs, pages, docstrings, comments and docs (CONTRIBUTING, Prose).

`.ci/user_strings.py` lists these texts. Phrases are matched as whole words; add one here when its last use is gone.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = {"help", "error", "log", "artifact", "page", "docstring", "comment", "doc", "text"}
BANNED = (
    "no numbers",
    "for ever",
    "not heard of",
    "begun again",
    "goes on where it stopped",
    "whole or not at all",
    "taken up",
    "told of",
    "passing reason",
    "anew",
    "one's own",
    "so many",
    "is wanted",
    "are wanted",
    "mend",
    "mended",
    "otherwise than",
    "lest",
    "hence",
    "want of",
    "to be had",
    "nobody can tell",
)
IN_USER_TEXTS = ("stands in",)
"""Phrases that are left in docstrings and comments."""
USER = {"help", "error", "log", "artifact", "page"}


def _texts() -> list[tuple[str, str, str]]:
    """Place, kind and text of each. The table of pairs in CONTRIBUTING quotes what it bans, and a changelog tells of the past."""
    found = importlib.util.spec_from_file_location("user_strings", ROOT / ".ci" / "user_strings.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    pairs = (ROOT / "CONTRIBUTING.md").read_text().partition("\n| not | but |\n")[2].partition("\n\n")[0].splitlines()
    paths = [path for path in module.files() if path.name != "CHANGELOG.md"]
    listed = [text for path in paths for text in module.texts(path) if text.kind in KINDS and text.text not in pairs]
    return [(f"{one.path.name}:{one.line}", one.kind, " ".join(one.text.split())) for one in listed]


def _pattern(phrases: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(r"\b(?:" + "|".join(map(re.escape, phrases)) + r")\b", re.IGNORECASE)


def test_archaic_phrases_do_not_come_back() -> None:
    texts = _texts()
    assert len(texts) > 8000
    everywhere, of_users = _pattern(BANNED), _pattern(IN_USER_TEXTS)
    found = [(place, text) for place, kind, text in texts if everywhere.search(text) or (kind in USER and of_users.search(text))]
    assert found == []
