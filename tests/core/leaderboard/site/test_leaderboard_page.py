"""The page: what stands in it, and how it behaves in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import board_world as world
import browser
import pytest

from datacomp_core.input_classes import TITLES
from datacomp_core.leaderboard.site.board_page import page, write_page
from datacomp_core.leaderboard.site.pages import write_site
from datacomp_core.store import Store


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.open(str(tmp_path_factory.mktemp("swept")))
    world.sweep(store)
    return store


@pytest.fixture(scope="module")
def written(swept: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(swept, tmp_path_factory.mktemp("site"), "tiny")


@pytest.fixture(scope="module")
def site(swept: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole site: its folder."""
    return write_site(swept, tmp_path_factory.mktemp("whole"), "tiny").parent


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    if browser.BROWSER is None:
        pytest.skip(browser.NO_BROWSER)
    with browser.chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


class Outline(HTMLParser):
    """Every attribute value and all text of a document."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src", "xlink:href"):
                self.links.append(value or "")


def test_one_file_that_refers_to_nothing_outside(written: Path) -> None:
    outline = Outline()
    outline.feed(written.read_text("utf-8"))
    assert [path.name for path in written.parent.iterdir()] == ["tiny.html"]
    assert {link.partition(":")[0] for link in outline.links if not link.startswith("#")} <= {"data"}
    assert {link[1:] for link in outline.links if link.startswith("#")} <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.tags.count("img") >= 40


def test_the_headline_is_the_verdict(written: Path) -> None:
    text = written.read_text("utf-8")
    assert "beats the unfiltered pool" in text
    assert "random is not clearly different from no filter" in text
    assert "made no clear difference on Digits" in text


def test_captions_are_text_and_never_markup(written: Path) -> None:
    text = written.read_text("utf-8")
    assert "<b>free shipping" not in text
    assert "&lt;b&gt;free shipping&lt;/b&gt; &amp; more" in text


def test_a_store_without_the_optional_files_has_a_page_that_says_so(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    made = world.run(store, "clip_score", world.results(0.1, 0))
    record = store.record(made.address)
    assert record is not None
    for name in ("subset", "checkpoint", "shards"):
        upstream = store.record(record.inputs[name][0]["address"])
        assert upstream is not None
        folder = store.root / str(upstream.artifact["data"])
        for file in ("explain.json", "histogram.json", "kept.parquet", "dropped.parquet", "history.jsonl"):
            folder.remove(file)
    text = page(store, "tiny")
    assert "explain.json was not written" in text
    assert "No checkpoint has a history" in text
    assert "the noise of training is unknown" in text


def test_an_empty_store_has_a_page(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path))
    assert "No result yet at scale tiny" in page(store, "tiny")
    assert "Image-based ∩ CLIP score" in page(store, "medium")


def test_the_page_in_a_browser(tab: browser.Page, written: Path) -> None:
    tab.open(written)
    assert tab.complaints == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []
    assert tab.nameless() == []

    methods = "[...document.querySelectorAll('#board tbody tr:not([hidden]) th')].map(cell => cell.dataset.v)"
    heads = "[...document.querySelectorAll('#board thead button')]"
    by_average = tab.do(methods)
    assert set(by_average) == set(world.CENTERS)
    tab.do(f"{heads}[1].click()")
    assert tab.do(methods) == sorted(world.CENTERS)
    assert tab.do("document.querySelector('#board [aria-sort]').textContent.trim()") == "Method"
    tab.do(f"{heads}[1].click()")
    assert tab.do(methods) == sorted(world.CENTERS, reverse=True)
    tab.do(f"{heads}[2].click()")
    assert tab.do(methods) == by_average

    tab.do("const f = document.getElementById('filter'); f.value = 'CLIP'; f.dispatchEvent(new Event('input'))")
    assert tab.do(methods) == ["clip_score"]
    assert tab.do("document.getElementById('shown').textContent") == "1 of 4 rows"
    assert tab.do("document.getElementById('no-match').hidden")
    tab.do("const g = document.getElementById('filter'); g.value = 'zebra'; g.dispatchEvent(new Event('input'))")
    assert 'No method matches "zebra"' in tab.do("document.getElementById('no-match').innerText")
    tab.do("const h = document.getElementById('filter'); h.value = 'CLIP'; h.dispatchEvent(new Event('input'))")

    shown = "[...document.querySelectorAll('[role=tabpanel]')].filter(panel => !panel.hidden).length"
    assert tab.do(shown) == 1
    tab.do("document.querySelectorAll('[role=tab]')[1].click()")
    assert tab.do(shown) == 1
    assert tab.do("document.querySelectorAll('[role=tab]')[1].getAttribute('aria-selected')") == "true"
    assert tab.do("[...document.images].every(image => image.loading === 'lazy' || image.naturalWidth > 0)")
    assert tab.complaints == []


def test_tracks_stand_apart_and_each_is_compared_with_its_own_pool(tab: browser.Page, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    own = world.WorldAdoptedSpec(of="custom")
    for center, pool in ((0.1, None), (0.3, own)):
        world.run(store, "no_filter", world.results(center, 0), pool_spec=pool)
        world.run(store, "clip_score", world.results(center + 0.05, 0), pool_spec=pool, method=f"by score at {center}")
    tab.open(write_page(store, tmp_path, "tiny"))
    rows = "[...document.querySelectorAll('#board tbody tr')].filter(row => row.getClientRects().length)"
    tables = "[...document.querySelectorAll('#tasks table')].filter(table => table.getClientRects().length)"
    wanted = {"filtering": ["by score at 0.1", "no_filter"], "byod": ["by score at 0.3", "no_filter"]}
    assert tab.do("document.getElementById('track').value") == "filtering", "apart by default"
    for track, methods in wanted.items():
        tab.do(f"document.getElementById('track').value = '{track}'")
        tab.do("document.getElementById('track').dispatchEvent(new Event('change'))")
        assert tab.do(f"{rows}.map(row => row.querySelector('th').dataset.v)") == methods
        assert tab.do(f"{tables}.map(table => [...table.tHead.rows[0].cells].slice(2).map(cell => cell.innerText))") == [methods]
        changes = [
            float(text)
            for text in tab.do(f"[...{tables}[0].querySelectorAll('small')].map(one => one.innerText)")
            if not text.startswith("−")
        ]
        assert changes, "the score is better than its own pool's"
        assert max(changes) < 10, "and is not held against the other track's"
    tab.do("(() => { const t = document.getElementById('track'); t.value = ''; t.dispatchEvent(new Event('change')) })()")
    assert tab.do(f"{tables}.length") == 2
    assert tab.complaints == []
    assert tab.nameless() == []


CONTRAST = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const over = (text, under) => {  // whatever form the browser gives a color in, painted over another
    canvas.fillStyle = `rgb(${under.join(" ")})`; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (v) => (v <= 10 ? v / 3294.6 : ((v / 255 + .055) / 1.055) ** 2.4);
  const light = (rgb) => { const [r, g, b] = rgb.map(linear); return .2126 * r + .7152 * g + .0722 * b; };
  const behind = (one) => {
    const all = []; for (let e = one; e; e = e.parentElement) all.unshift(getComputedStyle(e).backgroundColor);
    return all.reduce((under, color) => over(color, under), [255, 255, 255]);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), seen = new Set(), found = [];
  while (walker.nextNode()) {
    const one = walker.currentNode.parentElement;
    if (seen.has(one) || !walker.currentNode.data.trim() || ["SCRIPT", "STYLE"].includes(one.tagName.toUpperCase())) continue;
    seen.add(one);
    const style = getComputedStyle(one), under = behind(one);
    const color = over(one.namespaceURI.endsWith("svg") ? style.fill : style.color, under);
    const [a, b] = [light(color), light(under)];
    found.push([`${one.tagName}.${one.getAttribute("class")}: ${one.textContent.trim().slice(0, 30)}`,
                (Math.max(a, b) + .05) / (Math.min(a, b) + .05)]);
  }
  return found;
})()"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(tab: browser.Page, written: Path, scheme: str) -> None:
    """WCAG AA, 4.5 to 1: every text of the page, small figures and drawings included, against what is painted behind it."""
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.open(written)
    found = tab.do(CONTRAST)
    tab.call("Emulation.setEmulatedMedia", features=[])
    assert len(found) > 200
    assert any(name.startswith("SMALL") for name, _ in found)
    assert [word for word in found if word[1] < 4.5] == []


@pytest.mark.parametrize("pattern", ["tiny/experiment-*", "tiny/compare-*", "tiny/pool-*", "scaling.html"])
def test_text_of_the_other_pages_stands_out_in_the_dark(tab: browser.Page, site: Path, pattern: str) -> None:
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    tab.open(next(site.glob(pattern)))
    found = tab.do(CONTRAST)
    tab.call("Emulation.setEmulatedMedia", features=[])
    assert len(found) > 10
    assert [word for word in found if word[1] < 4.5] == []


def test_a_phone_scrolls_down_only(tab: browser.Page, written: Path) -> None:
    tab.call("Emulation.setDeviceMetricsOverride", width=375, height=800, deviceScaleFactor=2, mobile=True)
    tab.open(written)
    assert tab.do("document.documentElement.scrollWidth") <= 375
    tab.call("Emulation.clearDeviceMetricsOverride")


def test_a_site_has_a_page_for_each_thing_and_every_link_leads_somewhere(site: Path) -> None:
    names = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))]
    kinds = [name.rpartition("/")[2].partition("-")[0].partition(".")[0] for name in names]
    assert (kinds.count("experiment"), kinds.count("pool"), kinds.count("scaling"), kinds.count("tiny")) == (4, 3, 1, 1)
    assert kinds.count("compare") >= 5
    for name in names:
        outline = Outline()
        outline.feed((site / name).read_text("utf-8"))
        for link in outline.links:
            if link.startswith("#"):
                assert link[1:] in outline.ids, (name, link)
            elif not link.startswith("data:"):
                assert ((site / name).parent / link).resolve().is_file(), (name, link)
        assert len(outline.ids) == len(set(outline.ids)), name


def test_the_pages_of_a_site_in_a_browser(tab: browser.Page, site: Path) -> None:
    """One of each kind: no complaint, no request, names for everything, no sideways scrolling on a phone, and tables sort."""
    tab.call("Emulation.setDeviceMetricsOverride", width=375, height=800, deviceScaleFactor=1, mobile=True)
    try:
        for pattern in ("tiny/experiment-*", "tiny/compare-*", "tiny/pool-*", "scaling.html"):
            tab.complaints.clear()
            tab.requests.clear()
            tab.open(next(site.glob(pattern)))
            assert tab.complaints == [], pattern
            assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []
            assert tab.nameless() == [], pattern
            assert tab.do("document.documentElement.scrollWidth") <= 375, pattern
    finally:
        tab.call("Emulation.clearDeviceMetricsOverride")
    tab.open(next(site.glob("tiny/compare-*")))
    tab.do("document.querySelector('#tasks thead button').click()")
    names = tab.do("[...document.querySelectorAll('#tasks tbody th')].map(cell => cell.textContent)")
    assert names == sorted(names)


def test_the_class_of_inputs_chooses_rows(tab: browser.Page, tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store"))
    listed = {"kind": "listed", "uids": "lists/mine.npy#0123456789abcdef"}
    target = {"kind": "image_clusters", "centroids": "small_centroids_l14", "target": "imagenet1k_l14", "features": "l14"}
    world.run(store, "no_filter", world.results(0.05, 0))
    world.run(store, "mine", world.results(0.1, 0), chosen=listed)
    world.run(store, "near", world.results(0.12, 0), chosen=target)
    tab.open(write_page(store, tmp_path, "tiny"))
    methods = "[...document.querySelectorAll('#board tbody tr:not([hidden]) th')].map(cell => cell.dataset.v).sort()"
    wanted = {"": ["mine", "near", "no_filter"], "released": ["no_filter"], "target": ["near"], "private": ["mine"], "public": []}
    for chosen, expected in wanted.items():
        tab.do(f"document.getElementById('inputs').value = '{chosen}'")
        tab.do("document.getElementById('inputs').dispatchEvent(new Event('change'))")
        assert tab.do(methods) == expected
        assert tab.do("document.getElementById('shown').textContent") == f"{len(expected)} of 3 rows"
        assert tab.do("document.getElementById('no-match').hidden") == bool(expected)
    assert "No row matches these choices" in tab.do("document.getElementById('no-match').innerText")
    shown = "[...document.querySelectorAll('#inputs option')].map(one => one.textContent)"
    assert tab.do(shown) == ["all classes", *TITLES.values(), "not stated"]
    assert tab.complaints == []
