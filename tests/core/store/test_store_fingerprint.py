"""One stable hash: the same in every process, and refused where there is no stable form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from datacomp_core.artifacts import Spec
from datacomp_core.store.fingerprint import canonical, canonical_json, fingerprint


class Inner(Spec):
    text: str = "ü\U0001f600"
    number: float = 0.1


class Outer(Spec):
    items: tuple[Inner, ...] = (Inner(), Inner(text="x"))
    table: dict[str, int] = {"b": 1, "a": 2}


def test_the_canonical_form_is_plain_sorted_ascii_json() -> None:
    inner = '{"number":0.1,"text":"\\u00fc\\ud83d\\ude00"}'
    given = Outer(items=(Inner(), Inner(text="x")), table={"b": 1, "a": 2})
    plain = json.dumps(canonical(given), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    assert plain == '{"items":[' + inner + ',{"number":0.1,"text":"x"}],"table":{"a":2,"b":1}}'


def test_other_processes_agree_whatever_their_hash_seed(tmp_path: Path) -> None:
    code = (
        "from datacomp_core.scales import SCALES; from datacomp_core.store.fingerprint import fingerprint; "
        "print(fingerprint(SCALES['small']))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1
    assert len(seen.pop().strip()) == 64


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), float("inf"), object(), Path("x"), {1: 2}, print, b"bytes"])
def test_what_has_no_stable_form_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        fingerprint(value)


def test_numbers_and_truth_are_told_apart() -> None:
    assert len({fingerprint(value) for value in (1, 1.5, True, "1", None, [1], "True")}) == 7


class Named(Spec):
    names_for_people: ClassVar[frozenset[str]] = frozenset({"name"})
    name: str = ""
    inner: Inner = Inner()
    added_later: int = 3


class NamedBefore(Spec):
    inner: Inner = Inner()


class Raised(Named):
    version: ClassVar[int] = 2


def test_names_and_defaults_carry_no_identity_and_a_raised_version_does() -> None:
    assert canonical_json(Named(name="a")) == canonical_json(Named(name="b", added_later=3)) == "{}"
    assert fingerprint(Named(inner=Inner(text="x"))) == fingerprint(NamedBefore(inner=Inner(text="x")))
    assert fingerprint(Named(added_later=4)) != fingerprint(Named())
    assert canonical_json(Raised()) == '{"version":2}'
