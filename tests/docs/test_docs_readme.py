"""What the README says can be done: commands parse, make targets and links exist, the recipe and the tables are right."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from datacomp_core.scales import SCALES
from datacomp_core.selection.select import load_recipe
from datacomp_core.settings import Settings
from deployments.cli.main import app, register

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text()
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(text: str, first: str) -> list[str]:
    """The lines of code blocks that call `first`, with continued lines joined and comments taken off."""
    lines = [line for _, block in FENCED.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    found = [re.sub(r"^(\$ |[A-Z_]+=\S+ )*", "", line.strip()).split(" # ")[0].split("   #")[0] for line in lines]
    return [line for line in found if line.split()[:1] == [first]]


def documented() -> list[Any]:
    register()
    return [
        pytest.param(line, id=f"{page.name}: {line[:60]}") for page in PAGES for line in commands(page.read_text(), "datacomp")
    ]


@pytest.mark.parametrize("line", documented())
def test_every_documented_command_parses(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(re.split(r"\s(?:[|>&;]|2>)", line)[0])[1:]
    monkeypatch.chdir(tmp_path)
    for name in words:
        if re.fullmatch(r"[\w-]+\.(?:tar|json)", name):  # files that must be there
            Path(name).touch()
    command: Any = typer.main.get_command(app)
    parent: Any = None
    while words and hasattr(command, "commands"):  # a group: its next word is a command, unless it does something by itself
        parent = command.make_context("datacomp", [], parent=parent, resilient_parsing=True)
        if command is not None and words[0].startswith("-"):
            break
        _, command, words = command.resolve_command(parent, words)
    command.make_context("datacomp", list(words), parent=parent)


@pytest.mark.parametrize(
    "target", sorted({line.split()[1] for line in commands(README, "make")} | {"setup", "check", "test-all"})
)
def test_every_documented_make_target_exists(target: str) -> None:
    made = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", FENCED.sub("", page.read_text()))
    lost = [link for link in links if not link.startswith(("http://", "https://")) and not (page.parent / link).exists()]
    assert not lost


def test_the_recipe_of_the_readme_is_one(tmp_path: Path) -> None:
    [block] = [block for language, block in FENCED.findall(README) if language == "yaml"]
    (tmp_path / "mine.yaml").write_text(block)
    assert load_recipe(str(tmp_path / "mine.yaml")).filter is not None


def test_every_setting_stands_in_the_table() -> None:
    rows = dict(re.findall(r"^\| `(DATACOMP_\w+)` \| (.*?) \|", README, re.MULTILINE))
    assert rows == {f"DATACOMP_{name.upper()}": field.description for name, field in Settings.model_fields.items()}


def test_the_scales_of_the_readme_are_those_of_the_table() -> None:
    section = README.partition("| scale |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [
        name for name in ("tiny", "small", "medium", "large", "xlarge") if name in SCALES
    ]
    assert f"{SCALES['tiny'].train_num_samples:,} seen" in README
