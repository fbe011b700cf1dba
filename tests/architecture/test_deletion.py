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
    ("datacomp_core/store/attempt.py", "home.remove(lease.file_of(name, turn))"): "the leases of its own attempt",
    ("datacomp_core/store/clock.py", "home.remove(probe)"): "the file whose time was just asked for",
    (
        "datacomp_core/driver_files.py",
        "home.remove(name)",
    ): "own scratch, or that of a killed command: no record names it",
    ("datacomp_core/driver_files.py", "home.remove(lease.file_of(name, 1))"): "the lease of such scratch",
    ("datacomp_core/training/nodes.py", "store.root.remove(f'{MEETINGS}/{layout.run_id}')"): "messages among nodes",
    ("datacomp_core/training/nodes.py", "store.root.remove(name)"): "messages among nodes",
    ("datacomp_core/training/nodes.py", "store.root.remove(_refusal(layout))"): "messages among nodes",
}


OWN = {
    "datacomp_core/caption_chunks.py": "chunks of one's own attempt",
    "datacomp_core/embedding/assemble.py": "chunks of one's own attempt",
    "datacomp_core/embedding/captions.py": "chunks of one's own attempt",
    "datacomp_core/embedding/locate.py": "scratch",
    "datacomp_core/explore/pool_index.py": "the explorer's own folder",
    "datacomp_core/explore/sample.py": "the explorer's own folder",
    "datacomp_core/leaderboard/submission/inbox.py": "bundles that were sent to the inbox",
    "datacomp_core/machine_cache.py": "copies on this machine",
    "datacomp_core/ordered_results.py": "scratch",
    "datacomp_core/pool/amend.py": "shards of a killed retry that its record does not name",
    "datacomp_core/pool/byod.py": "pieces of one's own attempt",
    "datacomp_core/pool/download_images.py": "marks of one's own attempt",
    "datacomp_core/pool/removal.py": "plans of a takedown",
    "datacomp_core/pool/takedown.py": "what a person asked to be taken down",
    "datacomp_core/pool/takedown_unpublished.py": "what a person asked to be taken down",
    "datacomp_core/resharding/copy.py": "a tar that is being written",
    "datacomp_core/resharding/loss_report.py": "scratch",
    "datacomp_core/resharding/plan_inputs.py": "one's own attempt",
    "datacomp_core/scores/compute.py": "one's own attempt",
    "datacomp_core/selection/kmeans.py": "scratch",
    "datacomp_core/selection/select.py": "one's own attempt",
    "datacomp_core/shared_buckets.py": "scratch",
    "datacomp_core/sorted_runs.py": "scratch, and unfinished files beside the target",
    "datacomp_core/store/folder_request.py": "the request of a folder in which nothing was made",
    "datacomp_core/store/scratch.py": "scratch of dead processes",
    "datacomp_core/training/launch.py": "files of one's own run folder",
    "datacomp_core/training/resume.py": "older checkpoints of one's own run folder and of its copy",
    "datacomp_core/training/saving.py": "older checkpoints of one's own run folder",
    "datacomp_core/training/shard_cache.py": "copies on this machine",
    "datacomp_core/uid_lists.py": "scratch",
    "deployments/cli/submission.py": "a request to an inbox",
    "deployments/cli/terminal.py": "a list in memory",
    "deployments/docker/without_cuda.py": "libraries of an image",
    "deployments/explore/explorer.py": "the explorer's own folder",
    "deployments/explore/facet_counts.py": "the explorer's own folder",
    "deployments/submission_server.py": "a route",
}
"""Files that remove anything besides, and what: none of it is published. A new one is to be looked at."""


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


def test_every_other_removal_is_of_what_is_not_published() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if removals(path)
    }
    named = {file for file, _ in ALLOWED}
    assert found - named - DOORS <= OWN.keys(), "another file removes something: see that it is never what is published"
    assert OWN.keys() <= found, "a file of this table removes nothing any more"


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
