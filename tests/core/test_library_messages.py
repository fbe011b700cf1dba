"""No message repeats numpy's advice to unpickle, or says where in memory an object lay."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image, UnidentifiedImageError

from datacomp_core import columns, score_tables
from datacomp_core.checkpoints import unnested
from datacomp_core.errors import DataError, short_text
from datacomp_core.library_messages import OBJECTS, OTHER, plain_message
from datacomp_core.pool_source import HOW_TO_FILL, PoolSource
from datacomp_core.selection.sorting import sort_subset
from datacomp_core.store import Folder


def test_an_address_in_memory_is_no_name_of_a_file() -> None:
    with pytest.raises(UnidentifiedImageError) as told:
        Image.open(io.BytesIO(b"no picture"))
    assert " at 0x" in str(told.value)
    assert short_text(told.value) == "UnidentifiedImageError: cannot identify image file the file"
    assert str(DataError(f"a.jpg: {told.value}")) == "a.jpg: cannot identify image file the file"
    assert plain_message(repr(object())) == "object"
    assert plain_message("<__main__.Thing object at 0x7f00aa> and at 0x10") == "Thing and at 0x10"


@pytest.mark.parametrize("advice", ["an array of objects", "a pickle", "bytes that are neither"])
def test_no_advice_to_unpickle(advice: str, tmp_path: Path) -> None:
    path = tmp_path / "given.npy"
    if advice == "an array of objects":
        np.save(path, np.array([{}, None], dtype=object), allow_pickle=True)
    else:
        path.write_bytes(b"\x80\x04N." if advice == "a pickle" else b"anything")
    with pytest.raises(DataError) as told:
        sort_subset(Folder(tmp_path), "given.npy", tmp_path / "out.npy")
    assert str(told.value) == f"{path} is not a subset file (npy of dtype u8,u8): {OBJECTS if 'array' in advice else OTHER}"


def test_an_archive_and_a_file_that_goes_on_are_no_subset(tmp_path: Path) -> None:
    np.savez(tmp_path / "given.npz", a=np.zeros(3, "u8,u8"))
    (tmp_path / "given.npz").rename(tmp_path / "archive.npy")
    with pytest.raises(DataError, match="but an archive of arrays"):
        sort_subset(Folder(tmp_path), "archive.npy", tmp_path / "out.npy")
    np.save(tmp_path / "long.npy", np.zeros(3, "u8,u8"))
    with (tmp_path / "long.npy").open("ab") as file:
        file.write(bytes(16))
    with pytest.raises(DataError, match="continues after its 3 uids"):
        sort_subset(Folder(tmp_path), "long.npy", tmp_path / "out.npy")


def test_what_announces_the_next_line_is_told_with_it() -> None:
    assert short_text(ValueError("one of:\n\n (1) a file\n (2) another")) == "ValueError: one of: (1) a file"
    assert short_text(ValueError("what happened\nand where")) == "ValueError: what happened"


def test_an_empty_checkpoint_has_nothing() -> None:
    with pytest.raises(DataError, match=r"it has nothing\.$"):
        unnested({}, "epoch_1.pt")


@pytest.mark.parametrize("form", ["npz", "npy", "parquet", "metadata"])
def test_whole_numbers_that_would_tie_as_scores_are_refused(form: str, tmp_path: Path) -> None:
    wide = np.array([2**53 + 1, -5, 7], np.int64)
    uids = np.zeros(3, "u8,u8")
    uids["f1"] = range(3)
    path = tmp_path / f"scores.{form}"
    with pytest.raises(DataError, match=r"beyond 2\^53.*scale them down"):
        if form == "metadata":
            columns.numbers(pl.Series("given", wide))
        elif form == "npz":
            np.savez(path, uid=uids, score=wide)
        elif form == "npy":
            np.save(path, wide)
            np.save(tmp_path / "uids.npy", uids)
        else:
            pl.DataFrame({"uid": [f"{row:032x}" for row in range(3)], "score": wide}).write_parquet(path)
        list(score_tables.read([path], "uid", ["score"]))
    exact = pl.Series("given", [2**53, -(2**53)])
    assert columns.numbers(exact).to_list() == exact.to_list()


def test_a_column_of_nothing_is_told_with_what_fills_it(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {"uid": ["0" * 32], "text": pl.Series([None], dtype=pl.String), "url": pl.Series([None], dtype=pl.String)}
    )
    table.write_parquet(tmp_path / "00000000.parquet")
    for name, told in (("text", "column that has the captions"), ("url", "Name the column that has it")):
        with pytest.raises(DataError, match=told) as refused:
            PoolSource(Folder(tmp_path)).check_filled(["00000000"], [name])
        assert "Embed" not in str(refused.value)
    assert "text" in HOW_TO_FILL
