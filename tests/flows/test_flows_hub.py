"""The chain of a competition's scale, from a server of the hub's shape and a web of pictures to shards."""

from __future__ import annotations

import io
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hub_server import serving
from PIL import Image

from datacomp_core.artifacts import ShardSet, Subset
from datacomp_core.parts import SCHEMA
from datacomp_core.pool.images import download_images
from datacomp_core.settings import settings
from datacomp_core.uid import uid_of
from flows.chain import STAGES
from flows.parameters import ExperimentSpec
from tasks import pool as pooling
from tasks.running import store

ROWS, PARTS = 40, 2


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...  # noqa: A002


@contextmanager
def web(folder: Path) -> Generator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def candidates(address: str) -> pl.DataFrame:
    """Rows of DataComp's schema with a score each, all of them different."""
    urls = [f"{address}/{number}.jpg" for number in range(ROWS)]
    texts = [f"a caption of picture number {number}" for number in range(ROWS)]
    columns: dict[str, list[Any]] = {name: [None] * ROWS for name in SCHEMA}
    columns |= {"uid": [uid_of(*pair) for pair in zip(urls, texts, strict=True)], "url": urls, "text": texts}
    columns["clip_l14_similarity_score"] = [float(x) for x in np.random.default_rng(0).permutation(ROWS) / ROWS]
    columns["face_bboxes"] = [[] for _ in urls]
    return pl.DataFrame(columns, schema=SCHEMA)


def test_from_the_hub_to_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATACOMP_STORE", str(tmp_path / "store"))
    settings.cache_clear()
    (tmp_path / "web").mkdir()
    for number in range(ROWS):
        Image.new("RGB", (60, 40), (6 * number, 0, 99)).save(tmp_path / f"web/{number}.jpg")
    with web(tmp_path / "web") as address, serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        rows = candidates(address)
        hub.repositories["datasets/mlfoundations/datacomp_small"] = {
            f"{part:032x}.parquet": _parquet(rows[part * ROWS // PARTS : (part + 1) * ROWS // PARTS]) for part in range(PARTS)
        }

        def call(task: Any, *identity: Any) -> Any:
            if task is pooling.download_images:  # the web of this test is on loopback, which is never reached by default
                return download_images(*identity, store=store(), open_networks="127.0.0.0/8")
            return task.fn(*identity)

        spec = ExperimentSpec.model_validate({"scale": "small", "recipe": "clip_score:score=l14,fraction=0.3"})
        shards: ShardSet = STAGES["reshard"](call, spec)
        best = rows.sort("clip_l14_similarity_score", descending=True).head(int(0.3 * ROWS) + 1)  # the reference's n + 1
        written = np.load(io.BytesIO(store().folder(shards).read("sample_ids.npy")))
        assert {f"{int(high):016x}{int(low):016x}" for high, low in written.tolist()} == set(best["uid"])
        subset: Subset = STAGES["filter"](call, spec)
        assert (subset.scale, shards.scale, subset.num_samples) == ("small", "small", len(best))
        record = store().record(shards.address)
        assert record is not None
        assert record.inputs["shards"][0]["address"].startswith("shards/small/")


def _parquet(rows: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    rows.write_parquet(buffer)
    return buffer.getvalue()
