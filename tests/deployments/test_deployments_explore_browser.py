"""The page of `datacomp explore` as a person uses it, in headless Chromium: search, filter, keys, phone, dark, hostile captions.

The features are by a CLIP of random weights, and what it finds is held against numpy over the same vectors.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from browser import NEEDS_BROWSER, Page, chromium
from conftest import free_port
from explored_pool import HOSTILE, ROWS, make_pool, origin_of, with_clip

from datacomp_core import clip
from datacomp_core.recipes.load import load_recipe
from datacomp_core.selection.select import select
from datacomp_core.store import Folder
from deployments.explore.app import make_app
from deployments.explore.explorer import open_explorer
from deployments.explore.explorer_api import ExplorerApi

NO_SOFTWARE_GL = ("--disable-software-rasterizer", "--disable-3d-apis")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    NEEDS_BROWSER,
]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features by a CLIP of random weights, which the page searches with."""
    return with_clip(make_pool(tmp_path_factory.mktemp("explored") / "pool"))


@pytest.fixture(scope="module")
def served(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ExplorerApi]]:
    import uvicorn

    view = ExplorerApi(open_explorer(origin_of(pool), 100_000, tmp_path_factory.mktemp("home")), tmp_path_factory.mktemp("out"))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(make_app(view), host="127.0.0.1", port=port, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/", view
    server.should_exit = True
    thread.join(30)


@pytest.fixture
def page(served: tuple[str, ExplorerApi], tmp_path: Path) -> Iterator[Page]:
    with chromium(tmp_path / "browser", NO_SOFTWARE_GL) as opened:
        opened.width(1440)
        ready(opened, served[0])
        yield opened
        assert opened.complaints == []
        assert [url for url in opened.requests if not url.startswith((served[0], "data:", "about:", "blob:"))] == []


def ready(page: Page, url: str) -> None:
    page.visit(url)
    page.until("document.body.dataset.ready === 'yes'", "the page")


def press(page: Page, key: str, **more: Any) -> None:
    code = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowRight": 39, "Tab": 9}.get(key, 0)
    text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
    page.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text, **more)
    page.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code, **more)


def test_explore_page_search_finds_what_numpy_finds(page: Page, served: tuple[str, ExplorerApi], pool: Path) -> None:
    model = clip.load("datacomp-tiny", pool / "clip.pt", "cpu")
    query = model.encode_texts(["a red square"])[0].numpy().astype(np.float64)
    stored = np.concatenate([np.load(file)["tiny_img"] for file in sorted((pool / "metadata").glob("*.npz"))]).astype(np.float64)
    cosine = np.nan_to_num(stored / np.linalg.norm(stored, axis=1, keepdims=True), nan=-2) @ query
    press(page, "/")
    assert page.do("document.activeElement.id") == "query"
    page.call("Input.insertText", text="a red square")
    press(page, "Enter")
    page.until("document.getElementById('results-title')?.textContent.includes('red square')", "results")
    rows = page.do("[...document.querySelectorAll('#results [data-row]')].map((one) => Number(one.dataset.row))")
    scores = page.do("[...document.querySelectorAll('#results .score')].map((one) => Number(one.textContent))")
    known = np.isfinite(stored).all(axis=1)
    np.testing.assert_allclose(scores, np.sort(cosine[known])[::-1][:60], atol=2e-3)
    np.testing.assert_allclose(cosine[rows], scores, atol=2e-3)
    page.until(
        "[...document.querySelectorAll('#results img')].slice(0, 6).every((one) => one.complete && one.naturalWidth)", "pictures"
    )


def test_explore_page_counts_what_the_filter_counts(
    page: Page, served: tuple[str, ExplorerApi], pool: Path, tmp_path: Path
) -> None:
    field = "[aria-label='CLIP score, l14, at least, exactly']"
    page.write(field, "0.25")
    page.until("document.getElementById('exact')?.dataset.kept < 300", "the exact count")
    metadata = Folder(str(pool / "metadata"))
    chosen = select(
        load_recipe("{kind: threshold, score: l14, at_least: 0.25}"), metadata, out=Folder(str(tmp_path)), write="subset"
    )
    assert int(page.do("document.getElementById('exact').dataset.kept")) == chosen.num_samples
    assert int(page.do("document.getElementById('kept').dataset.kept")) == chosen.num_samples
    assert page.do("datacomp.mask.reduce((sum, one) => sum + one, 0)") == chosen.num_samples
    page.click("Save as a recipe…")
    page.until("document.getElementById('saving').open", "the dialog")
    page.do("document.getElementById('recipe-name').value = 'from-the-page'")
    page.click("Save")
    page.until("!document.getElementById('toast').hidden", "what was saved")
    assert f"datacomp run -r {served[1].out / 'from-the-page.yaml'}" in page.do("document.getElementById('toast').textContent")
    assert select(load_recipe(str(served[1].out / "from-the-page.yaml")), metadata).num_samples == chosen.num_samples


def test_explore_page_is_used_by_keys_alone(page: Page) -> None:
    press(page, "m")
    assert page.do("document.activeElement.id") == "canvas"
    before = page.do("datacomp.map.view.x")
    press(page, "ArrowRight")
    assert page.do("datacomp.map.view.x") > before
    zoom = page.do("datacomp.map.view.zoom")
    press(page, "+")
    assert page.do("datacomp.map.view.zoom") > zoom
    press(page, "Enter")
    page.until("!document.getElementById('pair').hidden && document.activeElement.id === 'close-pair'", "a pair")
    press(page, "Escape")
    assert page.do("document.getElementById('pair').hidden")
    press(page, "2")
    page.until("document.querySelectorAll('#clusters tbody tr').length > 2", "clusters")
    press(page, "3")
    page.until("document.querySelectorAll('#groups .group').length > 0", "groups")
    press(page, "1")
    page.do("document.querySelector('#results [data-row]').focus()")
    first = page.do("document.activeElement.dataset.row")
    press(page, "ArrowRight")
    assert page.do("document.activeElement.dataset.row") != first
    press(page, "?", modifiers=8)
    page.until("document.getElementById('helping').open", "help")
    assert page.nameless() == []


def test_explore_page_shows_near_duplicates_of_a_pair_as_cards(page: Page) -> None:
    """Their pictures are squares, as on all cards, and not as high as the picture of the pair."""
    page.do("datacomp.open(10)")
    page.until("document.querySelectorAll('#pair .strip .pic').length > 0", "near-duplicates")
    sizes = "[...document.querySelectorAll('#pair .strip .pic')].map((one) => one.getBoundingClientRect())"
    assert all(abs(ratio - 1) < 0.2 for ratio in page.do(f"{sizes}.map((one) => one.width / one.height)"))


def test_explore_page_fits_a_phone_and_the_dark(page: Page, served: tuple[str, ExplorerApi]) -> None:
    light = page.do("getComputedStyle(document.body).backgroundColor")
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    page.width(360, 740)
    ready(page, served[0])
    assert page.do("getComputedStyle(document.body).backgroundColor") != light
    for view in ("map", "filter", "side"):
        page.do(f"document.querySelector('[data-to={view}]').click()")
        assert page.do("document.documentElement.scrollWidth <= innerWidth"), view
        assert page.do(f"document.querySelector('.{view}').getClientRects().length > 0")
    for tab in ("clusters", "groups", "results"):
        page.do(f"document.getElementById('tab-{tab}').click()")
        assert page.do("document.documentElement.scrollWidth <= innerWidth"), tab


@pytest.mark.parametrize("width", [1280, 1000, 1600])
def test_explore_page_keeps_the_maps_note_off_its_key(page: Page, served: tuple[str, ExplorerApi], width: int) -> None:
    page.width(width, 720)
    ready(page, served[0])
    box = "(({left, right, top, bottom}) => ({left, right, top, bottom}))(document.getElementById('%s').getBoundingClientRect())"
    for colour in page.do("[...document.getElementById('colour').options].map((one) => one.value)"):
        page.do("document.getElementById('key').replaceChildren()")
        page.do(f"document.getElementById('colour').value = {json.dumps(colour)}")
        page.do("document.getElementById('colour').dispatchEvent(new Event('change'))")
        page.until("document.getElementById('key').textContent", f"the key of {colour}")
        key, note, room = (page.do(box % name) for name in ("key", "map-note", "map"))
        assert note["right"] > note["left"]
        assert key["right"] <= note["left"] or key["top"] >= note["bottom"] or note["top"] >= key["bottom"], colour
        assert all(room["left"] <= one["left"] and one["right"] <= room["right"] for one in (key, note))
        assert all(room["top"] <= one["top"] and one["bottom"] <= room["bottom"] for one in (key, note))


def test_explore_page_shows_hostile_captions_as_text(page: Page) -> None:
    for row, text in enumerate(HOSTILE):
        page.do(f"datacomp.open({row})")
        page.until(f"document.querySelector('#pair figcaption')?.textContent === {json.dumps(text)}", "the caption as it is")
    assert "owned" not in page.do("document.title")
    assert page.do("document.querySelectorAll('#pair script, #pair svg, #pair figcaption *').length") == 0


def test_explore_page_veils_pictures_until_asked(page: Page, pool: Path) -> None:
    nsfw = pl.concat([pl.read_parquet(file) for file in sorted((pool / "metadata").glob("*.parquet"))])["nsfw"]
    cards = "[...document.querySelectorAll('#results [data-row]')]"
    veiled = page.do(f"{cards}.map((one) => [Number(one.dataset.row), !!one.querySelector('.veil')])")
    pictured = {row: is_veiled for row, is_veiled in veiled if row < ROWS - 20}
    assert pictured
    assert all(is_veiled == (nsfw[row] >= 0.5) for row, is_veiled in pictured.items())
    press(page, "b")
    page.until("!document.querySelector('#results .veil')", "unveiled")
