"""One name for one thing: class names are unique, module names can be guessed, and the map of CONTRIBUTING is right."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("datacomp_core", "tasks", "flows", "deployments")
NOT_GUESSABLE = re.compile(
    "account|again|ahead|apart|arrived|carrier|chance|copies|cut|desk|door|drift|echo|elsewhere|evidence|foreign|frames|garbage|glance"
    "|hands|hits|in_turn|intake|joints|judge|kept|later|learned|lots|makeup|means|origins|outside|passes|politeness|served|standing"
    "|stations|survey|texts|told|until|upkeep|whole|worth"
)
"""Names that modules of this project had, and that nobody could tell the contents from."""


def files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def public_classes(paths: list[Path]) -> dict[str, list[str]]:
    """The places (file and line) where each public class name is defined, nested classes included."""
    found = defaultdict[str, list[str]](list)
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(f"{path.name}:{node.lineno}")
    return found


def section(heading: str) -> str:
    """A section of CONTRIBUTING.md, without its heading."""
    [_, found] = (ROOT / "CONTRIBUTING.md").read_text().split(f"\n## {heading}\n")
    return found.partition("\n## ")[0]


def test_each_public_class_name_stands_for_one_thing() -> None:
    classes = public_classes(files())
    assert len(classes) > 300
    twice = {name: places for name, places in classes.items() if len(places) > 1}
    assert not twice, f"Rename all but one of each: {twice}"


def test_a_class_name_defined_twice_would_be_seen(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("class Row:\n    class Inner: ...\nclass _Own: ...\n")
    two.write_text("class Row: ...\ndef make():\n    class Inner: ...\nclass _Own: ...\n")
    found = public_classes([one, two])
    assert {name for name, places in found.items() if len(places) > 1} == {"Row", "Inner"}


def test_module_names_can_be_guessed() -> None:
    assert [str(path.relative_to(ROOT)) for path in files() if NOT_GUESSABLE.fullmatch(path.stem)] == []


def test_the_glossary_is_short() -> None:
    terms = re.findall(r"^\| \*(.+?)\* \|", section("Glossary"), re.MULTILINE)
    assert 20 <= len(terms) <= 40
    assert terms == sorted(terms, key=str.casefold), "The glossary is in alphabetical order."


def test_the_map_names_modules_that_exist() -> None:
    rows = re.findall(r"^\| (.+\?) \| `(.+?)`(?: .*)?\|$", section("Map"), re.MULTILINE)
    assert len(rows) == 20
    assert len({question for question, _ in rows}) == 20
    assert [module for _, module in rows if not (ROOT / module).is_file()] == []
