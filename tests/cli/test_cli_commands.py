"""The command line as a person uses it: in a process of its own, on real data, with real exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from datacomp_core import uid
from datacomp_core.artifacts import Pool
from datacomp_core.pool.tiny import TinyPoolSpec, build_tiny_pool
from datacomp_core.settings import settings
from datacomp_core.store import Store
from deployments.cli.main import main

COMMANDS = (
    "run",
    "plan",
    "search",
    "demo",
    "pool",
    "embed",
    "cluster",
    "filter",
    "subset",
    "reshard",
    "train",
    "evaluate",
    "leaderboard",
    "report",
    "show",
    "compare",
    "replay",
    "gc",
    "bundle",
    "verify",
    "submit",
    "deploy",
    "ui",
)


@dataclass
class Told:
    """What a person saw, and the exit status."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Told]


@pytest.fixture
def datacomp(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """The command with its own main, in this process: a new process costs seconds of imports each time."""

    def call(*arguments: str, **environment: str) -> Told:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["datacomp", *arguments])
        settings.cache_clear()
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        for stream in (sys.stdout, sys.__stdout__):  # a console that was made in an earlier test may have the other one
            if stream is not None:
                stream.flush()
        return Told(int(str(ended.value.code)), *capfd.readouterr())

    return call


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Pool]:
    store = Store.open(str(tmp_path_factory.mktemp("store")))
    return store, build_tiny_pool(TinyPoolSpec(num_pairs=300, num_parts=3), store=store)


def test_help_lists_every_command_and_each_has_an_example(datacomp: Command) -> None:
    listed = datacomp("--help").stdout
    for command in COMMANDS:
        assert command in listed
        told = datacomp(command, "--help")
        assert told.returncode == 0
        assert "Example" in told.stdout or command in ("demo", "ui"), command


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("plan", "-r", "no_filtr"), "Unknown recipe 'no_filtr'. Did you mean 'no_filter'? Known: "),
        (("plan", "--scale", "smal"), "Unknown scale 'smal'. Did you mean 'small'? Known: "),
        (("plan", "-r", "clip_score:frction=0.2"), "frction"),
        (("filter", "-r", "missing.yaml"), "missing.yaml"),
        (("search",), "give the YAML file of a search"),
        (("search", "missing.yaml"), "missing.yaml"),
        (("search", "searches/tiny/none--0123456789ab"), "There is no search at 'searches/tiny/none--0123456789ab'"),
        (("filter", "--metadata", "somewhere"), "--out"),
        (("reshard", "--shards", "somewhere"), "--subset"),
        (("evaluate", "--model", "ViT-B-32"), "--data"),
        (("plan", "--seed", "-1"), "greater than or equal to 0"),
        (("deploy",), "PREFECT_API_URL is not set"),
        (("plan", "--nonsense"), "No such option"),
    ],
)
def test_a_wrong_request_is_one_sentence_and_status_2(
    datacomp: Command, arguments: tuple[str, ...], sentence: str, tmp_path: Path
) -> None:
    told = datacomp(*arguments)
    assert told.returncode == 2, told.stderr
    assert sentence in told.stderr
    assert "Traceback" not in told.stderr
    assert told.stdout == ""


def test_what_is_not_there_is_one_sentence_and_status_1(datacomp: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for arguments, environment, sentence in (
        (("filter", "--metadata", str(tmp_path / "none"), "--explain"), {}, "has no metadata"),
        (("plan",), {"DATACOMP_STORE": str(tmp_path / "file" / "store")}, "Cannot use"),
        (("plan",), {"DATACOMP_STORE": "nonsense://bucket"}, "Cannot open nonsense://bucket"),
        (
            ("reshard", "--shards", str(tmp_path / "none"), "--subset", str(tmp_path / "file"), "--out", str(tmp_path / "o")),
            {},
            "error: ",
        ),
    ):
        told = datacomp(*arguments, **environment)
        assert told.returncode == 1, (arguments, told.stderr)
        assert sentence in told.stderr
        assert "Traceback" not in told.stderr


def test_a_wrong_setting_is_named(datacomp: Command) -> None:
    told = datacomp("plan", DATACOMP_WORKERS="many")
    assert told.returncode == 2
    assert "DATACOMP_WORKERS" in told.stderr


def test_a_port_in_use_is_one_sentence(datacomp: Command) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = datacomp("ui", "--port", str(port))
    assert told.returncode == 1
    assert told.stderr.startswith(f"error: Port {port} on 127.0.0.1 is in use")


def test_plan_as_json_names_every_step_and_builds_none(datacomp: Command, tmp_path: Path) -> None:
    told = datacomp("plan", "-r", "no_filter", "-r", "clip_score_tiny", "-s", "0", "-s", "1", "--json")
    steps = json.loads(told.stdout)["steps"]
    kinds = [step["kind"] for step in steps]
    # Shared: pool, images, trusted, scorer, embeddings, test sets. For each recipe: subset, shards. For each run: 3 more.
    assert len(steps) == 6 + 2 * 2 + 4 * 3
    assert (kinds.count("subsets"), kinds.count("checkpoints"), kinds.count("entries")) == (2, 5, 4)
    assert not any(step["built"] for step in steps)
    assert not (tmp_path / "home" / "store" / "pools").exists()


def test_filter_on_a_plain_folder_writes_the_subset_file(
    datacomp: Command, small_store: tuple[Store, Pool], tmp_path: Path
) -> None:
    store, pool = small_store
    metadata = store.folder(pool).path / "metadata"
    out = tmp_path / "subset.npy"
    told = datacomp("filter", "--metadata", str(metadata), "--recipe", "no_filter", "--out", str(out), "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["num_samples"] == 300
    every = pl.read_parquet(metadata / "*.parquet")["uid"]
    expected = np.sort(np.array([(int(u[:16], 16), int(u[16:], 16)) for u in every], uid.DTYPE))
    assert np.array_equal(np.load(out), expected)


def test_explain_writes_nothing_and_accounts_for_every_row(
    datacomp: Command, small_store: tuple[Store, Pool], tmp_path: Path
) -> None:
    store, pool = small_store
    metadata = store.folder(pool).path / "metadata"
    told = datacomp("filter", "--metadata", str(metadata), "--recipe", "basic_tiny", "--explain", "--json")
    account = json.loads(told.stdout)
    assert account["kept"] + sum(account["dropped"].values()) == account["rows"] == 300
    assert sorted(path.name for path in metadata.parent.iterdir()) == ["metadata", "origin.parquet", "truth.parquet"]


def test_show_walks_to_the_pool(datacomp: Command, small_store: tuple[Store, Pool]) -> None:
    store, pool = small_store
    told = datacomp("show", pool.fingerprint[:10], "--json", DATACOMP_STORE=store.root.url)
    assert json.loads(told.stdout)["record"]["address"] == pool.address
    missing = datacomp("show", "ffffffffffff", DATACOMP_STORE=store.root.url)
    assert missing.returncode == 2
    assert "ffffffffffff" in missing.stderr


def test_an_empty_board_says_so(datacomp: Command, tmp_path: Path) -> None:
    told = datacomp("leaderboard")
    assert told.returncode == 0
    assert "No result yet" in told.stdout
    page = datacomp("report", "--json")
    assert Path(json.loads(page.stdout)["page"]).is_file()


def test_the_installed_command_tells_errors_and_status_like_its_main(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("datacomp")), "filter", "--metadata", str(tmp_path / "none"), "--explain"]
    told = subprocess.run(command, capture_output=True, text=True)
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in told.stderr


def test_a_wrong_field_is_named_as_the_option_that_the_user_gave(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["datacomp", "pool", "adopt", str(tmp_path), "--name", "x", "--of", "banana"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "error: --of: Unknown pool 'banana'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "plan", "filter", "embed", "reshard", "train", "evaluate"])
def test_every_step_takes_a_pool_by_its_address(datacomp: Command, command: str) -> None:
    told = datacomp(command, "--pool", "pools/byod/mine--000000000000")
    assert (told.returncode, "Traceback" in told.stderr) == (2, False), told.stderr
    assert "has nothing of kind pools at 'pools/byod/mine--000000000000'" in told.stderr
