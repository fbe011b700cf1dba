"""A download that is killed and run again ends with the bytes of an undisturbed one, and fetches nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from images_world import LOOPBACK, rows_of, untimed, web, write_pool

from datacomp_core.pool.download_images import ImageSpec, download_images
from datacomp_core.store import Store

SPEC = ImageSpec(image_size=64, samples_per_shard=12, exif="drop")
RUN = """
import sys
from datacomp_core.artifacts import Pool
from datacomp_core.pool.download_images import ImageSpec, download_images
from datacomp_core.store import Store
if __name__ == "__main__":
    download_images(
        ImageSpec.model_validate_json(sys.argv[1]), Pool.model_validate_json(sys.argv[2]), store=Store.open(sys.argv[3]),
        workers=2, threads=2, open_networks="127.0.0.0/8",
    )
"""


def files_of(folder: Path) -> dict[str, object]:
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".tmp")]
    ledgers = {str(path.relative_to(folder)): untimed(path.read_bytes()).to_dicts() for path in paths if "ledger" in path.parts}
    return ledgers | {str(path.relative_to(folder)): path.read_bytes() for path in paths if "ledger" not in path.parts}


@pytest.mark.slow
def test_kill_and_rerun(tmp_path: Path) -> None:
    calm, killed = Store.open(str(tmp_path / "calm")), Store.open(str(tmp_path / "killed"))
    with web() as (base, hits):
        urls = [f"{base}/status/404" if number % 9 == 0 else f"{base}/ok/{number}.jpg" for number in range(300)]
        parts = [rows_of(urls[:170]), rows_of(urls[170:])]
        pool = write_pool(tmp_path / "calm/pool", parts)
        write_pool(tmp_path / "killed/pool", parts)
        whole = download_images(SPEC, pool, store=calm, open_networks=LOOPBACK)
        hits.clear()
        script = tmp_path / "run.py"
        script.write_text(RUN)
        command = [sys.executable, str(script), SPEC.model_dump_json(), pool.model_dump_json(), str(tmp_path / "killed")]
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 120
        while len(list((tmp_path / "killed").rglob("*_stats.json"))) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(1)  # the workers die with it
        finished = {path.name.split("_")[0] for path in (tmp_path / "killed").rglob("*_stats.json")}
        before = Counter(hits)
        again = download_images(SPEC, pool, store=killed, open_networks=LOOPBACK)
        asked = Counter(hits) - before
    assert files_of(killed.folder(again).path) == files_of(calm.folder(whole).path)
    assert again.content == whole.content
    assert again.counts == whole.counts
    books = Path(killed.folder(again).path)
    kept = set(pl.concat([pl.read_parquet(books / f"ledger/{name}.parquet") for name in finished])["uid"])
    rows = pl.concat(parts)
    for url in rows.filter(pl.col("uid").is_in(list(kept)) & pl.col("url").str.contains("/ok/"))["url"]:
        assert asked[url.removeprefix(base)] == 0
