"""What `--mix` may be, and the sentence for everything else."""

from __future__ import annotations

from pathlib import Path

import pytest

from datacomp_core.errors import DatacompError
from datacomp_core.mix_recipes import load_mix


def test_addresses_files_and_published_mixes(tmp_path: Path) -> None:
    file = tmp_path / "mix.yaml"
    file.write_text("mix:\n  shards/a--1: 2\n  shards/b--2: 0.5\n")
    given = ["shards/c--3", "shards/d--4=6", str(file), "external_and_pool:sets=shards/e--5+shards/f--6,weight=3"]
    weights = {"c--3": 1.0, "d--4": 6.0, "a--1": 2.0, "b--2": 0.5, "e--5": 3.0, "f--6": 3.0}
    assert load_mix(given) == {f"shards/{name}": weight for name, weight in weights.items()}
    assert load_mix(["cc12m_and_pool:cc12m=shards/cc12m--1"]) == {"shards/cc12m--1": 1.0}
    assert load_mix([]) == {}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["cc12m"], "is none of these"),
        (["cc12m_and_pool"], "needs cc12m"),
        (["cc12m_and_pool:cc12m=pools/x--1"], "not the address of a shard set"),
        (["cc12m_and_pool:cc12m=shards/x,weigth=2"], "weigth"),
        (["cc12m_and_pool:cc12m=shards/x,weight=much"], "weight is 'much'"),
        (["shards/x--1", "shards/x--1=2"], "twice"),
        (["external_and_pool:sets=shards/x+"], "not the address"),
        *((["shards/x--1=" + weight], "a number above 0") for weight in ("", "0", "-1", "nan", "inf", "two")),
    ],
)
def test_what_is_no_mix_is_told(given: list[str], told: str) -> None:
    with pytest.raises(DatacompError, match=told):
        load_mix(given)


@pytest.mark.parametrize(
    "text", ["", "[]", "mix:", "mix: []", "shards/a: 1", "mix: {shards/a: true}", "mix: {shards/a: [1]}", "mix: {1: 1}", "mix: {"]
)
def test_a_file_that_is_no_mix_is_told_in_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "mix.yaml").write_text(text)
    with pytest.raises(DatacompError) as told:
        load_mix([str(tmp_path / "mix.yaml")])
    assert "Traceback" not in str(told.value)
