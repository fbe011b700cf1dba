"""Every command and option of `datacomp` that a page, a message, a help text or a docstring names is one that exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from deployments.cli.main import app, register

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = sorted(path for layer in ("datacomp_core", "tasks", "flows", "deployments") for path in (ROOT / layer).rglob("*.py"))
SCRIPTS = [
    *(ROOT / name for name in ("Makefile", "docker-compose.yml", ".ci/run")),
    *sorted(path for path in (ROOT / "deployments").rglob("*") if path.suffix in {".yaml", ".sbatch", ".env", ".json"}),
    ROOT / "deployments/docker/Dockerfile",
]
NAMED = re.compile(r"(?<![\w/.:'-])datacomp (?!or\b|and\b)([a-z](?:(?!\bdatacomp )[^`\n])*)")
KUBECTL = re.compile(r"^.*\bkubectl .*$", re.MULTILINE)  # has a namespace called datacomp
OPTION = re.compile(r"(?<![\w-])(?<!var\()--[a-z][a-z-]*[a-z](?![\w])")
ENDS = re.compile(r"\s(?:[|>&;#]|2>|--(?:\s|$))")  # what follows is another command's
CLOSING = re.compile(r"[\[\]();,]")
FOREIGN = {
    "the reference": {"--apply-blur", "--inject-blur-metadata", "--fraction", "--threshold", "--dataset-resampled"},
    "tar": {"--sort", "--ignore-zeros", "--dereference", "--hard-dereference", "--sparse"},
    "pip and make": {"--all", "--exclude-editable"},
    "docker, kubectl, srun, sbatch, aws": {
        "--array",
        "--build-arg",
        "--profile",
        "--from-env-file",
        "--ntasks-per-node",
        "--bucket",
        "--lifecycle-configuration",
    },
    "docker compose": {"--detach", "--entrypoint", "--no-build", "--no-deps", "--rm", "--volumes", "--wait"},
    "pg_restore": {"--clean", "--if-exists"},
    "ray and dask": {"--address", "--head", "--node-ip-address", "--num-gpus", "--resources", "--nthreads", "--nworkers"},
    "our benchmarks": {"--rehearse", "--requests", "--steps", "--threads"},
}


def tree(group: Any, path: str = "datacomp") -> Iterator[tuple[str, Any]]:
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from tree(command, f"{path} {name}")


register()
COMMANDS = dict(tree(get_command(app)))


def options(command: Any) -> set[str]:
    return {"--help"} | {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}


KNOWN = set().union(*map(options, COMMANDS.values()), *FOREIGN.values())


def texts(path: Path) -> list[str]:
    """A page, or the sentences of a module: its strings with a blank in them, f-strings with `VALUE` for what is filled in."""
    if path.suffix == ".md":
        return [path.read_text()]
    found: list[str] = []
    inside: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values]
            inside |= {id(part) for part in node.values}
            found.append("".join(parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            found.append(node.value)
    return [text for text in found if " " in text]


def wrong_commands(text: str) -> Iterator[str]:
    for named in NAMED.findall(KUBECTL.sub("", text)):
        words, command, path = CLOSING.sub(" ", ENDS.split(named)[0]).split(), COMMANDS["datacomp"], "datacomp"
        while words and words[0] in getattr(command, "commands", {}):
            path = f"{path} {words.pop(0)}"
            command = COMMANDS[path]
        if path == "datacomp" or (words and hasattr(command, "commands") and re.fullmatch(r"[a-z][a-z-]+", words[0])):
            yield f"`datacomp {named}` names no command"
        lost = set(OPTION.findall(" ".join(words))) - options(command)
        if lost:
            yield f"{path} has no {', '.join(sorted(lost))}"


def faults(text: str) -> Iterator[str]:
    yield from wrong_commands(text)
    for option in sorted(set(OPTION.findall(text)) - KNOWN):
        yield f"no command has {option}"


@pytest.mark.parametrize("path", [*PAGES, ROOT / "datacomp_core"], ids=lambda path: path.name)
def test_what_is_named_exists(path: Path) -> None:
    files = [path] if path.is_file() else SOURCES
    found = [f"{file.relative_to(ROOT)}: {fault}" for file in files for text in texts(file) for fault in faults(text)]
    assert not found, "\n".join(found)


def test_what_scripts_call_exists() -> None:
    """Their other options are those of make, docker, Slurm and the like."""
    found = [f"{file.relative_to(ROOT)}: {fault}" for file in SCRIPTS for fault in wrong_commands(file.read_text())]
    assert not found, "\n".join(found)


def test_the_walk_sees_commands_and_options_that_do_not_exist() -> None:
    assert list(faults("`datacomp pool import x`")) == ["`datacomp pool import x` names no command"]
    assert list(faults("run\n  datacomp convert x")) == ["`datacomp convert x` names no command"]
    assert "datacomp run has no --shard" in list(faults("`datacomp run --shard x`"))
    assert list(faults("(--shardz, if you like)")) == ["no command has --shardz"]
    assert list(faults("Fetch them: datacomp pool fetch x; then datacomp pool retry y")) == [
        "`datacomp pool fetch x; then ` names no command"
    ]
    assert list(faults("[bold]datacomp show --fast A[/]")) == ["datacomp show has no --fast", "no command has --fast"]
    assert not list(faults("Examples: datacomp deploy;  datacomp deploy --scale all"))
    assert not list(faults("`datacomp node --nodes 2 -- datacomp worker gpu --limit 1`"))
