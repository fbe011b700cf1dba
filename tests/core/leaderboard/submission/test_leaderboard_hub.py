"""Uploading a bundle, against a server that speaks the hub's API."""

from __future__ import annotations

import tarfile
from pathlib import Path

import board_world as world
import pytest
import upload_hub

from datacomp_core.errors import DataError, SpecError, StoreError
from datacomp_core.leaderboard.submission.bundle import write_bundle
from datacomp_core.leaderboard.submission.hub import upload
from datacomp_core.store import Store


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    store = Store.open(str(folder / "store"))
    entry = world.true_run(store, "clip_score", world.results(0.14, 0))
    write_bundle(store, entry.address, folder / "good.tar", checkpoint=True)
    return folder / "good.tar"


@pytest.fixture(autouse=True)
def plain_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


def test_every_file_arrives_where_the_original_put_it(bundle: Path) -> None:
    with upload_hub.hub() as hub:
        commit = upload(bundle, "me/my-results", token=upload_hub.TOKEN, endpoint=hub.url)
    assert commit == f"{hub.url}/me/my-results/commit/{'1' * 40}"
    assert hub.repos == {"me/my-results"}
    assert hub.objects, "larger files went through LFS"
    with tarfile.open(bundle) as archive:
        for member in archive.getmembers():
            if member.name != "MANIFEST.json":
                packed = archive.extractfile(member)
                assert packed is not None
                assert hub.files[f"tiny_scale/{member.name}"] == packed.read()
    assert {"tiny_scale/results.jsonl", "tiny_scale/checkpoint.pt", "tiny_scale/samples/subset.npy"} < hub.files.keys()


def test_what_cannot_be_uploaded_is_one_sentence(bundle: Path, tmp_path: Path) -> None:
    with upload_hub.hub() as hub:
        with pytest.raises(StoreError, match="The hub refused me/mine"):
            upload(bundle, "me/mine", token="hf_bad", endpoint=hub.url)
        with pytest.raises(SpecError, match="owner/name"):
            upload(bundle, "mine", token=upload_hub.TOKEN, endpoint=hub.url)
        (tmp_path / "cut.tar").write_bytes(bundle.read_bytes()[:5000])
        with pytest.raises(DataError):
            upload(tmp_path / "cut.tar", "me/mine", token=upload_hub.TOKEN, endpoint=hub.url)
        assert hub.files == {}
    with pytest.raises(StoreError, match="Cannot reach the hub"):
        upload(bundle, "me/mine", token=upload_hub.TOKEN, endpoint="http://127.0.0.1:9")
