"""Lists every text that a user or a reader of this project meets, with its file, line and kind.

    .venv/bin/python .ci/user_strings.py [--kind error] [PATH ...]

Kinds: `help` (command line help and field descriptions), `error` (arguments of what is raised), `log` (lines that are logged or
printed), `artifact` (what a Prefect artifact shows), `page` (templates), `doc` (Markdown), `docstring`, `comment`, and `text`
(any other string of three words or more). A placeholder of an f-string is printed as its source, in braces.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("datacomp_core", "tasks", "flows", "deployments")
QUOTED = re.compile(r"`[^`]*`|\"[^\"\n]*\"|'[^'\n]*'|//.*|/\*.*?\*/")
WORDS = 3
HELP = {"help", "description", "short_help", "epilog", "title"}
LOG = re.compile(r"(^|\.)(echo|secho|print|say|debug|info|warning|error|exception|log|write|set_status)$")
ARTIFACT = re.compile(r"artifact", re.IGNORECASE)


class Text(NamedTuple):
    path: Path
    line: int
    kind: str
    text: str


def files(*given: str) -> list[Path]:
    """The tracked files of this project whose prose is held to the style: those named, or all but the tests and benchmarks."""
    places = given or (*PACKAGES, "docs", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile")
    found = subprocess.run(["git", "ls-files", "--", *places], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return [ROOT / name for name in found.splitlines() if (ROOT / name).is_file()]


def texts(path: Path) -> Iterator[Text]:
    if path.suffix == ".py":
        source = path.read_text()
        yield from _strings(path, ast.parse(source))
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield Text(path, token.start[0], "comment", token.string.lstrip("# "))
    elif path.suffix == ".js":
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for found in QUOTED.findall(line):
                if len(re.findall(r"[A-Za-z]{2,}", found)) >= WORDS:
                    yield Text(path, number, "page", found)
    elif path.suffix in {".html", ".md"} or path.name == "Makefile":
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.strip():
                yield Text(path, number, "page" if path.suffix == ".html" else "doc", line.strip())


def _strings(path: Path, tree: ast.Module) -> Iterator[Text]:
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    stack: list[tuple[ast.AST, str]] = [(tree, "text")]
    while stack:
        node, kind = stack.pop()
        text = _text(node)
        if text is not None:
            kind = "docstring" if id(node) in docstrings else kind
            if kind != "text" or len(text.split()) >= WORDS:
                yield Text(path, node.lineno, kind, text)  # type: ignore[attr-defined]
            continue
        if isinstance(node, ast.Raise):
            kind = "error"
        elif isinstance(node, ast.Call):
            kind = _kind(ast.unparse(node.func), kind)
        for child in ast.iter_child_nodes(node):
            is_help = isinstance(child, ast.keyword) and child.arg in HELP
            stack.append((child, "help" if is_help else kind))


def _kind(function: str, around: str) -> str:
    """The kind of what a call is given."""
    if function.endswith(("Error", "errors.unknown")):
        return "error"
    if ARTIFACT.search(function):
        return "artifact"
    return "log" if LOG.search(function) else around


def _text(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "{" + ast.unparse(part.value) + "}"  # type: ignore[attr-defined]
            for part in node.values
        )
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description="List every text that a user or a reader meets.")
    parser.add_argument("paths", nargs="*")
    parser.add_argument("--kind", action="append", help="Only this kind; may be repeated.")
    given = parser.parse_args()
    for path in files(*given.paths):
        for found in sorted(texts(path), key=lambda text: text.line):
            if not given.kind or found.kind in given.kind:
                shown = re.sub(r"\s+", " ", found.text).strip()
                sys.stdout.write(f"{path.relative_to(ROOT)}:{found.line}: {found.kind}: {shown}\n")


if __name__ == "__main__":
    main()
