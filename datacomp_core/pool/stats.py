"""Summarises a download's ledger: losses by reason, over time and by host, and probable faults on our side. Ledgers are read
one by one and only the most common hosts are counted, so a pool of any size fits.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass, field

import polars as pl

from datacomp_core.errors import DataError
from datacomp_core.parallel import concurrently
from datacomp_core.pool import ledger
from datacomp_core.shards import LEDGER
from datacomp_core.store import Folder

MOST_KEPT = 100_000
ENOUGH = 200
MUCH = 0.1


@dataclass
class LedgerTally:
    """Counts over all ledgers read. `..._at` is by minute, `..._from` by host."""

    reasons: Counter[str] = field(default_factory=Counter[str])
    hashes: Counter[str] = field(default_factory=Counter[str])
    arrived_at: Counter[str] = field(default_factory=Counter[str])
    lost_at: Counter[str] = field(default_factory=Counter[str])
    arrived_from: Counter[str] = field(default_factory=Counter[str])
    lost_from: Counter[str] = field(default_factory=Counter[str])

    @property
    def candidates(self) -> int:
        return self.reasons.total()

    @property
    def arrived(self) -> int:
        return self.reasons["arrived"]

    def warnings(self) -> list[str]:
        """Return problems that are probably caused by this machine and not by the web."""
        told: list[str] = []
        if self.candidates < ENOUGH:
            return told
        share = {reason: count / self.candidates for reason, count in self.reasons.items()}
        if share.get("dns", 0) > MUCH:
            told.append(
                f"{share['dns']:.0%} failed to resolve: that is more than the web loses. Use a caching resolver on this machine "
                "(knot or bind), or fewer threads, then `datacomp pool retry`."
            )
        if share.get("timeout", 0) + share.get("unreachable", 0) > 2 * MUCH:
            told.append(
                "Over a fifth timed out: too many threads for this network or CPU. Use fewer, then `datacomp pool retry`."
            )
        if share.get("tls", 0) > MUCH:
            told.append("Over a tenth failed in TLS: check this machine's clock and its certificates (package ca-certificates).")
        if share.get("blocked_address", 0) > MUCH:
            told.append(
                "Over a tenth were blocked as private addresses: check whether this machine's resolver returns local addresses."
            )
        return told


def ledger_names(shards: Folder) -> list[str]:
    """Return the names of the shards with a ledger. DataError if there is none."""
    names = [name.removesuffix(".parquet") for name in (shards / LEDGER).files(".parquet")]
    if not names:
        raise DataError(f"{shards} has no ledger, so it is not our download: make one with `datacomp pool adopt`.")
    return names


def blocked_address(shards: Folder) -> str:
    """Return one of the private addresses that a download was not allowed to reach, from its ledgers; empty if there is none."""
    for name in ledger_names(shards):
        blocked = read_ledger(shards, name).filter(pl.col("reason") == ledger.BLOCKED)
        if blocked.height:
            return str(blocked["message"][0] or "").rpartition(" ")[2]
    return ""


def read_ledger(shards: Folder, name: str) -> pl.DataFrame:
    """Read one shard's ledger. DataError if it is invalid."""
    try:
        return pl.read_parquet(io.BytesIO(shards.read(f"{LEDGER}/{name}.parquet")))
    except pl.exceptions.PolarsError as problem:
        raise DataError(f"{shards.at(f'{LEDGER}/{name}.parquet')} is not a ledger: {problem}") from problem


def tally(shards: Folder) -> LedgerTally:
    """The tally of a download."""
    found = LedgerTally()
    for book in concurrently(lambda name: read_ledger(shards, name), ledger_names(shards)):
        found.reasons.update(ledger.tally(book))
        found.hashes.update(dict(book["hash"].drop_nulls().value_counts().iter_rows()))
        here, lost = book.filter(pl.col("reason").is_null()), book.filter(pl.col("reason").is_not_null())
        for at, of, some in ((found.arrived_at, found.arrived_from, here), (found.lost_at, found.lost_from, lost)):
            at.update(dict(some["at"].drop_nulls().dt.strftime("%Y-%m-%d %H:%M").value_counts().iter_rows()))
            _count(of, some["host"].drop_nulls())
    return found


def _count(counter: Counter[str], values: pl.Series) -> None:
    """Add to a counter that keeps only the most common once it is full."""
    counter.update(dict(values.value_counts().iter_rows()))
    if len(counter) > 4 * MOST_KEPT:
        kept = counter.most_common(MOST_KEPT)
        counter.clear()
        counter.update(dict(kept))


def plot(found: LedgerTally) -> bytes:
    """Draw a png: losses by reason, arrivals and losses over time, the hosts with the most losses."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    reasons = [(name, count) for name, count in found.reasons.most_common() if name != "arrived"]
    lost = (axes[0], reasons, f"lost, by reason ({found.arrived:,} of {found.candidates:,} arrived)")
    for plotted, counts, title in (lost, (axes[2], found.lost_from.most_common(15), "lost, by host")):
        plotted.barh([name for name, _ in counts][::-1], [count for _, count in counts][::-1])
        plotted.set_ylim(-0.6, max(len(counts), 5) - 0.4)  # one bar must not fill the plot
        plotted.set_title(title)
    minutes = sorted(set(found.arrived_at) | set(found.lost_at))
    for label, counter in (("arrived", found.arrived_at), ("lost", found.lost_at)):
        axes[1].plot(range(len(minutes)), [counter[m] for m in minutes], "o-", markersize=3, label=label)
    shown = range(0, len(minutes), max(1, -(-len(minutes) // 3)))
    axes[1].set_xticks(list(shown), [minutes[n][5:] for n in shown])
    axes[1].set_ylim(bottom=0)
    axes[1].set_title("by minute" if minutes else "over time: not known")
    axes[1].legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()
