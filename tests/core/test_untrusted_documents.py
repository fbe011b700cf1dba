"""YAML and JSON from strangers: bounded before anything is built, and one sentence for what is wrong."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import yaml

from datacomp_core import clip, clip_sources, clip_transformers
from datacomp_core.checkpoints import read_weights, shards_of
from datacomp_core.errors import DataError, SpecError, short_text
from datacomp_core.recipes.load import load_recipe
from datacomp_core.torch_files import why_unreadable
from datacomp_core.untrusted_documents import parse_json, parse_yaml, read_json, read_yaml

LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[" * 50_000, "nested"),
        ("- " * 2_000 + "x", "nested"),
        ("{a: " * 500 + "1" + "}" * 500, "nested"),
        (LAUGHS, "expands to more than"),
        ("a: &a [*a]", "contains itself"),
        ("&a {b: *a}", "contains itself"),
        ("x: 2001-99-99", "cannot be read as YAML"),
        ("x: " + "9" * 6000, "a number of more than"),
        ("x: 1" + ":1" * 500_000, "a number of more than"),
        ("x: 1" + ":1" * 60 + ".5", "a number of more than"),
        ("x: 0x" + "f" * 500_000, "a number of more than"),
        ("x: !!int '1" + ":1" * 5_000 + "'", "a number of more than"),
        ("1" + ":1" * 5_000 + ": x", "a number of more than"),
        ("a: [1, 2", "not valid YAML"),
        ("filter: {kind: words, at_least: 4, at_least: 9}", "'at_least' twice in one mapping (line 1)"),
        ("a:\n  - {b: 1}\n  - {b: 2, c: {b: 3}}\na: 4", "'a' twice in one mapping (line 4)"),
        ("? [x, y]\n: {k: 1}\n? [x]\n: {k: 1, k: 2}", "'k' twice"),
        ("a: *nobody", "undefined alias"),
        ("{[1]: 2}", "not valid YAML"),
        ("!!python/object/apply:os.system [true]", "not valid YAML"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
        ("x: '" + "y" * (1 << 20) + "'", "the limit for YAML"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
    ],
)
def test_yaml_that_is_refused(text: str | bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as problem:
        read_yaml(path)
    assert told in str(problem.value) or (told == "contains itself" and "expands to more than" in str(problem.value)), (
        problem.value
    )
    assert "\n" not in str(problem.value)
    with pytest.raises(SpecError):
        load_recipe(str(path))


def test_yaml_that_people_write_is_read_as_ever() -> None:
    text = "base: &base {kind: words, at_least: 4}\nfilter: {kind: all, filters: [*base, *base, {<<: *base, at_least: 5}]}\n"
    assert parse_yaml(text, "it") == yaml.safe_load(text)
    assert parse_yaml("", "it") is None
    digits = "9" * 500
    assert parse_yaml(f"a: '{digits}'\nb: x{digits}\nc: 1_000\nd: 1:30\n", "it") == {
        "a": digits,
        "b": f"x{digits}",
        "c": 1000,
        "d": 90,
    }


def test_deep_json_is_one_sentence() -> None:
    for text in ("[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 300 + "1" + "}" * 300):
        with pytest.raises(DataError, match="nested"):
            parse_json(text, "it")
    assert parse_json(b'{"a": [1, {"b": null}]}', "it") == {"a": [1, {"b": None}]}


def test_the_json_of_a_strangers_model_is_bounded(tmp_path: Path) -> None:
    """Every reader of a model's folder gives one sentence for a file that is deep, large, or nothing."""
    readers = {
        "open_clip_config.json": lambda: clip.config_of(f"local-dir:{tmp_path}"),
        "config.json": lambda: clip_sources.TransformersModel(tmp_path).dim(),
        "preprocessor_config.json": lambda: clip_transformers._settings(tmp_path),
        "model.safetensors.index.json": lambda: shards_of(tmp_path / "model.safetensors.index.json"),
    }
    for name, read_it in readers.items():
        path = tmp_path / name
        for bad, told in (
            (b"[" * 100_000, "nested"),
            (b'"' + b"x" * (17 << 20) + b'"', "bytes"),
            (b"{", "JSON"),
            (b"\xff", "JSON"),
        ):
            path.write_bytes(bad)
            with pytest.raises(DataError, match=told) as problem:
                read_it()
            assert str(path) in str(problem.value)
            assert "\n" not in str(problem.value)
        path.write_bytes(b"[1]")
        with pytest.raises(DataError):
            read_it()
        path.unlink()
    with pytest.raises(DataError, match="No such file"):
        read_json(tmp_path / "none.json")


def test_what_torch_advises_is_never_repeated(tmp_path: Path) -> None:
    import torch

    (tmp_path / "bad.pt").write_bytes(pickle.dumps({"x": Path("/")}))
    torch.save({"x": Path("/")}, tmp_path / "zip.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "zip.pt").read_bytes()[:300])
    others = {
        "text.pt": b"hello" * 1000,
        "page.pt": b"<html>\n" * 99,
        "ones.pt": b"\xff" * 500,
        "key.pt": b"\x80\x02h\x65.",
        "magic.pt": b"\x80\x02K\x01.",
    }
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
    for name, wanted in (
        ("bad.pt", "code in a file is never run"),
        ("zip.pt", "code in a file is never run"),
        *((name, "damaged, or") for name in ("cut.pt", *others)),
    ):
        with pytest.raises(Exception) as problem:  # noqa: PT011
            torch.load(tmp_path / name, weights_only=True)
        assert wanted in why_unreadable(problem.value), problem.value
        for told in (why_unreadable(problem.value), short_text(problem.value)):
            assert "weights_only" not in told
        with pytest.raises(DataError) as refused:
            read_weights(tmp_path / name, "ViT-B-32")
        assert "weights_only" not in str(refused.value)
        assert "Error" not in str(refused.value)
