"""Test sets from a hub, on a hub-shaped server of our own, and the table of published scores."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import LocalHub, serving
from made_sets import repository, write

import datacomp_core
from datacomp_core.errors import DataError, SpecError
from datacomp_core.evaluation import catalog, golden_scores
from datacomp_core.evaluation.catalog import suite
from datacomp_core.evaluation.download import DownloadSpec, complete, download, download_evalsets
from datacomp_core.evaluation.report import TaskResult
from datacomp_core.store import Folder, Store

KITTI = suite("datacomp").task("vtab/kitti_closest_vehicle_distance")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with serving() as found:
        found.repositories[f"datasets/{KITTI.repository}"] = repository(KITTI.size or 0, 4)
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setattr("datacomp_core.hub.time.sleep", lambda seconds: None)
        yield found


def test_a_set_comes_whole_with_its_hashes_and_without_code(hub: LocalHub, tmp_path: Path) -> None:
    found = download([KITTI], Folder(tmp_path))
    there = {path.name for path in (tmp_path / KITTI.folder).rglob("*") if path.is_file()}
    assert there == {
        "classnames.txt", "zeroshot_classification_templates.txt", "nshards.txt", "0.tar", "1.tar", "hub.json",
    }  # fmt: skip
    assert set(found[KITTI.key]) == {
        "classnames.txt", "zeroshot_classification_templates.txt", "test/nshards.txt", "test/0.tar", "test/1.tar",
    }  # fmt: skip
    hub.sent.clear()
    assert download([KITTI], Folder(tmp_path)) == found
    assert not hub.sent


def test_a_set_that_breaks_off_is_not_there_and_goes_on_later(hub: LocalHub, tmp_path: Path) -> None:
    hub.changed = {"test/0.tar"}
    with pytest.raises(DataError, match=r"test/0\.tar has another hash"):
        download([KITTI], Folder(tmp_path))
    assert not complete(Folder(tmp_path / KITTI.folder))
    assert not (tmp_path / KITTI.folder / "test" / "nshards.txt").exists(), "what evaluation opens first comes last"
    hub.changed = set()
    hub.sent.clear()
    download([KITTI], Folder(tmp_path))
    assert complete(Folder(tmp_path / KITTI.folder))
    assert "test/1.tar" not in hub.sent, "it came whole the first time"


def test_a_folder_of_the_original_is_taken_as_it_is(hub: LocalHub, tmp_path: Path) -> None:
    write(tmp_path / KITTI.folder, repository(20, 4))
    assert download([KITTI], Folder(tmp_path)) == {KITTI.key: {}}
    assert not hub.sent
    with pytest.raises(SpecError, match="Not on the hub: tiny/flags"):
        download([suite("tiny").task("tiny/flags")], Folder(tmp_path))


def test_as_a_step_its_content_is_what_came(hub: LocalHub, tmp_path: Path) -> None:
    spec, store = DownloadSpec(tasks=(KITTI.key,)), Store.open(str(tmp_path / "store"))
    first = download_evalsets(spec, store=store)
    assert (first.suite, first.num_tasks, len(first.content)) == ("datacomp", 1, 64)
    assert store.folder(first).exists(f"{KITTI.folder}/test/0.tar")
    other = repository(KITTI.size or 0, 4)
    other["classnames.txt"] = b"a\nb\nc\nd"
    hub.repositories[f"datasets/{KITTI.repository}"] = other
    assert download_evalsets(spec, store=Store.open(str(tmp_path / "other"))).content != first.content


def test_the_table_of_published_scores() -> None:
    found = golden_scores.golden("ViT-L-14/datacomp_xl_s13b_b90k")
    assert len(found.scores) == 38
    assert found.scores["ImageNet 1k"] == pytest.approx(0.792, abs=1e-3)
    assert golden_scores.golden("commonpool_s_clip_s13m_b4k").model == "ViT-B-32/commonpool_s_clip_s13m_b4k"
    with pytest.raises(SpecError, match="Did you mean 'ViT-L-14/datacomp_xl_s13b_b90k'"):
        golden_scores.golden("ViT-L-14/datacomp_xl_s13b_b90")
    with pytest.raises(SpecError, match="are not reliable"):
        golden_scores.golden("commonpool_s_image_s13m_b4k")


def test_tolerances_are_what_two_flips_can_move() -> None:
    datacomp = suite("datacomp")

    def result(key: str, count: int, **metrics: float) -> TaskResult:
        task = datacomp.task(key)
        return TaskResult(
            key=key, name=task.name, protocol=task.protocol, protocol_version=1, main_metric=task.metric, count=count,
            metrics={name.replace("__", ":"): value for name, value in metrics.items()},
        )  # fmt: skip

    assert golden_scores.tolerance(datacomp, result("imagenet1k", 50000)) == pytest.approx(5.5e-4)
    assert golden_scores.tolerance(datacomp, result("vtab/kitti_closest_vehicle_distance", 711)) == pytest.approx(2 / 711 + 5e-5)
    fmow = result("wilds/fmow", 22108, count_region__0=4000, count_region__4=0, count_region__5=4)
    assert golden_scores.tolerance(datacomp, fmow) == pytest.approx(0.25005), "one image of four"


def test_a_task_that_was_added_to_a_suite_has_no_published_score_and_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = catalog.suite("datacomp")
    more = replace(whole, tasks=(*whole.tasks, catalog.EvalTask("mine/new", "A new task")))
    monkeypatch.setattr(golden_scores, "suite", lambda name: more)
    golden_scores._table.cache_clear()
    found = golden_scores.golden("ViT-L-14/datacomp_xl_s13b_b90k")
    golden_scores._table.cache_clear()
    assert "A new task" not in found.scores
    assert len(found.scores) == len(whole.scored)


def test_a_protocol_of_another_package_is_known_by_its_entry_point(tmp_path: Path) -> None:
    (tmp_path / "their_package.py").write_text(
        "from datacomp_core.evaluation.classification import Classification\n"
        "from datacomp_core.evaluation.protocols import register\n\n\n"
        "@register('their_protocol')\nclass Theirs(Classification):\n    version = 7\n"
    )
    info = tmp_path / "their_package-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 2.0\n")
    (info / "entry_points.txt").write_text("[datacomp.protocols]\ntheirs = their_package\n")
    code = (
        "from datacomp_core.evaluation.custom import TaskRow\nfrom datacomp_core.evaluation.protocols import PROTOCOLS\n"
        "task = TaskRow(key='mine/a', folder='a', protocol='their_protocol').task()\n"
        "print(PROTOCOLS[task.protocol].version, len(PROTOCOLS))"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(datacomp_core.__file__).parents[1])])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split() == ["7", "10"], done.stderr
