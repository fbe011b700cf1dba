"""The pages beside the board: a method, two methods side by side, a pool, and all scales; each in a separate file.

`write_site` writes them all. Which methods are compared is bounded: each with the unfiltered pool, with its random control, and
with the one that leads.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datacomp_core.artifacts import Pool
from datacomp_core.errors import DataError, StoreError
from datacomp_core.leaderboard.board import findings
from datacomp_core.leaderboard.board.board import entries, images_in, make_board
from datacomp_core.leaderboard.board.compare import POOL, Comparison, Contender, compare_methods
from datacomp_core.leaderboard.board.composition import Composition, measure
from datacomp_core.leaderboard.board.own_tasks import own_in
from datacomp_core.leaderboard.board.rows import Board, BoardRow
from datacomp_core.leaderboard.board.sample import SubsetSample, draw
from datacomp_core.leaderboard.board.scaling import effective_share, scaling
from datacomp_core.leaderboard.entries.entry import Entry
from datacomp_core.leaderboard.entries.provenance import data_of, of_kind
from datacomp_core.leaderboard.site import caption_view, contact_sheets, figures, page_data
from datacomp_core.leaderboard.site.board_page import environment, put, write_page
from datacomp_core.store import Store

MAX_COMPARISONS = 30
MAX_DRAWINGS = 4
SCALING = "scaling.html"
Links = list[tuple[str, str]]


class _Site:
    """The data that the pages of one scale share."""

    def __init__(self, store: Store, scale: str) -> None:
        self.store, self.scale = store, scale
        self.found: dict[str, Entry] = dict(entries(store, scale))
        self.board: Board = make_board(scale, self.found.items(), images_in(store), own_in(store))
        self.rows = self.board.runs()
        self.sample: SubsetSample | None = draw(store, {row.method: self.found[row.entries[0]] for row in self.rows})
        self.made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")

    def contender(self, row: BoardRow) -> Contender:
        return Contender(row.method, row, [(address, self.found[address]) for address in row.entries])

    def pairs(self) -> list[tuple[BoardRow, BoardRow]]:
        """Return the pairs to compare, the reference first."""
        best, pairs = findings.best(self.board), dict[tuple[str, str], tuple[BoardRow, BoardRow]]()
        for row in self.rows:
            keys = [verdict.against_row for verdict in (row.baseline, row.control) if verdict is not None]
            keys += [best.key] if best is not None else []
            for other in (self.board.row(key) for key in keys):
                if other is not None and other is not row and (row.key, other.key) not in pairs:
                    pairs[other.key, row.key] = (other, row)
        return list(pairs.values())[:MAX_COMPARISONS]

    def render(self, template: str, title: str, eyebrow: str, links: Links, **more: Any) -> str:
        return (
            environment()
            .get_template(template)
            .render(scale=self.scale, title=title, eyebrow=eyebrow, links=links, made=self.made, **more)
        )


def write_site(store: Store, out_dir: Path, scale: str) -> Path:
    """Write every page of a scale below `out_dir` and return the board's."""
    site, folder = _Site(store, scale), out_dir / scale
    pairs = site.pairs()
    links: Links = [("Leaderboard", f"../{scale}.html"), ("Scaling", f"../{SCALING}")]
    chosen = {made.key: made for made in page_data.selections(store, site.board, site.found)}
    for one, two in pairs:
        put(folder / compare_name(one, two), _comparison(site, one, two, links, chosen))
    for row in site.rows:
        put(folder / experiment_name(row), _experiment(site, row, chosen.get(row.key), pairs, links))
    for address, rows in _pools(site):
        put(folder / pool_name(address), _pool(site, address, rows, links))
    put(out_dir / SCALING, _scaling(site))
    return write_page(store, out_dir, scale)


def experiment_name(row: BoardRow) -> str:
    return f"experiment-{row.key}.html"


def compare_name(one: BoardRow, two: BoardRow) -> str:
    return f"compare-{one.key}-{two.key}.html"


def pool_name(address: str) -> str:
    return f"pool-{address.rpartition('--')[2]}.html"


def _comparison(site: _Site, one: BoardRow, two: BoardRow, links: Links, chosen: dict[str, page_data.RecipeSelection]) -> str:
    found = compare_methods(site.store, [site.contender(one), site.contender(two)], site.sample)
    [difference] = found.differences
    return site.render(
        "compare.html",
        f"{one.method} and {two.method}",
        f"Comparison, scale {site.scale}",
        [*links, (one.method, experiment_name(one)), (two.method, experiment_name(two))],
        found=found,
        difference=difference,
        cards=[_cards(site, row, found, side) for side, row in enumerate((one, two))],
        captioned=[(row.method, chosen[row.key]) for row in (one, two) if row.key in chosen and chosen[row.key].sources],
        drawings=_drawings(found.makeup, [one.method, two.method]),
    )


def _cards(site: _Site, row: BoardRow, found: Comparison, side: int) -> list[contact_sheets.Card]:
    """Pictures of what only one side kept, from the download it was cut from."""
    import polars as pl

    pairs, entry = (found.differences[0].only_first, found.differences[0].only_second)[side], site.found[row.entries[0]]
    images = data_of(site.store, entry.realised_pool.address) if entry.realised_pool else None
    if not pairs or images is None:
        return []
    try:
        made = contact_sheets.cards(images, pl.DataFrame([pair.model_dump() for pair in pairs[: contact_sheets.MAX_CARDS]]))
        return caption_view.with_captions(made, site.store, entry)
    except (DataError, StoreError):
        return []  # the shards have gone since, or this reader cannot use them: the captions are in the comparison's JSON


def _drawings(made: Composition | None, names: list[str]) -> list[str]:
    if made is None:
        return []
    measures = [name for name in made.edges if name not in ("image, shorter side", "image, aspect ratio")][-MAX_DRAWINGS:]
    return [figures.distribution(made, measure, names, f"d{number}") for number, measure in enumerate(measures)]


def _experiment(
    site: _Site, row: BoardRow, chosen: page_data.RecipeSelection | None, pairs: list[tuple[BoardRow, BoardRow]], links: Links
) -> str:
    comparisons = [(a.method if b is row else b.method, compare_name(a, b)) for a, b in pairs if row in (a, b)]
    pools = [(f"Pool {address.rpartition('--')[2][:6]}", pool_name(address)) for address, rows in _pools(site) if row in rows]
    histogram = figures.histogram(chosen.histogram, "hist") if chosen is not None and chosen.histogram is not None else ""
    return site.render(
        "experiment.html",
        row.method,
        f"Method, scale {site.scale}",
        [*links, *pools],
        row=row,
        columns=site.board.columns,
        comparisons=comparisons,
        chosen=chosen,
        histogram=histogram,
        members=[(address, site.found[address]) for address in row.entries],
    )


def _pools(site: _Site) -> list[tuple[str, list[BoardRow]]]:
    """Each pool's address with the rows that used it."""
    used: dict[str, list[BoardRow]] = {}
    for row in site.rows:
        for address in dict.fromkeys(link.address for a in row.entries for link in of_kind(site.found[a].chain, Pool.kind)):
            used.setdefault(address, []).append(row)
    return list(used.items())


def _pool(site: _Site, address: str, rows: list[BoardRow], links: Links) -> str:
    record = site.store.record(address)
    pool = None if record is None else site.store.artifact(Pool, record)
    entry = next(site.found[a] for row in rows for a in row.entries if any(x.address == address for x in site.found[a].chain))
    sample = draw(site.store, {POOL: entry})
    makeup = None if sample is None else measure({POOL: sample.rows}, sample.scores, sample.num_pool)
    return site.render(
        "pool.html",
        f"Pool {pool.name if pool else address}",
        f"Pool, scale {site.scale}",
        links,
        address=address,
        pool=pool or Pool(num_samples=0, num_parts=0),
        counts=page_data.reasons_of(pool.counts) if pool else [],
        download=page_data.download(site.store, {"": entry}),
        makeup=makeup,
        drawings=[] if makeup is None else _drawings(makeup, []),
        methods=[(row.method, experiment_name(row)) for row in rows],
    )


def _scaling(site: _Site) -> str:
    found = scaling(site.store)
    lives = sorted(found.half_lives.values())
    repeats = [
        (row.method, row.repeats, [effective_share(row.repeats, life) for life in lives])
        for row in site.rows
        if row.repeats is not None
    ]
    return site.render(
        "scaling.html",
        "What one scale predicts for the next",
        "Scaling",
        [("Leaderboard", f"{site.scale}.html")],
        found=found,
        drawing=figures.scaling(found.fits) if found.fits else "",
        lives=lives,
        repeats=repeats,
    )
