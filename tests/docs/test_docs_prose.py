"""Archaic phrases do not come back into help, messages, logs, artifacts and pages (CONTRIBUTING, Prose).

`.ci/user_strings.py` lists these texts. Phrases are matched as whole words; add one here when its last use is gone.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
KINDS = {"help", "error", "log", "artifact", "page"}
BANNED = (
    "no numbers",
    "for ever",
    "not heard of",
    "begun again",
    "goes on where it stopped",
    "whole or not at all",
    "taken up",
    "told of",
    "stands in",
    "passing reason",
)


def _texts() -> list[tuple[str, str]]:
    found = importlib.util.spec_from_file_location("user_strings", ROOT / ".ci" / "user_strings.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    listed = [text for path in module.files() for text in module.texts(path)]
    return [(f"{one.path.name}:{one.line}", " ".join(one.text.split())) for one in listed if one.kind in KINDS]


def test_archaic_phrases_do_not_come_back() -> None:
    texts = _texts()
    assert len(texts) > 1000
    banned = re.compile(r"\b(?:" + "|".join(map(re.escape, BANNED)) + r")\b", re.IGNORECASE)
    assert [(place, text) for place, text in texts if banned.search(text)] == []
