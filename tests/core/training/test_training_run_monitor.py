"""What is seen while it trains: early warnings, the line for people, the curves, and losses counted over all ranks."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from training_world import training

from datacomp_core.errors import DatacompError, IncompleteError, LostProcessError
from datacomp_core.progress import LogProgress
from datacomp_core.training.alarms import WINDOW, Row, alarms
from datacomp_core.training.arguments import RuntimeOptions
from datacomp_core.training.curve import curves
from datacomp_core.training.history import History, Unreadable, forget_ranks_beyond, read_history, unreadable
from datacomp_core.training.hooks import Logged, StopIfDiverged, WandB
from datacomp_core.training.job import HISTORY, RankJob
from datacomp_core.training.run_monitor import RunMonitor, sparkline

SPEC = training(batch_size=64, train_num_samples=64 * 400, warmup=20)
GUESSING = math.log(64)


def rows(losses: list[float], waiting: float = 0.01, **more: float) -> list[Row]:
    return [
        {
            "step": 4.0 * n,
            "loss": loss,
            "logit_scale": 14.3,
            "learning_rate": 1e-3,
            "samples_per_second": 100.0 + n,
            "batch_seconds": 0.5,
            "waiting": waiting,
            **more,
        }
        for n, loss in enumerate(losses)
    ]


def kinds(history: list[Row], idle: float = 0.0) -> set[str]:
    return {alarm.kind for alarm in alarms(SPEC, history, idle)}


def falling(count: int = 60) -> list[float]:
    return [GUESSING * (0.3 + 0.7 * 0.95**n) for n in range(count)]


def test_a_good_run_raises_no_alarm_at_any_point() -> None:
    assert all(not kinds(rows(falling()[:n])) for n in range(60))


def test_a_loss_stuck_at_guessing_is_told_after_the_warm_up() -> None:
    stuck = [GUESSING - 0.01 * (n % 2) for n in range(60)]
    told = [n for n in range(60) if kinds(rows(stuck[:n])) == {"collapse"}]
    assert told, "it was never told"
    assert told[0] >= 2 * SPEC.recipe.warmup / 4
    assert told == list(range(told[0], 60))


def test_a_loss_that_rises_again_waiting_and_standing_still_are_told() -> None:
    assert kinds(rows(falling(40) + [GUESSING - 0.2] * WINDOW)) == {"divergence"}
    assert kinds(rows(falling(), waiting=0.5)) == {"starvation"}
    assert kinds(rows(falling()), idle=3600) == {"stall"}
    assert not kinds(rows(falling()), idle=30)


def test_a_run_that_hangs_is_ended_as_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = RunMonitor(RankJob(spec=SPEC, machine=RuntimeOptions(), sources=(), folder=str(tmp_path)), LogProgress("training"))
    (tmp_path / HISTORY).write_text("".join(json.dumps(row) + "\n" for row in rows(falling(60))))
    watch()
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 1700)
    watch()
    monkeypatch.setattr("time.monotonic", lambda: now + 1900)
    with pytest.raises(LostProcessError, match="made no step for 1900 s after step 237"):
        watch()


def test_the_line_says_how_it_goes(tmp_path: Path) -> None:
    progress = LogProgress("training")
    watch = RunMonitor(RankJob(spec=SPEC, machine=RuntimeOptions(), sources=(), folder=str(tmp_path)), progress)
    (tmp_path / HISTORY).write_text("".join(json.dumps(row) + "\n" for row in rows(falling(), gpu_gb=61.2)))
    watch()
    assert progress.done == 4 * 59 + 1
    for part in ("loss 1.3", "scale 14.3", "lr 1.0e-03", "157 samples/s", "waiting 1%", "GPU 61.2 GB"):
        assert part in progress.line()
    assert not watch.alarms


def test_sparklines_show_the_shape() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert sparkline([]) == ""
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert len(sparkline(list(range(1000)), 24)) == 24


def test_curves_are_drawn_of_what_was_measured() -> None:
    for history, panels in ((rows(falling()), 5), (rows(falling(), gpu_gb=3.0), 6), (rows([2.0]), 5)):
        root = ElementTree.fromstring(curves(history, "a <title> & more"))
        lines = root.findall(".//{http://www.w3.org/2000/svg}polyline")
        assert len(lines) == panels
        assert len(lines[0].attrib["points"].split()) == len(history)


def test_unreadable_samples_are_summed_over_ranks_and_counted_once(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"tolerated_corrupt": 4 / SPEC.samples_seen})
    watch = RunMonitor(RankJob(spec=spec, machine=RuntimeOptions(), sources=(), folder=str(tmp_path)), LogProgress("training"))
    ranks = [Unreadable(tmp_path, rank, 0) for rank in (0, 1)]
    ranks[0].add(3, ["00000000:1", "00000000:2"])
    ranks[1].add(5, ["00000001:7"])
    watch()
    assert watch.num_unreadable == 3
    Unreadable(tmp_path, 1, 5).add(5, ["00000001:7"])  # rank 1 was killed and goes on from step 5
    assert len(unreadable(tmp_path)) == 3
    Unreadable(tmp_path, 10, 0).add(7, ["00000001:8"])
    forget_ranks_beyond(tmp_path, 2, 8)
    assert len(unreadable(tmp_path)) == 4
    forget_ranks_beyond(tmp_path, 2, 7)  # gone on with two ranks from step 7
    assert len(unreadable(tmp_path)) == 3
    ranks[0].add(6, ["00000000:9", "00000001:9"])
    with pytest.raises(IncompleteError, match=r"5 of the drawn samples could not be read, but only 4 are tolerated"):
        watch()


def test_a_history_goes_on_where_it_was_cut_and_refuses_what_is_not_a_number(tmp_path: Path) -> None:
    path = tmp_path / HISTORY
    hooks = [StopIfDiverged(), History(path)]

    def logged(step: int, loss: float) -> None:
        for hook in hooks:
            hook.after_logged(loop, Logged(step, {"loss": loss}, 14.3, 0.1, 10.0, 0.2, 0.8, {"waiting": 0.25}))

    for first, steps in ((0, range(5)), (3, range(3, 6))):
        loop: Any = SimpleNamespace(done=first)
        for hook in hooks:
            hook.begin(loop)
        for step in steps:
            logged(step, 2.0)
    assert [(row["step"], row["loss"], row["waiting"]) for row in read_history(path)] == [(n, 2.0, 0.25) for n in range(6)]
    with pytest.raises(DatacompError, match="The loss became nan at step 9: the training diverged"):
        logged(9, math.nan)
    assert len(read_history(path)) == 6, "a step that is not a number is not written"


def test_the_id_of_a_wandb_run_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    first, elsewhere = (
        WandB(RankJob(spec=SPEC, machine=RuntimeOptions(), sources=(), folder=str(tmp_path / name)))
        for name in ("here", "elsewhere")
    )
    assert first.id != elsewhere.id
    elsewhere.restore(first.state())
    assert first.id == elsewhere.id


def test_a_training_goes_on_where_wandb_refuses_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "made-up")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    hook = WandB(RankJob(spec=SPEC, machine=RuntimeOptions(), sources=(), folder=str(tmp_path)))
    loop: Any = None
    hook.begin(loop)
    hook.after_logged(loop, Logged(1, {"loss": 1.0}, 14.3, 1e-3, 10.0, 0.1, 0.2, {}))
    hook.end(loop)
    told = [record.message for record in caplog.records if record.name.startswith("datacomp_core")]
    assert len(told) == 1
    assert told[0].startswith("W&B does not accept reports of this run (")
