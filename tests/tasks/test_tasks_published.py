"""Pages for the Prefect UI: what is kept is what was written, and what is unchanged is not sent again."""

from __future__ import annotations

from pathlib import Path

import pytest

from datacomp_core.settings import settings
from tasks import published


def test_pages_of_a_site_are_sent_once_and_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATACOMP_STORE", str(tmp_path / "store"))
    settings.cache_clear()
    site, kept = tmp_path / "site", tmp_path / "store/_pages"
    (site / "tiny").mkdir(parents=True)
    for name in ("tiny.html", "tiny/a.html", "tiny/b.html"):
        (site / name).write_text(f"first {name}")
    assert published.publish_site(site, "tiny").endswith("/tiny.html")
    assert {path.relative_to(kept).as_posix() for path in kept.rglob("*.html")} == {"tiny.html", "tiny/a.html", "tiny/b.html"}
    (kept / "tiny/a.html").write_text("not sent again")
    (kept / "tiny/b.html").write_text("changed since")
    (kept / "tiny.html").unlink()
    (site / "tiny/b.html").write_text("other tiny/b.html, longer")
    published.publish_site(site, "tiny")
    assert (kept / "tiny/a.html").read_text() == "not sent again"
    assert (kept / "tiny/b.html").read_text() == "other tiny/b.html, longer"
    assert (kept / "tiny.html").read_text() == "first tiny.html"
