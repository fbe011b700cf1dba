"""Captions from Prefect's forms to the board, in a real browser: a small random model writes them, and a training reads them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import small_writers
from browser import NEEDS_BROWSER, Page, chromium
from client import Api
from local_ui import PATIENCE, LocalUi, local_ui, open_form, submitted

from datacomp_core.artifacts import BoardEntry, Captions, ShardSet
from datacomp_core.captioners.hub_models import weights_hash
from datacomp_core.leaderboard.entries.entry import Entry, read
from datacomp_core.shards import index_names, read_index, read_samples
from datacomp_core.store import Store

REVISION = "a" * 40

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    NEEDS_BROWSER,
]


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalUi]:
    with local_ui(tmp_path_factory.mktemp("captions")) as made:
        yield made


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with chromium(tmp_path / "browser") as opened:
        opened.width(1280)
        yield opened


def completed(api: Api, run: str) -> dict[str, Any]:
    ended = api.wait(run, PATIENCE)
    assert ended["state"]["type"] == "COMPLETED", ended["state"]
    return ended


def table_value(api: Api, run: str, kind: str, what: str) -> str:
    """The value that a table of the run's artifacts shows for `what`, in the summary of a step of this kind."""
    tables = [one for one in api.artifacts(run) if one["type"] == "table" and (one["description"] or "").startswith(kind)]
    rows = [row for table in tables for row in (json.loads(table["data"]) if isinstance(table["data"], str) else table["data"])]
    [value] = {row["value"] for row in rows if row.get("what") == what}
    return value


def generated(page: Page, ui: LocalUi) -> str:
    """Fill in `make-captions-tiny` for a small random BLIP, and run it; the address that the run's table shows."""
    folder = ui.home / "assets" / "captioners" / "small" / "blip" / REVISION
    small_writers.save("blip", folder)
    open_form(page, ui.server, "make-captions-tiny", "How the captions are made")
    page.click("GenerateSpec")
    for label, text in {"Name": "blip", "Model": "small/blip"}.items():
        page.write("textarea", text, after=label)
    for label, text in {"Revision": REVISION, "Sha256": weights_hash(folder)}.items():
        page.write("textarea", text, after=f"{label} (Optional)")
    page.write("input", "6", after="Max Tokens (Optional)")
    run = submitted(page, ui.api())
    assert completed(ui.api(), run)["parameters"]["spec"]["make"]["kind"] == "generate"
    return table_value(ui.api(), run, "captions", "address")


def trained(page: Page, ui: LocalUi, captions: str) -> str:
    """Fill in `experiment-tiny` without a filter and with the captions instead of the pool's, and run it."""
    open_form(page, ui.server, "experiment-tiny", "Your own")
    page.click("Your own")
    page.write("[role=tabpanel] textarea", "no_filter")
    page.click("Add item", after="CaptionPlan (Optional)")
    page.write("textarea", captions, after="CaptionPlan (Optional)")
    page.click("raw", after="CaptionPolicy (Optional)")
    page.click("replace")
    page.click("Add item", after="Sources (Optional)")
    page.write("textarea", "blip", after="Sources (Optional)")
    run = submitted(page, ui.api())
    completed(ui.api(), run)
    return run


def entry_of(store: Store) -> Entry:
    [record] = store.records(BoardEntry.kind)
    return read(store, store.artifact(BoardEntry, record))


def see_the_generated_texts_in_the_shards(store: Store, captions: str) -> None:
    record = store.record(captions)
    assert record is not None
    folder = store.folder(store.artifact(Captions, record)) / "captions"
    texts = pl.concat([pl.read_parquet(folder.at(name)) for name in folder.files(".parquet")])
    new = dict(texts.select("uid", "text").iter_rows())
    words = Counter(word for text in new.values() for word in text.split())
    assert words.keys() <= set(small_writers.WORDS)
    [record] = [one for one in store.records(ShardSet.kind) if "captioned" in one.inputs]
    shards = store.folder(store.artifact(ShardSet, record))
    seen = 0
    for shard in index_names(shards):
        for uid, members in read_samples(shards, read_index(shards, shard)):
            assert members["txt"].decode() == new[uid]
            assert json.loads(members["json"])["caption_source"] == "blip"
            seen += 1
    assert seen == len(new)


def test_generated_captions_from_the_forms_to_the_board(page: Page, ui: LocalUi) -> None:
    captions = generated(page, ui)
    run = trained(page, ui, captions)
    store = Store.open(str(ui.home / "store"))
    entry = entry_of(store)
    assert entry.track == "byod"
    assert entry.captions is not None
    assert (entry.captions.sets, entry.captions.models) == ([captions], [f"small/blip {REVISION[:12]}"])
    assert entry.captions.shares == {"blip": 1.0}
    see_the_generated_texts_in_the_shards(store, captions)
    [link] = [one for one in ui.api().artifacts(run) if one["key"] == "leaderboard-page-tiny"]
    page.visit(f"{ui.server}/v2/artifacts/artifact/{link['id']}")
    page.click("Report page of tiny")
    page.until("location.pathname === '/report/tiny.html'", "the report")
    page.until("document.body.innerText.includes('no_filter + replace_blip')", "the method on the report")
    assert "BYOD" in page.text()
