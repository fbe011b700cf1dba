"""What a selection asks of a bucket: the driver's share a part, and how many of its requests are in flight at once."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from datacomp_core.filters import TopFraction
from datacomp_core.selection.select import SubsetSpec, select
from datacomp_core.store import Folder

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
from faulty_proxy import FaultyProxy, faulty_proxy

PARTS_OF_XLARGE, SECONDS_A_REQUEST, MOST_SECONDS = 26_000, 0.05, 300


def pool(folder: Folder, parts: int) -> None:
    for part in range(parts):
        chance = np.random.default_rng(part)
        uids = [chance.bytes(16).hex() for _ in range(3)]
        table = pl.DataFrame({"uid": uids, "text": uids, "clip_l14_similarity_score": chance.random(3)})
        with folder.writing(f"{part:08d}.parquet") as path:
            table.write_parquet(path)


def asked(proxy: FaultyProxy, url: str, parts: int) -> int:
    """The requests of a run that finds all parts judged: what is left is the driver's share."""
    metadata, kept, out = Folder(f"{url}/{parts}/metadata"), Folder(f"{url}/{parts}/work"), Folder(f"{url}/{parts}/out")
    pool(metadata, parts)
    wanted = SubsetSpec(recipe="own", filter=TopFraction(score="l14", fraction=0.5))
    first = select(wanted, metadata, kept=kept, out=out, beside="as_made", workers=4)
    before = out.read("subset.npy")
    runs = Folder(f"{url}/{parts}/again")
    proxy.agents.clear()
    # The cut is found by workers too; a filter without one has only the parts' runs and accounts to read.
    again = select(wanted, metadata, kept=kept, out=runs, beside="as_made", write="subset", workers=4)
    assert (again.num_samples, runs.read("subset.npy")) == (first.num_samples, before)
    return proxy.agents.total()


@pytest.mark.slow
def test_the_drivers_share_of_a_selection_at_xlarge_takes_minutes(
    s3_server: str, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with faulty_proxy(s3_server, pause=SECONDS_A_REQUEST) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        few, many = asked(proxy, s3_url, 40), asked(proxy, s3_url, 120)
        by_workers = 3  # of a pass over a column: the size of the file, its footer, the column
        a_part = (many - few) / 80 - by_workers
        assert a_part <= 2.1, "the account and the run, each once"
        assert proxy.most_at_once >= 8
        assert a_part * PARTS_OF_XLARGE * SECONDS_A_REQUEST / 16 < MOST_SECONDS
