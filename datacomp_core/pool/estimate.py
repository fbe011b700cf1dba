"""Estimates the disk, traffic and time of a download before it starts.

From the reference's README: 450 GB of tars for 12.8 M candidates of `small` at 512 px, of which about 90 % arrived; the crawl's
bodies are about three times as large as what is kept of them. Time follows from the rate: 120 images/s per worker with 128
threads.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from datacomp_core.pool.spec import ImageSpec

BYTES_KEPT_AT_512 = 450e9 / (12_800_000 * 0.9)
BODY_TO_KEPT = 3.0
ARRIVING = 0.9
RATE_OF_WORKER = 120.0
SIZES = {"MB": 2, "GB": 3, "TB": 4}


class DownloadEstimate(BaseModel):
    """The estimate; a factor of two either way is usual."""

    model_config = ConfigDict(frozen=True)
    candidates: int
    disk_bytes: int = Field(description="Bytes of the shards.")
    traffic_bytes: int = Field(description="Bytes fetched.")
    seconds: float

    def sentence(self) -> str:
        return (
            f"{self.candidates:,} candidates: about {_size(self.disk_bytes)} of shards, {_size(self.traffic_bytes)} of traffic, "
            f"{_time(self.seconds)}. A factor of two either way is usual."
        )


def _size(number: float) -> str:
    unit = next((unit for unit in ("TB", "GB") if number >= 1000 ** SIZES[unit]), "MB")
    return f"{number / 1000 ** SIZES[unit]:,.1f} {unit}"


def _time(seconds: float) -> str:
    if seconds < 60:
        return "less than a minute"
    return f"{seconds / 3600:,.1f} hours" if seconds >= 3600 else f"{seconds / 60:,.1f} minutes"


def estimate(candidates: int, spec: ImageSpec, workers: int) -> DownloadEstimate:
    """Estimate for a number of candidates with `workers` processes."""
    kept = candidates * ARRIVING * BYTES_KEPT_AT_512
    scaled = kept * min(1.0, (spec.image_size / 512) ** 2)
    return DownloadEstimate(
        candidates=candidates,
        disk_bytes=int(scaled),
        traffic_bytes=int(kept * BODY_TO_KEPT),
        seconds=candidates / (RATE_OF_WORKER * max(workers, 1)),
    )
