"""A download whose workers lack a library ends with one sentence (img2dataset imports a module that Python 3.13 removed)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from images_world import LOOPBACK, rows_of, web, write_pool

from datacomp_core.errors import MissingLibraryError
from datacomp_core.pool.distributors import Distributor
from datacomp_core.pool.download_images import ImageSpec, download_images
from datacomp_core.store import Store


@pytest.mark.parametrize("distributor", ["engine", pytest.param("multiprocessing", marks=pytest.mark.slow)])
def test_what_a_worker_cannot_import_is_named(
    distributor: Distributor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "imghdr.py").write_text("raise ModuleNotFoundError(\"No module named 'imghdr'\", name='imghdr')\n")
    monkeypatch.syspath_prepend(shadow)  # spawned workers import from where their parent does
    monkeypatch.setenv("PYTHONPATH", str(shadow))
    store = Store.open(str(tmp_path / "store"))
    spec = ImageSpec(image_size=64, samples_per_shard=10, exif="drop")
    with web() as (base, _), caplog.at_level(logging.WARNING):
        pool = write_pool(tmp_path / "store/pool", [rows_of([f"{base}/ok/{number}.jpg" for number in range(20)])])
        with pytest.raises(MissingLibraryError, match=r"'imghdr', which \S+ needs: install the package standard-imghdr"):
            download_images(spec, pool, store=store, workers=2, threads=2, open_networks=LOOPBACK, distributor=distributor)
    assert "Traceback" not in caplog.text
