"""Published data is deleted in one place, `store/deletion.py`. Whatever else removes files of a store is listed here."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("datacomp_core", "tasks", "flows", "deployments")
CALLS = {"remove", "rm", "rmtree", "unlink", "rmdir", "rm_file", "delete", "delete_objects", "truncate"}
DOORS = {"datacomp_core/store/local.py", "datacomp_core/store/bucket.py", "datacomp_core/store/folder.py"}
OF_THE_STORE = ("store.home(", "store.root", "store.folder(", "store.data(", "self.root.remove", "home.remove")
ALLOWED = {
    ("datacomp_core/store/deletion.py", "*"): "the one place",
    ("datacomp_core/store/store.py", "self.root.remove(name)"): "the file that `check` has just written under `_checks`",
    ("datacomp_core/store/attempt.py", "home.remove(lease.file_of(name, turn))"): "the leases of one's own attempt",
    ("datacomp_core/store/clock.py", "home.remove(probe)"): "the file whose time was just asked for",
    ("datacomp_core/exchange.py", "home.remove(name)"): "one's own scratch or that of a killed command, which no record names",
    ("datacomp_core/exchange.py", "home.remove(lease.file_of(name, 1))"): "the lease of such scratch",
    ("datacomp_core/training/nodes.py", "store.root.remove(f'{MEETINGS}/{layout.run_id}')"): "messages among nodes",
    ("datacomp_core/training/nodes.py", "store.root.remove(name)"): "messages among nodes",
    ("datacomp_core/training/nodes.py", "store.root.remove(_refusal(layout))"): "messages among nodes",
}


def removals(path: Path) -> list[str]:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    return [ast.unparse(call) for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in CALLS]


def test_nothing_else_removes_what_the_store_has() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), call)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.relative_to(ROOT).as_posix() not in DOORS
        for call in removals(path)
        if any(text in call for text in OF_THE_STORE)
    }
    strangers = {each for each in found if each not in ALLOWED and (each[0], "*") not in ALLOWED}
    assert strangers == set(), "published data is deleted by datacomp_core/store/deletion.py alone"


def test_only_clearing_and_takedowns_delete() -> None:
    """`delete` is called by the command `gc` (through `garbage_collection`), never by a step."""
    callers = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if "store.deletion import" in path.read_text()
    }
    assert callers <= {
        "datacomp_core/leaderboard/board/garbage_collection.py",
        "datacomp_core/pool/takedown_lost.py",
        "datacomp_core/pool/takedown.py",
        "datacomp_core/store/step.py",
    }
    step = (ROOT / "datacomp_core/store/step.py").read_text()
    assert "deletion import drop_own\n" in step, "a run drops its own unpublished attempt and nothing else"
