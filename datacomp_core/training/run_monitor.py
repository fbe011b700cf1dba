"""Watches a run while it trains: finished steps, the curve in one line, early warnings, and the number of lost samples. The
launcher calls it every quarter of a second; it reads what the ranks write into the run's folder.
"""

from __future__ import annotations

import logging
import time
from itertools import pairwise
from pathlib import Path

from datacomp_core.errors import IncompleteError, LostProcessError
from datacomp_core.progress import Progress
from datacomp_core.training.alarms import Alarm, Row, alarms, patience
from datacomp_core.training.history import read_history, unreadable
from datacomp_core.training.job import HISTORY, UNREADABLE, RankJob

log = logging.getLogger(__name__)

BARS = "▁▂▃▄▅▆▇█"
POINTS = 24
TOLD_SECONDS = 30.0
LATELY = 5  # logged steps that a rate is taken over
HUNG = 3  # times the delay after which a run counts as stopped: it will not continue


class RunMonitor:
    """Call it often. IncompleteError as soon as more samples are unreadable, on all ranks together, than are tolerated;
    LostProcessError when there was no step for an hour's length: a rank hangs, and a retry goes on from the last checkpoint.
    """

    def __init__(self, job: RankJob, progress: Progress) -> None:
        self.job, self.progress, self.folder = job, progress, Path(job.folder)
        self.rows: list[Row] = []
        self.alarms: dict[str, Alarm] = {}
        self.unreadable: list[str] = []
        self.done = 0
        self._sizes: dict[Path, int] = {}
        self._fresh = self._told = time.monotonic()
        progress.start(job.spec.steps, "steps")

    @property
    def num_unreadable(self) -> int:
        return len(self.unreadable)

    def __call__(self) -> None:
        if self._changed(self.folder / HISTORY):
            self.rows = read_history(self.folder / HISTORY)
            self._fresh = time.monotonic()
            self._advance()
        changed = [path for path in self.folder.glob(f"{UNREADABLE}*.jsonl") if self._changed(path)]
        if changed:
            self._tolerate()
        self._warn()

    def _changed(self, path: Path) -> bool:
        size = path.stat().st_size if path.exists() else 0
        before = self._sizes.get(path, 0)
        self._sizes[path] = size
        return size != before

    def _advance(self) -> None:
        done = int(self.rows[-1]["step"]) + 1 if self.rows else 0
        if done <= self.done:
            return
        self.progress.note(self.line())
        self.progress.advance(done - self.done)
        self.done = done
        if time.monotonic() - self._told > TOLD_SECONDS:
            self._told = time.monotonic()
            log.info("step %d of %d: %s", done, self.job.spec.steps, self.line())

    def _tolerate(self) -> None:
        lost = self.unreadable = unreadable(self.folder)
        allowed = self.job.spec.tolerated_corrupt * self.job.spec.samples_seen
        if len(lost) > allowed:
            raise IncompleteError(
                f"{len(lost)} of the drawn samples could not be read, but only {allowed:.0f} are tolerated (the last: "
                f"{lost[-1]}): download or reshard the shards again."
            )

    def _warn(self) -> None:
        idle = time.monotonic() - self._fresh
        if len(self.rows) > 1 and self.done < self.job.spec.steps and idle > HUNG * patience(self.rows):
            raise LostProcessError(
                f"The training made no step for {idle:.0f} s after step {self.done} and was ended: a rank, its storage or "
                "its network hangs. Run it again; it resumes from its last checkpoint."
            )
        now = {alarm.kind: alarm for alarm in alarms(self.job.spec, self.rows, idle)}
        for kind in now.keys() - self.alarms.keys():
            log.warning("%s: %s", kind, now[kind].text)
            self.progress.note(self.line(now[kind]))
        self.alarms |= now

    def line(self, alarm: Alarm | None = None) -> str:
        """The last logged step in a line, with the curve of the loss so far."""
        last = self.rows[-1] if self.rows else None
        words = [f"{alarm.kind}: {alarm.text}"] if alarm else []
        if last is None:
            return ", ".join(words)
        lately = self.rows[-LATELY:]
        rate = sorted(row["samples_per_second"] for row in lately)[len(lately) // 2]
        words += [
            f"loss {last['loss']:.3f} {sparkline([row['loss'] for row in self.rows])}",
            f"scale {last['logit_scale']:.1f}",
            f"lr {last['learning_rate']:.1e}",
            f"{rate:,.0f} samples/s",
            f"waiting {sum(row.get('waiting', 0.0) for row in lately) / len(lately):.0%}",
        ]
        words += [f"GPU {last['gpu_gb']:.1f} GB"] if "gpu_gb" in last else []
        words += [f"{self.num_unreadable:,} unreadable"] if self.num_unreadable else []
        return ", ".join(words)


def sparkline(values: list[float], points: int = POINTS) -> str:
    """A curve as a word: means of `points` equal stretches, from the least (▁) to the largest (█)."""
    if not values:
        return ""
    count = min(points, len(values))
    cuts = [round(n * len(values) / count) for n in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    spread = (high - low) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int((mean - low) / spread * len(BARS)))] for mean in means)
