"""What each scale costs on paper, and how long a campaign of trainings waits for a few GPU machines (simulated).

Rates are one core's or one GPU's, from docs/ and the paper; change a line of RATES to see what it does.
Run: python benchmarks/scaling.py
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

from datacomp_core.scales import SCALES

POOL_ARRIVES = 0.9  # share of urls that still answer: falls every month
KEPT = 0.3  # of the pool, by CLIP score


@dataclass(frozen=True)
class Rate:
    """A stage: `per_second` candidates on one unit, `unit` of it, and bytes and requests a candidate."""

    stage: str
    per_second: float
    unit: str
    bytes_each: float
    requests_each: float
    source: str


RATES = (
    Rate("metadata", 1_000_000, "core", 3e9 / 12.8e6, 0, "README of the reference: 3 GB at small"),
    Rate("images", 112, "core", 450e9 / 12.8e6, 1, "img2dataset here: 224 urls/s on two cores; 450 GB at small"),
    Rate("features", 2_000, "GPU", 75e9 / 12.8e6, 0, "assumed rate of ViT-L/14; 75 GB at small; the hub has them ready"),
    Rate("filter", 2_000_000, "core", 16 * KEPT, 0, "assumed: one scan of a score column"),
    Rate("reshard", 3_000, "core", KEPT * 450e9 / 12.8e6, 2 * KEPT, "assumed: bound by the network; a range read a sample"),
)
GPU_HOURS = {"small": 4.0, "medium": 40.0, "large": 4.0 * 2.6e19 / 9.5e16, "xlarge": 81.0 * 512}
"""Small and xlarge are the paper's; medium is ten times small; large is small times the ratio of their MACs."""


def table() -> None:
    for name in ("small", "medium", "large", "xlarge"):
        pool = SCALES[name].train_num_samples
        print(f"\n{name}: {pool / 1e6:,.1f} M candidates, {GPU_HOURS[name]:,.0f} GPU-hours (A100) of training")
        print(f"| {'stage':8} | {'hours of one unit':>20} | {'units for a day':>15} | {'written':>9} | {'requests':>10} |")
        for rate in RATES:
            hours = pool / rate.per_second / 3600
            print(
                f"| {rate.stage:8} | {hours:>15,.1f} {rate.unit:4} | {max(1, round(hours / 24)):>15,} | "
                f"{rate.bytes_each * pool / 1e12:>6,.1f} TB | {rate.requests_each * pool / 1e6:>8,.0f} M |"
            )


def campaign(trainings: int, machines: int, hours: float, mean_hours_between_losses: float, seed: int = 0) -> tuple[float, float]:
    """Hours until the last of many trainings ends, and the share of GPU time that was done twice.

    One training a machine. A machine is lost now and then, at the same rate all the time; then its training goes back into the
    queue and repeats what was since its last checkpoint (every ten minutes), and 90 s pass before anybody notices.
    """
    draws = random.Random(seed)
    free = [0.0] * machines
    waiting = [hours] * trainings
    end = lost = 0.0
    while waiting:
        now = heapq.heappop(free)
        left = waiting.pop()
        until_loss = draws.expovariate(1 / mean_hours_between_losses)
        if until_loss >= left:
            heapq.heappush(free, now + left)
            end = max(end, now + left)
            continue
        again = min(until_loss, draws.uniform(0, 1 / 6))
        lost += again
        waiting.append(left - until_loss + again)
        heapq.heappush(free, now + until_loss + 90 / 3600)
    return end, lost / (trainings * hours)


def main() -> None:
    table()
    print("\n100 trainings of `medium` (one node of 8 GPUs: 5 h each), machines lost once in so many hours:")
    print("| nodes | lost every 1000 h | every 100 h | every 24 h |")
    for nodes in (1, 4, 16, 64):
        cells = [campaign(100, nodes, 5.0, between) for between in (1000, 100, 24)]
        print(f"| {nodes:>5} | " + " | ".join(f"{end:,.0f} h, {twice:.1%} twice" for end, twice in cells) + " |")


if __name__ == "__main__":
    main()
