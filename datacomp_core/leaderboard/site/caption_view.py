"""Captions on the pages: a picture's captions side by side with their scores, and statistics of a method's caption sources.

The work is bounded for any pool: the captions of a few samples are looked up in a fixed number of parts, by uid.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from datacomp_core import caption_sets, parts
from datacomp_core.artifacts import Captioned, Captions
from datacomp_core.caption_sets import RAW
from datacomp_core.errors import DatacompError
from datacomp_core.leaderboard.board import caption_stats
from datacomp_core.leaderboard.entries.data_check import spread
from datacomp_core.leaderboard.entries.entry import Entry
from datacomp_core.leaderboard.entries.provenance import data_of, of_kind
from datacomp_core.leaderboard.site.contact_sheets import MAX_CAPTION, MAX_SHARDS, Card, Wording
from datacomp_core.pool_source import PoolSource
from datacomp_core.store import Folder, Store

log = logging.getLogger(__name__)
NAMED = "named"
"""The input of a selection with the captions that its filter names."""
PAIR_SCORE = r"^clip_(\w+)_similarity_score$"


@dataclass(frozen=True)
class CaptionSources:
    """Where the captions of a policy and the sets that it chose from are; `source` is the pool's own metadata and scores.

    `decides`: whether the policy says which caption a sample has; a filter alone reads captions that it names itself.
    """

    made: Captioned
    folder: Folder
    source: PoolSource
    sets: tuple[tuple[Captions, Folder], ...]
    decides: bool = True


@dataclass(frozen=True)
class SourceLine:
    """A source of captions: its share of the training samples, and what its captions are like."""

    name: str
    share: float | None
    stats: caption_stats.SourceStats | None


def uses(store: Store, entry: Entry) -> list[CaptionSources]:
    """The caption policies of an entry whose files are all there, those that decide last."""
    found: list[CaptionSources] = []
    given = [(name, address) for link in entry.chain for name, some in link.inputs.items() for address in some]
    decide = {address for name, address in given if name != NAMED}
    for link in of_kind(entry.chain, Captioned.kind):
        record, folder = store.record(link.address), data_of(store, link.address)
        pools = [data_of(store, address) for address in link.inputs.get("pool", [])]
        sets = [(store.record(address), data_of(store, address)) for address in link.inputs.get("captions", [])]
        beside = [data_of(store, address) for address in link.inputs.get("beside", [])]
        if record is None or folder is None or len(pools) != 1 or pools[0] is None or any(one is None for _, one in sets):
            continue
        scores = tuple(one / parts.SCORES for one in beside if one is not None)
        kept = tuple((store.artifact(Captions, known), one) for known, one in sets if known is not None and one is not None)
        source = PoolSource(pools[0] / parts.METADATA, scores)
        found.append(CaptionSources(store.artifact(Captioned, record), folder, source, kept, link.address in decide))
    return sorted(found, key=lambda use: use.decides)


def with_captions(cards: Sequence[Card], store: Store, entry: Entry) -> list[Card]:
    """The cards with all captions of their pictures. What cannot be read any more is left out."""
    made = list(cards)
    for use in uses(store, entry):
        try:
            found = wordings(use, [card.uid for card in made])
        except DatacompError as problem:
            log.warning("cannot show captions: %s", problem)
            continue
        made = [replace(card, wordings=found.get(card.uid, card.wordings)) for card in made]
    return made


def wordings(use: CaptionSources, uids: Sequence[str]) -> dict[str, tuple[Wording, ...]]:
    """The captions of some samples, in their order: the pool's own first, then the sets'; the one given is marked."""
    wanted, found = set(uids), dict[str, tuple[Wording, ...]]()
    for part in spread(use.source.parts(), MAX_SHARDS):
        if wanted <= found.keys():
            break
        columns = ["uid"] if use.made.draws else ["uid", "text", "caption_source"]
        chosen = parts.scan_tables(use.folder / parts.SCORES, f"{part}.parquet").select(columns).collect()
        mine = (
            chosen.with_row_index("row")
            .filter(pl.col("uid").is_in(wanted - found.keys()))
            .unique("uid", keep="first", maintain_order=True)
        )
        if mine.height:
            found |= _of_part(use, part, mine.cast({"row": pl.Int64}))
    return {uid: found[uid] for uid in uids if uid in found}


def _of_part(use: CaptionSources, part: str, rows: pl.DataFrame) -> dict[str, tuple[Wording, ...]]:
    scores = _pair_scores(use.source, part)
    own = use.source.read(part, ["uid", "text", *scores])
    made: dict[str, tuple[Wording, ...]] = {}
    sets = [(one, caption_sets.captions_of(folder, part, one.scores)) for one, folder in use.sets]
    for row in rows.iter_rows(named=True):
        raw = own.row(row["row"], named=True)
        used = (row.get("caption_source"), row.get("text")) if use.decides else (None, None)
        every = [_wording(RAW, raw["text"], raw, scores, used)]
        for one, captions in sets:
            some = captions.filter(pl.col("row") == row["row"])
            every += [_wording(each["source"], each["text"], each, one.scores, used) for each in some.iter_rows(named=True)]
        made[row["uid"]] = tuple(every)
    return made


def _pair_scores(source: PoolSource, part: str = "") -> list[str]:
    """The CLIP scores of the pool's pairs, by their columns in a part (the first)."""
    known = source.columns(part or source.parts()[0])
    return sorted(name for name in known if pl.Series([name]).str.contains(PAIR_SCORE).all())


def _wording(
    source: str, text: str | None, row: dict[str, object], scores: Sequence[str], used: tuple[str | None, str | None]
) -> Wording:
    known = [(pl.select(pl.lit(name).str.extract(PAIR_SCORE)).item() or name, row.get(name)) for name in scores]
    whole = text or ""
    return Wording(
        source=source,
        text=whole if len(whole) <= MAX_CAPTION else whole[:MAX_CAPTION] + "…",
        scores=tuple((name, float(value)) for name, value in known if isinstance(value, int | float) and math.isfinite(value)),
        is_used=used == (source, text),
    )


def sources(store: Store, entry: Entry) -> list[SourceLine]:
    """The sources of a method's captions, by their share of what it was trained on."""
    shares = dict(entry.captions.shares) if entry.captions is not None else {}
    found: dict[str, caption_stats.SourceStats] = {}
    for use in uses(store, entry):
        try:
            found[RAW] = caption_stats.stats_of_pool(use.source, _pair_scores(use.source), use.made.num_samples)
        except DatacompError as problem:
            log.warning("the pool's own captions are not counted: %s", problem)
        for one, folder in use.sets:
            try:
                found |= {stats.source: stats for stats in caption_stats.stats(one, folder)}
            except DatacompError as problem:
                log.warning("cannot count captions: %s", problem)
    names = [*shares, *(name for name in sorted(found) if name not in shares)]
    lines = [SourceLine(name, shares.get(name), found.get(name)) for name in names]
    return sorted(lines, key=lambda line: -(line.share or 0.0))
