"""No path is ever a pattern: polars and fsspec take `[`, `*` and `?` for one unless they are told not to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TREES = ("datacomp_core", "tasks", "flows", "deployments")
SCANS = {"scan_parquet", "scan_csv", "scan_ndjson", "scan_ipc"}
READS = {"read_parquet", "read_csv", "read_ndjson", "read_ipc"}
GLOBS = {"rm", "get", "put", "cat", "expand_path", "copy", "cp", "mv", "glob", "open_files"}
BYTES = {"BytesIO", "str", "DATA", "SPLIT"}


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    for tree in TREES:
        for path in (ROOT / tree).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node, node.func.attr


def test_polars_scans_files_by_name_alone() -> None:
    """`parts.scan_tables` is the one place; what is read at once is read from bytes, or from a file of this package."""
    for where, call, name in calls():
        if name in SCANS:
            assert where.startswith("datacomp_core/parts.py"), f"{where}: use parts.scan_tables"
            assert any(word.arg == "glob" for word in call.keywords)
        if name in READS:
            source = ast.unparse(call.args[0])
            given = any(word.arg == "glob" for word in call.keywords)
            assert given or any(word in source for word in BYTES), f"{where}: {source} may be taken for a pattern"


def test_fsspec_is_asked_for_single_files_alone() -> None:
    for where, call, name in calls():
        if name in GLOBS:
            assert not ast.unparse(call.func).endswith(f".fs.{name}"), f"{where}: fsspec expands patterns in `{name}`"


def test_pictures_of_others_are_opened_in_one_place() -> None:
    """Pillow starts programs for some formats: only `pictures.pillow_image` opens a stranger's picture."""
    own = ("datacomp_core/pictures.py", "datacomp_core/pool/tiny_source.py")
    for where, call, name in calls():
        if name == "open" and ast.unparse(call.func) == "Image.open":
            assert where.startswith(own), f"{where}: use pictures.pillow_image"
