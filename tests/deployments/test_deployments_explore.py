"""What the page of `datacomp explore` is told: counts equal to the filter's, and recipes that keep what was counted."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from explored_pool import HOSTILE, LOST, ROWS, explorer_of, make_pool
from PIL import Image
from starlette.testclient import TestClient

from datacomp_core.errors import SpecError
from datacomp_core.explore import pool_index
from datacomp_core.progress import NoProgress
from datacomp_core.recipes.load import load_recipe
from datacomp_core.selection.select import select
from datacomp_core.store import Folder
from deployments.explore.app import make_app
from deployments.explore.explorer_api import ExplorerApi, SearchRequest
from deployments.explore.export import write_export
from deployments.explore.facets import FacetSelection

ASKED = {"X-Datacomp": "explore"}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pool(tmp_path_factory.mktemp("explored") / "pool")


@pytest.fixture(scope="module")
def view(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> ExplorerApi:
    return ExplorerApi(explorer_of(pool, tmp_path_factory.mktemp("home")), tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def client(view: ExplorerApi) -> TestClient:
    return TestClient(make_app(view), base_url="http://127.0.0.1:4280", headers=ASKED)


def rows_of(pool: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file) for file in sorted((pool / "metadata").glob("*.parquet"))])


def judged(client: TestClient, facets: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    answer = client.post("/api/judge", json={"wanted": {"facets": facets}, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def mask_of(told: dict[str, Any]) -> list[bool]:
    bits = np.unpackbits(np.frombuffer(base64.b64decode(told["mask"]), np.uint8), bitorder="little")[:ROWS]
    return bits.astype(bool).tolist()


FACETS: list[tuple[list[dict[str, Any]], pl.Expr]] = [
    ([{"kind": "range", "column": "clip_l14_similarity_score", "at_least": 0.3}], pl.col("clip_l14_similarity_score") >= 0.3),
    (
        [{"kind": "range", "column": "clip_l14_similarity_score", "at_least": -0.5, "below": 0.5}],
        (pl.col("clip_l14_similarity_score") >= -0.5) & (pl.col("clip_l14_similarity_score") < 0.5),
    ),
    ([{"kind": "range", "column": "words", "at_least": 3, "below": 5}], pl.col("text").str.split(" ").list.len() == 3),
    ([{"kind": "range", "column": "nsfw", "below": 0.25}], pl.col("nsfw") < 0.25),
    (
        [{"kind": "range", "column": "aspect_ratio", "at_least": 1.5}],
        pl.col("original_width") / pl.col("original_height") >= 1.5,
    ),
    (
        [{"kind": "range", "column": "nsfw", "at_least": 0.5}, {"kind": "range", "column": "original_width", "below": 90}],
        (pl.col("nsfw") >= 0.5) & (pl.col("original_width") < 90),
    ),
    ([{"kind": "range", "column": "num_face_bboxes", "at_least": 1, "below": 3}], pl.col("face_bboxes").list.len().is_in([1, 2])),
    ([{"kind": "text", "contains": "RED square"}], pl.col("text").str.contains("red square")),
    ([{"kind": "method", "method": 0, "drop": True}], pl.col("clip_l14_similarity_score") <= 0.2),
]


@pytest.mark.parametrize(("facets", "expected"), FACETS)
def test_explore_facets_keep_what_polars_keeps(
    client: TestClient, pool: Path, facets: list[dict[str, Any]], expected: pl.Expr
) -> None:
    told = judged(client, facets)
    wanted = rows_of(pool).select(expected.fill_null(False)).to_series().to_list()
    if facets[0].get("column") == "words":
        wanted = [text is not None and 3 <= len(text.split()) < 5 for text in rows_of(pool)["text"]]
    assert mask_of(told) == wanted
    assert told["kept"] == sum(wanted)
    assert told["rows"] == told["pool"] == ROWS
    assert told["margin"] == 0


def test_explore_saves_a_recipe_that_keeps_what_was_counted(
    client: TestClient, view: ExplorerApi, pool: Path, tmp_path: Path
) -> None:
    wanted = {
        "base": {"kind": "top_fraction", "score": "l14", "fraction": 0.5},
        "facets": [
            {"kind": "range", "column": "words", "at_least": 3},
            {"kind": "clusters", "clusters": [0, 2]},
            {"kind": "method", "method": 0},
            {"kind": "text", "contains": "square"},
            {"kind": "range", "column": "num_face_bboxes", "at_least": 1},
        ],
    }
    told = client.post("/api/judge", json={"wanted": wanted}).json()
    assert told["only_looking"] == [3, 4]
    about = client.get("/api/about").json()
    assert [one["name"] for one in about["numbers"] if one["looking"]] == ["num_face_bboxes"]
    started = client.post("/api/count", json={"wanted": wanted}).json()
    view.judging.counted(started["key"]).done.wait(60)  # pyright: ignore[reportOptionalMemberAccess]
    counted = client.get(f"/api/count/{started['key']}").json()
    saved = client.post("/api/save", json={"name": "mine", "wanted": wanted})
    assert saved.status_code == 200, saved.text
    chosen = select(load_recipe(saved.json()["file"]), Folder(str(pool / "metadata")), out=Folder(str(tmp_path)), write="subset")
    assert counted["kept"] == chosen.num_samples > 0
    assert sorted(counted["dropped"].values()) == sorted(chosen.explanation.dropped.values())
    assert "for viewing only: text, num_face_bboxes" in saved.json()["text"]
    again = client.post("/api/save", json={"name": "mine", "wanted": wanted})
    assert again.status_code == 400
    assert "already exists" in again.json()["error"]
    for name in ("../mine", "a b", "", "x" * 90):
        assert client.post("/api/save", json={"name": name, "wanted": wanted}).status_code == 400
    assert sorted(file.name for file in view.out.iterdir()) == ["mine-centroids.npy", "mine-target.npy", "mine.yaml"]


def test_explore_tells_what_flips(client: TestClient, pool: Path) -> None:
    told = judged(client, [{"kind": "range", "column": "clip_l14_similarity_score", "at_least": 0.5}], against=0)
    scores = rows_of(pool)["clip_l14_similarity_score"]
    assert told["flips"] == {
        "gained": 0,
        "lost": int(((scores > 0.2) & (scores < 0.5)).sum()),
        "both": int((scores >= 0.5).sum()),
    }
    assert sum(judged(client, [], columns=["nsfw"])["numbers"]["nsfw"]) == ROWS


def test_explore_estimates_the_pool_from_a_smaller_sample(pool: Path, tmp_path: Path) -> None:
    small = ExplorerApi(explorer_of(pool, tmp_path / "home", 120), tmp_path)
    told = small.judge(_judge([{"kind": "range", "column": "nsfw", "below": 0.45}]))
    assert 80 < told["rows"] < 160
    assert abs(told["estimate"] - 150) <= 2 * told["margin"]
    key, under_way = small.judging.count(_judge([{"kind": "range", "column": "nsfw", "below": 0.45}]).wanted)
    assert under_way.done.wait(60)
    assert small.counted(key)["kept"] == 150


def _judge(facets: list[dict[str, Any]]) -> Any:
    from deployments.explore.explorer_api import FacetRequest

    return FacetRequest.model_validate({"wanted": {"facets": facets}})


def test_explore_searches_and_knows_pairs(client: TestClient, view: ExplorerApi, pool: Path) -> None:
    found = client.post("/api/search", json={"row": 7, "count": 40}).json()["cards"]
    vectors = view.explorer.sample.vectors("l14_img").astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = np.nan_to_num(unit @ unit[7], nan=-2)
    cosine[7] = -2
    np.testing.assert_allclose([one["score"] for one in found], np.sort(cosine)[::-1][:40], atol=2e-3)
    within = {"facets": [{"kind": "method", "method": 0}]}
    inside = client.post("/api/search", json={"row": 7, "count": 400, "within": within}).json()["cards"]
    assert {one["kept"][0] for one in inside} == {1}
    one = client.get("/api/pair/0").json()
    assert one["text"] == HOSTILE[0]
    assert one["columns"]["nsfw"] == 0.0
    assert one["picture"]["shard"] == "00000000"
    score = rows_of(pool)["clip_l14_similarity_score"][0]
    assert one["methods"][0]["times"] == int(score > 0.2)
    assert client.get(f"/api/pair/{ROWS - 1}").json()["picture"] is None
    refused = client.post("/api/search", json={"text": "a dog"})
    assert (refused.status_code, "is not available here" in refused.json()["error"]) == (400, True)
    assert client.post("/api/search", json={"row": ROWS - 1}).status_code == 400
    assert client.get(f"/api/pair/{ROWS}").status_code == 400
    assert len(rows_of(pool)) == ROWS


def test_explore_pictures_are_decoded_and_written_again(client: TestClient, view: ExplorerApi) -> None:
    answer = client.get("/api/picture/128/0")
    assert answer.headers["content-type"] == "image/webp"
    assert answer.content[:4] == b"RIFF"
    odd = client.get("/api/picture/128/3")
    assert (odd.status_code, odd.content, odd.headers["x-why"]) == (204, b"", "cannot decode the picture")
    assert "never downloaded" in client.get(f"/api/picture/128/{ROWS - 1}").headers["x-why"]
    assert client.get("/api/picture/77/0").status_code == 204
    assert len(list((view.explorer.home / "pictures" / "small").rglob("*.webp"))) == 1
    told = client.get("/api/about").json()
    assert told["nsfw"] == "nsfw"
    assert not told["harmless"]
    assert told["on_map"] == ROWS - LOST


def test_explore_notes_takedown_requests_once(client: TestClient, view: ExplorerApi, pool: Path) -> None:
    assert client.post("/api/takedown", json={"rows": [4, 2, 4]}).json()["added"] == 2
    told = client.post("/api/takedown", json={"rows": [2, 5]}).json()
    assert (told["added"], told["all"]) == (1, 3)
    uids = rows_of(pool)["uid"].to_list()
    file = view.out / "takedown-requests.txt"
    assert file.read_text().split() == [uids[4], uids[2], uids[5]]
    file.unlink()
    assert client.post("/api/takedown", json={"rows": [ROWS]}).status_code == 400
    assert not file.exists()


def test_explore_refuses_other_sites_and_odd_questions(client: TestClient) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    assert client.post("/api/takedown", json={"rows": [1]}, headers={"X-Datacomp": ""}).status_code == 403
    for body in (b"", b"[]", b"{", b'{"wanted": {"facets": [{"kind": "range"}]}}', b'{"wanted": {}, "more": 1}'):
        answer = client.post("/api/judge", content=body)
        assert answer.status_code == 400
        assert "Traceback" not in answer.text
    unknown = client.post("/api/judge", json={"wanted": {"base": {"kind": "no such filter"}}})
    assert unknown.status_code == 400
    assert "no such filter" in unknown.json()["error"]
    assert client.post("/api/judge", content=b"x" * (2 << 20)).status_code == 413
    for path in ("/../app.py", "/app.py", "/api/column/uid", "/api/count/nothing", "/api/cards?rows=a"):
        assert client.get(path).status_code in (400, 404), path
    for path in ("/", "/explore.js", "/look.css", "/api/about"):
        headers = client.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    page = client.get("/").text
    assert "<script>" not in page
    assert "http://" not in page
    assert "https://" not in page


@pytest.mark.parametrize("pictures", ["bytes", "references", "none"])
def test_explore_exports_all_that_is_known(view: ExplorerApi, pool: Path, tmp_path: Path, pictures: str) -> None:
    made = write_export(
        view.explorer, str(tmp_path / "all.parquet"), only="", pictures=pictures, form="parquet", progress=NoProgress()
    )
    table, rows = pl.read_parquet(tmp_path / "all.parquet"), rows_of(pool)
    plain = rows.drop("face_bboxes")
    assert table.select(plain.columns).equals(plain)
    assert table["num_face_bboxes"].to_list() == rows["face_bboxes"].list.len().to_list()
    scores = rows["clip_l14_similarity_score"]
    assert table["kept_kept"].to_list() == (scores > 0.2).to_list()
    assert set(table["times_twice"]) == {0, 2}
    assert table["cluster"].null_count() == table["x"].null_count() == LOST
    assert made["rows"] == ROWS
    assert "no filter on record" in made["reasons_not_known"][0]
    if pictures == "references":
        place = table.row(10, named=True)
        data = (pool / "shards" / place["shard"]).read_bytes()[place["offset"] : place["offset"] + place["length"]]
        assert place["key"].encode() in data
        assert made["without_picture"] == LOST
    if pictures == "bytes":
        image = Image.open(io.BytesIO(table["image"][10]["bytes"]))
        assert image.size == (74, 64)
        assert table["image"][-1] is None


def test_a_pools_own_columns_may_have_the_names_of_ours(tmp_path: Path) -> None:
    """Those of LAION and img2dataset do (`LANGUAGE`, `key`): both stay, and filters read the pool's own."""
    own = {name: f"own {name}" for name in ("part", "row", "language", "x", "cluster", "kept_kept", "image", "key", "captions")}
    folder = make_pool(tmp_path / "pool")
    for file in (folder / "metadata").glob("*.parquet"):
        table = pl.read_parquet(file).with_columns(words=7.0, num_face_bboxes=9, **{k: pl.lit(v) for k, v in own.items()})
        table.write_parquet(file)
    explorer = explorer_of(folder, tmp_path / "home")
    plain = explorer_of(make_pool(tmp_path / "plain"), tmp_path / "other")
    for pictures in ("bytes", "references"):
        tables = list[pl.DataFrame]()
        for place, one in (("own", explorer), ("plain", plain)):
            file = tmp_path / f"{place}-{pictures}.parquet"
            write_export(one, str(file), only="", pictures=pictures, form="parquet", progress=NoProgress())
            tables.append(pl.read_parquet(file))
        assert set(tables[0]["num_face_bboxes"]) == {9}
        assert set(tables[0]["pool_words"]) == {7.0}
        assert all(set(tables[0][f"pool_{name}"]) == {value} for name, value in own.items())
        shared = [name for name in tables[1].columns if name not in ("num_face_bboxes", "tars")]
        assert tables[0].select(shared).equals(tables[1].select(shared))
    judged = explorer.sample.pool_rows
    assert set(judged["words"]) == {7.0}
    assert set(judged["part"]) == {"own part"}
    assert "aspect_ratio" not in judged.columns


def test_explore_exports_a_data_set_folder(view: ExplorerApi, tmp_path: Path) -> None:
    out = str(tmp_path / "set")
    write_export(view.explorer, out, only="kept", pictures="bytes", form="huggingface", progress=NoProgress())
    [file] = (tmp_path / "set" / "data").iterdir()
    schema = pq.read_schema(file)
    told = json.loads(schema.metadata[b"huggingface"])
    assert (
        str(schema.field("image").type) == "struct<bytes: binary, path: string>"
    )  # as `datasets` writes an Image, or it is none
    assert told["info"]["features"]["image"] == {"_type": "Image"}
    assert told["info"]["features"]["uid"]["_type"] == "Value"
    assert all(pl.read_parquet(file)["kept_kept"])
    assert "data/*.parquet" in (tmp_path / "set" / "README.md").read_text()
    with pytest.raises(SpecError, match="already contains files"):
        write_export(view.explorer, out, only="kept", pictures="none", form="huggingface", progress=NoProgress())
    for odd in ({"only": "nobody"}, {"pictures": "all"}, {"form": "csv"}):
        given: Any = {"only": "", "pictures": "none", "form": "parquet", **odd}
        with pytest.raises(SpecError, match=r"nobody|all|csv"):
            write_export(view.explorer, str(tmp_path / "x.parquet"), progress=NoProgress(), **given)


def test_the_index_of_the_whole_pool_is_asked_by_pictures_and_refuses_what_it_does_not_have(pool: Path, tmp_path: Path) -> None:
    explorer = explorer_of(pool, tmp_path / "home")
    sample = explorer.sample.vectors("l14_img")
    pool_index.build(explorer.origin.source, "l14_img", sample, explorer.whole_folder)
    view = ExplorerApi(explorer, tmp_path)
    query = np.asarray(sample[7], np.float32)
    vectors = np.nan_to_num(np.asarray(sample, np.float32))
    cosine = vectors @ query / np.maximum(np.linalg.norm(vectors, axis=1), 1e-9)
    found = view.found(query, SearchRequest(scope="pool", count=5), None)["places"]
    assert {one["uid"] for one in found} <= set(rows_of(pool)["uid"].gather(np.argsort(-cosine)[:9]).to_list())
    assert found[0]["uid"] == rows_of(pool)["uid"][7]
    for asked in (SearchRequest(scope="pool", side="txt"), SearchRequest(scope="pool", within=FacetSelection())):
        with pytest.raises(SpecError, match="has pictures only"):
            view.found(query, asked, None)
