"""Captions by models: each family with a small random model, against the library itself; kills, devices, a served model."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import small_writers
from hub_server import serving
from PIL import Image
from pydantic import ValidationError

from datacomp_core import caption_chunks
from datacomp_core.captioners import hub_models
from datacomp_core.captions.translate import TranslateSpec, TranslateWork, translate_folder
from datacomp_core.embedding import generate
from datacomp_core.embedding.generate import GenerateSpec, WriteWork, generate_folder
from datacomp_core.errors import DataError, SpecError, StoreError
from datacomp_core.settings import settings
from datacomp_core.shards import ShardWriter, write_index
from datacomp_core.store import Folder

REVISION = "a" * 40
NUM, PARTS = 30, 2
MISSING, CORRUPT = {4, 17}, {9}


def picture(n: int) -> Image.Image:
    return Image.new("RGB", (40 + n, 50), (n * 8, 255 - n * 8, 99))


@pytest.fixture
def pool(tmp_path: Path) -> tuple[Folder, Folder]:
    """Metadata in two parts and the shards of its pictures, in another order; two never arrived, one is no picture."""
    (tmp_path / "s").mkdir()
    (tmp_path / "m").mkdir()
    uids = [f"{n * 7919:032x}" for n in range(NUM)]
    texts = ["der rote Hund am Strand und das Meer" if n % 3 == 0 else "a photo of the red dog on the beach" for n in range(NUM)]
    for part in range(PARTS):
        some = slice(NUM * part // PARTS, NUM * (part + 1) // PARTS)
        frame = pl.DataFrame({"uid": uids[some], "url": ["u"] * (NUM // PARTS), "text": texts[some]})
        frame.write_parquet(tmp_path / f"m/{part:08d}.parquet")
    for shard in range(2):
        buffer = io.BytesIO()
        writer = ShardWriter(buffer, f"{shard:08d}")
        for n in [n for n in reversed(range(NUM)) if n % 2 == shard and n not in MISSING]:
            data = io.BytesIO()
            picture(n).save(data, "PNG")
            about = json.dumps({"uid": uids[n]}).encode()
            writer.add(
                uids[n], f"{n:09d}", {"png": b"no picture" if n in CORRUPT else data.getvalue(), "json": about, "txt": b"x"}
            )
        write_index(Folder(tmp_path / "s"), f"{shard:08d}", writer.finish())
        (tmp_path / f"s/{shard:08d}.tar").write_bytes(buffer.getvalue())
    return Folder(tmp_path / "m"), Folder(tmp_path / "s")


def saved(family: str) -> tuple[Path, str]:
    """A model where a fetched one lies, and its sha256."""
    folder = settings().home.resolve() / "assets" / "captioners" / "small" / family / REVISION
    small_writers.save(family, folder)
    return folder, hub_models.weights_hash(folder)


def spec_of(family: str, **more: Any) -> GenerateSpec:
    _, sha256 = saved(family)
    given = {"name": family, "model": f"small/{family}", "revision": REVISION, "sha256": sha256, "max_tokens": 6, "batch_size": 4}
    return GenerateSpec.model_validate({**given, **more})


def texts_of(out: Path) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for part in range(PARTS):
        for row, text in pl.read_parquet(out / f"captions/{part:08d}.parquet").select("row", "text").iter_rows():
            found.setdefault(NUM * part // PARTS + row, []).append(text)
    return found


@pytest.mark.parametrize("family", ["blip", *(pytest.param(name, marks=pytest.mark.slow) for name in ("blip2", "florence2"))])
def test_each_family_writes_what_the_library_writes(family: str, pool: tuple[Folder, Folder], tmp_path: Path) -> None:
    import torch
    import transformers

    prompt = "<CAPTION>" if family == "florence2" else ""
    made = generate_folder(WriteWork(spec_of(family, prompt=prompt), *pool, Folder(tmp_path / "out"), ""), device="cpu")
    assert made.counts == {
        "captions": made.num_captions,
        "captioned": made.num_captioned,
        "never_arrived": len(MISSING),
        "corrupt_image": len(CORRUPT),
        **({"empty": made.counts["empty"]} if "empty" in made.counts else {}),
    }
    assert made.num_captions + made.counts.get("empty", 0) == NUM - len(MISSING) - len(CORRUPT)
    folder, _ = saved(family)
    model = transformers.AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True)
    processor = transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
    for row, several in texts_of(tmp_path / "out").items():
        asked = {} if family == "blip" else {"text": [prompt]}
        inputs = processor(images=[picture(row)], return_tensors="pt", **asked)
        with torch.inference_mode():
            tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False, num_beams=1)
        assert several == [processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()], row


def test_draws_are_the_same_after_a_kill_and_on_two_devices(
    pool: tuple[Folder, Folder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "CHUNK_ROWS", 8)
    spec = spec_of("blip", num_captions=3, temperature=1.0, top_p=0.9, seed=5)
    generate_folder(WriteWork(spec, *pool, Folder(tmp_path / "whole"), ""), device="cpu")
    real, done = caption_chunks.keep, [0]

    def dies(*given: Any) -> None:
        done[0] += 1
        if done[0] == 3:
            raise KeyboardInterrupt
        real(*given)

    monkeypatch.setattr(caption_chunks, "keep", dies)
    with pytest.raises(KeyboardInterrupt):
        generate_folder(WriteWork(spec, *pool, Folder(tmp_path / "killed"), ""), device="cpu")
    monkeypatch.setattr(caption_chunks, "keep", real)
    assert (tmp_path / "killed/captions/00000000.parquet").exists()
    assert not (tmp_path / "killed/captions/00000001.parquet").exists()
    made = generate_folder(WriteWork(spec, *pool, Folder(tmp_path / "killed"), ""), device="cpu")
    files = [{str(p.relative_to(tmp_path / n)): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in ("whole", "killed")]
    assert files[0] == files[1]
    assert made.num_captions > made.num_captioned
    other = spec.model_copy(update={"seed": 6})
    generate_folder(WriteWork(other, *pool, Folder(tmp_path / "other"), ""), device="cpu")
    assert texts_of(tmp_path / "other") != texts_of(tmp_path / "whole")


@pytest.mark.slow
def test_two_devices_write_what_one_writes(pool: tuple[Folder, Folder], tmp_path: Path) -> None:
    spec = spec_of("blip", num_captions=2, temperature=1.0)
    for name, device in (("one", "cpu"), ("two", "cpu,cpu")):
        generate_folder(WriteWork(spec, *pool, Folder(tmp_path / name), ""), device=device)
    assert texts_of(tmp_path / "one") == texts_of(tmp_path / "two")


def test_bare_tars_are_walked_and_those_of_another_pool_are_refused(pool: tuple[Folder, Folder], tmp_path: Path) -> None:
    metadata, shards = pool
    spec = spec_of("blip")
    generate_folder(WriteWork(spec, *pool, Folder(tmp_path / "indexed"), ""), device="cpu")
    shutil.rmtree(shards.at("index"))
    generate_folder(WriteWork(spec, *pool, Folder(tmp_path / "bare"), ""), device="cpu")
    assert texts_of(tmp_path / "bare") == texts_of(tmp_path / "indexed")
    for part in metadata.files(".parquet"):
        other = pl.read_parquet(metadata.at(part)).with_columns(uid="f" + pl.col("uid").str.tail(31))
        other.write_parquet(metadata.at(part))
    with pytest.raises(DataError, match=r"has no images for 30 rows of .*/m: .* Give the shards of this pool"):
        generate_folder(WriteWork(spec, *pool, Folder(tmp_path / "other"), ""), device="cpu")
    assert not Folder(tmp_path / "other").files()


def test_a_model_comes_from_the_hub_and_another_one_is_refused(
    pool: tuple[Folder, Folder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_writers.save("blip", tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    sha256 = hub_models.weights_hash(tmp_path / "model")
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        hub.repositories["models/small/blip"] = {**files, "modeling.py": b"raise SystemExit", "pytorch_model.bin": b"pickle"}
        commit = hub.commit("models/small/blip")
        given = {"name": "b", "model": "small/blip", "revision": commit, "max_tokens": 4}
        spec = GenerateSpec.model_validate({**given, "sha256": sha256})
        generate_folder(WriteWork(spec, *pool, Folder(tmp_path / "out"), ""), device="cpu")
        assert hub.sent["modeling.py"] == hub.sent["pytorch_model.bin"] == 0
        wrong = GenerateSpec.model_validate({**given, "sha256": "0" * 64})
        with pytest.raises(DataError, match="have sha256 .* and should have 0000"):
            generate_folder(WriteWork(wrong, *pool, Folder(tmp_path / "no"), ""), device="cpu")


@pytest.mark.slow
def test_coca_of_open_clip(pool: tuple[Folder, Folder], tmp_path: Path) -> None:
    import open_clip
    import torch

    text = {
        "context_length": 16,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 1,
        "embed_cls": True,
        "output_tokens": True,
    }
    vision = {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "attentional_pool": True}
    vision |= {"attn_pooler_heads": 2, "output_tokens": True}
    multimodal = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1, "attn_pooler_heads": 2}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, "multimodal_cfg": multimodal, "custom_text": True}
    (tmp_path / "coca_small.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "coca_small.json")
    torch.manual_seed(1)
    model: Any = open_clip.create_model("coca_small")
    torch.save(model.state_dict(), tmp_path / "w.pt")
    sha256 = generate_hash(tmp_path / "w.pt")
    home = settings().home / "assets" / "clip"
    home.mkdir(parents=True)
    (tmp_path / "w.pt").rename(home / f"{sha256}.pt")
    given = {"name": "coca", "library": "open_clip", "model": "coca_small", "weights": "own", "sha256": sha256, "max_tokens": 5}
    spec = GenerateSpec.model_validate(given)
    generate_folder(WriteWork(spec, *pool, Folder(tmp_path / "out"), ""), device="cpu")
    found = texts_of(tmp_path / "out")
    transform: Any = open_clip.image_transform(32, is_train=False)
    model.eval()
    for row in (0, 11, 29):
        tokens = torch.tensor([[49406]])
        with torch.inference_mode():
            for _ in range(5):  # the likeliest token each time, by the model's own forward
                logits = model(transform(picture(row))[None], tokens, output_labels=False)["logits"][0, -1]
                logits[49406] = -torch.inf
                tokens = torch.cat([tokens, logits.argmax()[None, None]], 1)
        assert found[row] == [open_clip.decode(tokens[0]).split("<end_of_text>")[0].replace("<start_of_text>", "").strip()]
    with pytest.raises(SpecError, match="does not write captions"):
        other = spec.model_copy(update={"model": "ViT-B-32"})
        generate_folder(WriteWork(other, *pool, Folder(tmp_path / "no"), ""), device="cpu")


def generate_hash(path: Path) -> str:
    from datacomp_core.store.folder import hash_file

    return hash_file(path)


# A served model ------------------------------------------------------------------------------------------------------


@contextmanager
def chat(faults: int = 0, status: int = 503) -> Generator[tuple[str, list[Any]]]:
    """A server of the shape of vLLM's chat API on loopback, which is busy a few times first."""
    asked: list[Any] = []
    left = [faults]

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            return

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            left[0] -= 1
            if left[0] >= 0:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            asked.append(body)
            content = body["messages"][0]["content"]
            kind = content if isinstance(content, str) else f"picture {len(content[0]['image_url']['url'])}"
            texts = [f"{kind[-40:]} {n} {body['seed']}" for n in range(body["n"])]
            data = json.dumps({"choices": [{"message": {"content": text}} for text in texts]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


SERVED = {
    "name": "vlm",
    "library": "server",
    "model": "big",
    "prompt": "What is it?",
    "num_captions": 2,
    "temperature": 0.7,
    "batch_size": 4,
}


def test_a_served_model_is_asked_by_pictures_and_retried(pool: tuple[Folder, Folder], tmp_path: Path) -> None:
    spec = GenerateSpec.model_validate(SERVED)
    with chat(faults=2) as (url, asked):
        made = generate_folder(WriteWork(spec, *pool, Folder(tmp_path / "a"), url), device="cpu")
        generate_folder(WriteWork(spec, *pool, Folder(tmp_path / "b"), url), device="cpu")
    assert made.num_captions == 2 * (NUM - len(MISSING) - len(CORRUPT))
    assert texts_of(tmp_path / "a") == texts_of(tmp_path / "b")
    assert len({body["seed"] for body in asked}) == NUM - len(MISSING) - len(CORRUPT), "two pictures share their draws"
    first = asked[0]
    assert (first["model"], first["n"], first["temperature"], first["max_tokens"]) == ("big", 2, 0.7, 40)
    assert first["messages"][0]["content"][1]["text"] == "What is it?"
    with chat(faults=99, status=400) as (url, _), pytest.raises(SpecError, match="rejects the request for big"):
        generate_folder(WriteWork(spec, *pool, Folder(tmp_path / "c"), url), device="cpu")
    with pytest.raises(StoreError, match="did not answer within 5 tries"):
        generate_folder(WriteWork(spec, *pool, Folder(tmp_path / "d"), "http://127.0.0.1:9"), device="cpu")
    with pytest.raises(SpecError, match="DATACOMP_CAPTION_SERVER"):
        generate_folder(WriteWork(spec, *pool, Folder(tmp_path / "e"), ""), device="cpu")


# Translation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("only", "rows"), [("foreign", range(0, NUM, 3)), ("de", range(0, NUM, 3)), ("all", range(NUM))])
def test_captions_of_a_language_are_translated(only: str, rows: range, pool: tuple[Folder, Folder], tmp_path: Path) -> None:
    with chat() as (url, asked):
        spec = TranslateSpec.model_validate({**SERVED, "num_captions": 1, "prompt": "", "only": only})
        made = translate_folder(TranslateWork(spec, pool[0], None, Folder(tmp_path / "out"), url), device="cpu")
    assert sorted(texts_of(tmp_path / "out")) == list(rows)
    assert made.counts.get("not_asked", 0) == NUM - len(rows)
    assert all("Translate the text to English" in body["messages"][0]["content"] for body in asked)
    assert len({body["seed"] for body in asked}) == len(rows), "two texts, of one part or of two, share their draws"


def test_a_text_to_text_model_translates(pool: tuple[Folder, Folder], tmp_path: Path) -> None:
    import torch
    import transformers

    folder, sha256 = saved("t5")
    given = {"name": "en", "model": "small/t5", "revision": REVISION, "sha256": sha256, "max_tokens": 5, "prompt": "red : "}
    spec = TranslateSpec.model_validate(given)
    made = translate_folder(TranslateWork(spec, pool[0], None, Folder(tmp_path / "out"), ""), device="cpu")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    inputs = tokenizer(["red : der rote Hund am Strand und das Meer"], return_tensors="pt")
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=5, do_sample=False, num_beams=1)
    text = tokenizer.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert texts_of(tmp_path / "out") == {row: [text] for row in range(0, NUM, 3)}
    assert made.num_captions == NUM // 3


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": "a", "model": "x/y"}, "give revision and sha256 of x/y"),
        ({"name": "a", "model": "coca", "library": "open_clip"}, "give weights and sha256 of coca"),
        ({**SERVED, "temperature": 0.0}, "give a temperature"),
        ({**SERVED, "name": "raw"}, "own captions"),
        ({"name": "a", "model": "x/y", "revision": "main", "sha256": "0" * 64}, "revision"),
    ],
)
def test_what_is_not_pinned_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises((SpecError, ValidationError), match=told):
        GenerateSpec.model_validate(given)
