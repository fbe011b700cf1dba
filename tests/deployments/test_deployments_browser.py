"""What a person does in Prefect's UI, in a real browser against a real server and worker, at a laptop's width.

Find `experiment-tiny`, fill in a nested filter or a list of uids, run it, open the report through the link of an artifact, see a
refused run, cancel a run. With DATACOMP_SCREENSHOTS=FOLDER it leaves the pictures of docs/.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from browser import NEEDS_BROWSER, Page, chromium
from client import Api
from local_ui import PATIENCE, LocalUi, local_ui, open_form, submitted
from processes import processes_with
from stack import wait_for

SCREENSHOTS = os.environ.get("DATACOMP_SCREENSHOTS", "")  # read before a test has its settings taken away
LAPTOP = 1280
NESTED = (
    "name: long and near\nfilter:\n  kind: all\n  filters:\n    - kind: words\n      at_least: 5\n    - kind: not\n"
    "      filter: {kind: language, language: de}\n    - kind: top_fraction\n      score: tiny\n      fraction: 0.3\n"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    NEEDS_BROWSER,
]


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalUi]:
    with local_ui(tmp_path_factory.mktemp("laptop")) as made:
        yield made


@pytest.fixture(scope="module")
def server(ui: LocalUi) -> str:
    """The address of the page."""
    return ui.server


@pytest.fixture(scope="module")
def api(server: str) -> Api:
    return Api(f"{server}/api", "")


@pytest.fixture
def page(server: str, tmp_path: Path) -> Iterator[Page]:
    with chromium(tmp_path / "browser") as opened:
        opened.width(LAPTOP)
        yield opened


def keep(page: Page, name: str) -> None:
    """A picture for docs, where one was asked for."""
    if SCREENSHOTS:
        page.screenshot(Path(SCREENSHOTS) / name)


def test_a_nested_filter_from_the_form_to_the_report(page: Page, server: str, api: Api) -> None:
    open_form(page, server, "experiment-tiny", "Your own")
    assert page.do("document.documentElement.scrollWidth") <= LAPTOP
    page.click("Your own")
    page.write("[role=tabpanel] textarea", NESTED)
    keep(page, "ui-form.png")
    run = submitted(page, api)
    ended = api.wait(run, PATIENCE)
    assert ended["state"]["type"] == "COMPLETED", ended["state"]
    assert ended["name"] == "tiny-long and near-seed0"
    pictures = [one for one in api.artifacts(run) if one["type"] == "image"]
    assert pictures
    assert all(one["data"].startswith("/report/pictures/") for one in pictures)
    [link] = [one for one in api.artifacts(run) if one["key"] == "leaderboard-page-tiny"]
    page.visit(f"{server}/v2/artifacts/artifact/{link['id']}")
    page.click("Report page of tiny")
    page.until("location.pathname === '/report/tiny.html'", "the report")
    page.until("document.body.innerText.includes('long and near')", "the method on the report")
    [contact] = [one for one in pictures if one["key"].endswith("-contact")]
    page.visit(f"{server}/v2/artifacts/artifact/{contact['id']}")
    page.until("[...document.images].some((one) => one.complete && one.naturalWidth > 300)", "the picture")
    keep(page, "ui-contact.png")
    [lineage] = [one for one in api.artifacts(run) if one["key"].startswith("lineage-")]
    page.visit(f"{server}/v2/artifacts/artifact/{lineage['id']}")
    page.until("document.body.innerText.includes('read by')", "what was made of what")
    edges = "[...document.querySelectorAll('table')].map((one) => one.getBoundingClientRect().right)"
    run_link = "[...document.querySelectorAll('a')].find((one) => one.innerText.trim() === 'tiny-long and near-seed0')"
    beside = f"{run_link}.getBoundingClientRect().left"
    assert page.do(f"Math.max(...{edges})") <= page.do(beside), "the table runs over what stands beside it"
    keep(page, "ui-lineage.png")
    page.visit(f"{server}/v2/runs/flow-run/{run}")
    page.until("document.body.innerText.includes('Completed')", "the run's page")
    page.until("document.querySelectorAll('canvas').length > 0 && !document.querySelector('.animate-pulse')", "the graph")
    time.sleep(2)  # it is drawn by WebGL, which says nothing when it is done
    keep(page, "ui-run.png")
    assert not [url for url in page.requests if not url.startswith((server, "data:", "blob:"))], "the page asked another host"


def test_a_list_of_uids_from_the_form_to_the_report(page: Page, ui: LocalUi, api: Api, tmp_path: Path) -> None:
    pool = api.wait(api.start("prepare-pool/prepare-pool-tiny"), PATIENCE)
    assert pool["state"]["type"] == "COMPLETED", pool["state"]
    files = (ui.home / "store/pools/tiny").rglob("metadata/*.parquet")
    listed = sorted(one for file in files for one in pl.read_parquet(file)["uid"])[::2]
    wanted = np.array([(int(one[:16], 16), int(one[16:], 16)) for one in listed], "u8,u8")
    np.save(tmp_path / "my.npy", wanted[::-1])
    open_form(page, ui.server, "experiment-tiny", "Your own")
    page.click("Your own")
    page.write("[role=tabpanel] textarea", f"listed:uids={tmp_path}/my.npy")
    ended = api.wait(submitted(page, api), PATIENCE)
    assert ended["state"]["type"] == "COMPLETED", ended["state"]
    subsets = [np.load(file) for file in (ui.home / "store/subsets").rglob("subset.npy")]
    assert any(np.array_equal(one, wanted) for one in subsets)
    page.visit(f"{ui.server}/report/tiny.html")
    page.until("document.body.innerText.includes('listed')", "the list on the report")


def test_a_refused_run_says_why_in_one_sentence(page: Page, server: str, api: Api) -> None:
    open_form(page, server, "experiment-tiny", "Your own")
    page.click("Your own")
    page.write("[role=tabpanel] textarea", "no_filtr")
    run = submitted(page, api)
    ended = wait_for(lambda: (found := api.run(run))["state"]["name"] == "Refused" and found, 300, "the refusal")
    assert ended["name"] == "tiny-no_filtr-seed0"
    assert ended["state"]["message"].startswith("Refused: Unknown recipe 'no_filtr'. Did you mean 'no_filter'?")
    page.visit(f"{server}/v2/runs/flow-run/{run}")
    page.until("document.body.innerText.includes('Did you mean')", "the sentence on the run's page")
    assert "Traceback" not in page.text()


def test_a_cancelled_run_is_cancelled_with_every_step(page: Page, server: str, api: Api) -> None:
    form = api.form("experiment/experiment-tiny")["parameters"]
    run = api.start("experiment/experiment-tiny", {"spec": {**form["spec"], "seed": 7}})
    mark = f"PREFECT__FLOW_RUN_ID={run}"
    wait_for(lambda: any("training.worker" in line for line in processes_with(mark)), PATIENCE, "the training")
    page.visit(f"{server}/v2/runs/flow-run/{run}")
    page.until("document.body.innerText.includes('Running')", "the run's page")
    page.do("document.querySelector('button[aria-haspopup=menu]').focus()")
    for key in ("rawKeyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=key, key="Enter", code="Enter", windowsVirtualKeyCode=13)
    page.click("Cancel")
    page.click("Cancel Flow Run")
    ended = api.wait(run, 300)
    assert ended["state"]["type"] == "CANCELLED"

    def states() -> set[Any]:
        return {task["state"]["type"] for task in api.tasks(run)}

    wait_for(lambda: states() <= {"COMPLETED", "CANCELLED"}, 300, "every step as completed or cancelled")
