"""Numbers as people read them: time, amounts, sizes."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """45 s, 12 min, 3.4 h, 12 d."""
    if seconds is None:
        return "–"
    for size, unit in ((172800, "d"), (5400, "h"), (90, "min")):
        if seconds >= size:
            value = seconds / {"d": 86400, "h": 3600, "min": 60}[unit]
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def amount(value: float | None) -> str:
    """8,412 as it stands; from 100,000 on 3.8M, 1.28B."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}"


def volume(num_bytes: float | None) -> str:
    if num_bytes is None:
        return "–"
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes:.0f} B"
