"""The page of a search: verdict, best so far, parallel coordinates, importance, cost, and every trial with its experiments."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datacomp_core.leaderboard.search import plots
from datacomp_core.leaderboard.search.study import Study, study_of
from datacomp_core.leaderboard.site.board_page import environment, put
from datacomp_core.store import Store


def page_name(address: str) -> str:
    """`search-NAME--HASH.html`, in the folder of the search's scale."""
    return f"search-{address.rpartition('/')[2]}.html"


def render(study: Study, site: Path | None = None) -> str:
    """One HTML file that fetches nothing. It links to the pages of its trials that are in `site`, a folder of `write_site`."""
    names = list(dict.fromkeys(name for trial in study.trials for name in trial.params))
    rows: list[dict[str, Any]] = [
        {
            "trial": trial,
            "values": plots.said(trial.params, names),
            "links": [
                (_page_of(study.boards[entry], study.rows[entry], site), entry) for entry in trial.entries if entry in study.rows
            ],
        }
        for trial in plots.order(study.trials)
    ]
    drawn = len(study.complete) > 0
    return (
        environment()
        .get_template("search.html")
        .render(
            scale=study.scale,
            title=f"Search: {study.name}",
            eyebrow=f"{len(study.trials)} trials at {study.scale}, against {study.against}",
            links=[("Leaderboard", f"../{study.scale}.html")]
            if site is not None and (site / f"{study.scale}.html").exists()
            else [],
            made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            study=study,
            rows=rows,
            names=names,
            asked=json.dumps(study.filter, indent=1),
            best=plots.best_so_far(study) if drawn else "",
            parallel=plots.parallel(study) if len(study.complete) > 1 else "",
        )
    )


def _page_of(scale: str, row: str, site: Path | None) -> str:
    """The link from the search's page to that of an entry, which may be of a smaller scale; empty if there is none."""
    name = f"{scale}/experiment-{row}.html"
    return f"../{name}" if site is not None and (site / name).exists() else ""


def write_page(store: Store, address: str, out_dir: Path) -> Path:
    """Write the page of a search below `out_dir/<scale>/`, and into the search's own folder."""
    study = study_of(store, address)
    (store.root / address).write("index.html", render(study).encode())
    target = out_dir / study.scale / page_name(address)
    target.parent.mkdir(parents=True, exist_ok=True)
    return put(target, render(study, out_dir))
