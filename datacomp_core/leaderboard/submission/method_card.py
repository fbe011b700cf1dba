"""The method card: what a person reads of a submission, made from the entry alone."""

from __future__ import annotations

import json

from datacomp_core.leaderboard.entries.entry import Entry


def card(entry: Entry, author: str = "", text: str = "") -> str:
    """Markdown: what it is, scores, what it was trained on, cost, rules, and the chain."""
    average = "incomplete" if entry.average is None else f"{100 * entry.average:.2f} %"
    lines = [
        f"# {entry.method}",
        "",
        f"{text.strip()}\n" if text.strip() else "",
        "| | |",
        "|---|---|",
        *([f"| author | {author} |"] if author else []),
        f"| scale, track | {entry.scale}, {entry.track} |",
        f"| pairs | {_pairs(entry)} |",
        f"| model, samples seen | {entry.model}, {entry.samples_seen:,} |",
        f"| seeds | {', '.join(f'{name} {seed}' for name, seed in entry.seeds.items())} |",
        f"| suite | {entry.suite} version {entry.suite_version} |",
        f"| average | {average} |",
        f"| cost | {entry.cost.gpu_hours:.2f} GPU-hours, {entry.cost.seconds:,.0f} s, {entry.cost.num_bytes:,} bytes |",
        "",
        "## Scores",
        "",
        "| task | metric | score |",
        "|---|---|---|",
        *[f"| {t.name} | {t.metric} | {'' if t.value is None else f'{t.value:.4f}'} |" for t in entry.tasks],
        "",
        "## The filter",
        "",
        "```json",
        json.dumps(_filter(entry), indent=1, ensure_ascii=False),
        "```",
        "",
        "## Rules",
        "",
        *[f"- {'kept' if c.ok else 'not checked' if c.ok is None else 'BROKEN'}: {c.rule}. {c.reason}" for c in entry.checks],
        "",
        "## Chain",
        "",
        *[f"- `{link.address}` {link.fingerprint}" for link in entry.chain],
        "",
    ]
    return "\n".join(line for line in lines)


def _pairs(entry: Entry) -> str:
    size = entry.size
    return f"{size.total:,} ({size.unique:,} distinct) of {size.pool or 0:,}; trained on {size.trained_on:,}"


def _filter(entry: Entry) -> object:
    link = next((link for link in entry.chain if link.address == entry.inputs["subset"]), None)
    return {} if link is None else link.spec
