"""What a filter reads and a pool of one's own does not have is refused while the chain is planned: nothing is computed first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from datacomp_core.artifacts import Pool, ShardSet
from datacomp_core.errors import DataError, SpecError
from datacomp_core.pool.adopt import AdoptedPoolSpec, adopt_metadata, adopt_shards
from datacomp_core.pool.image_folder import FolderPoolSpec, import_folder, pack_folder
from datacomp_core.store import PlannedStep
from flows.chain import experiments, plan
from flows.parameters import ExperimentSpec
from tasks.run_step import store

TOP = {"kind": "top_fraction", "fraction": 0.5}


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    from datacomp_core.settings import settings

    monkeypatch.setenv("DATACOMP_STORE", str(tmp_path / "store"))
    settings.cache_clear()


def drawings(tmp_path: Path, name: str = "drawings") -> tuple[Pool, ShardSet]:
    """A pool of four pictures, with their shards."""
    (tmp_path / name).mkdir()
    for number in range(4):
        noise = np.random.default_rng([number, *name.encode()]).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{name}/{number}.png")
        (tmp_path / f"{name}/{number}.txt").write_text(f"{name} {number}")
    spec = FolderPoolSpec(source=str(tmp_path / name), name=name)
    pool = import_folder(spec, store=store())
    return pool, pack_folder(spec, pool, store=store())


def planned(filter_: dict[str, Any] | None = None, scale: str = "tiny", **given: Any) -> list[PlannedStep[Any]]:
    own = {"recipe": "mine", "filter": filter_} if filter_ else {"recipe": "no_filter"}
    spec = ExperimentSpec.model_validate({"scale": scale, **own, **given})
    return plan(lambda call: experiments(call, [spec]), store())


@pytest.mark.parametrize("own", [True, False])
def test_a_mistyped_score_is_refused_before_a_scorer_is_trained(tmp_path: Path, own: bool) -> None:
    pool = drawings(tmp_path)[0].address if own else ""
    with pytest.raises(SpecError, match=r"'clip_tny_similarity_score', but .*Nearest columns: clip_tiny_similarity_score"):
        planned({**TOP, "score": "clip_tny_similarity_score"}, pool=pool)
    assert [step.kind for step in planned({**TOP, "score": "tiny"}, pool=pool) if step.kind == "embeddings"] == ["embeddings"]


@pytest.mark.parametrize("own", [True, False])
def test_features_of_a_model_that_is_not_given_are_refused(tmp_path: Path, own: bool) -> None:
    pool = drawings(tmp_path)[0].address if own else ""
    for wanted in ({"kind": "sem_dedup", "features": "mine"}, {**TOP, "score": "neg_clip_loss:features=mine"}):
        with pytest.raises(
            SpecError, match=r"features of the model 'mine', but .* does not have them.*--embed mine=checkpoints/"
        ):
            planned(wanted, pool=pool)


def adopted(root: Path, **columns: list[Any]) -> Pool:
    """Metadata with columns of the user's own, and the tars of four samples beside it, adopted."""
    import io
    import tarfile

    (root / "metadata").mkdir(parents=True)
    (root / "shards").mkdir()
    uids = [f"{number:032x}" for number in range(4)]
    rows = {"uid": uids, "url": [None] * 4, "text": [f"caption {number}" for number in range(4)], **columns}
    pl.DataFrame(rows, schema_overrides={"url": pl.String}).write_parquet(root / "metadata/00000000.parquet")
    with tarfile.open(root / "shards/00000000.tar", "w") as tar:
        for number, uid in enumerate(uids):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (number, 0, 0)).save(buffer, "JPEG")
            for end, data in (("jpg", buffer.getvalue()), ("txt", b"x"), ("json", f'{{"uid": "{uid}"}}'.encode())):
                member = tarfile.TarInfo(f"{number:05d}.{end}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    spec = AdoptedPoolSpec(source=str(root))
    pool = adopt_metadata(spec, store=store())
    adopt_shards(spec, pool, store=store())
    return pool


def test_a_column_of_ones_own_needs_no_scorer_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    """Any column, not only those of DataComp's schema; also those that a score to compute reads."""
    pool = adopted(tmp_path / "own", aesthetic=[1.0, 2.0, 3.0, 4.0], empty=[None] * 4).address
    for scale in ("tiny", "small"):
        steps = planned({**TOP, "score": "aesthetic"}, scale, pool=pool)
        assert not {"embeddings", "scores"} & {step.kind for step in steps}
        with pytest.raises(DataError, match=r"Column 'empty' of .* has no value in any row"):
            planned({**TOP, "score": "empty"}, scale, pool=pool)
        with pytest.raises(SpecError, match=r"'esthetic', but .*Nearest columns: aesthetic"):
            planned({**TOP, "score": "esthetic"}, scale, pool=pool)
    pl.DataFrame({"url": ["http://h/1"], "score": [1.0]}).write_csv(tmp_path / "scores.csv")
    with pytest.raises(DataError, match=r"Column 'url' of .* has no value in any row"):
        planned({**TOP, "score": f"column_of:file={tmp_path}/scores.csv,key=url"}, pool=pool)


def test_images_of_another_pool_are_refused(tmp_path: Path) -> None:
    (one, own), (other, theirs) = drawings(tmp_path, "one"), drawings(tmp_path, "other")
    for pool in (one.address, ""):
        with pytest.raises(
            SpecError, match=rf"{theirs.address} has the images of {other.address}, not of {pool or 'pools/tiny'}"
        ):
            planned(pool=pool, shards=theirs.address)
    assert planned(pool=one.address, shards=own.address)[0].kind == "subsets"
