"""From an earlier release to this one, as docs/operations.md says it: its database is migrated, and results in a store of our
format are reused. A store of an earlier format is refused in one sentence; with another prefix (`STORE_PREFIX`) runs go on
beside it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

from client import Api
from docker_engine import EARLIER_FORMAT, LAST_RELEASE, MARKS, PATIENCE, ROOT, Engine, of_release
from stack import SECRETS
from test_stack_compose import reused_again

pytestmark = MARKS


@contextmanager
def upgraded(docker: Engine, release: str, deployment: str) -> Generator[tuple[Engine, Api, str]]:
    """Our stack over the volumes of a release, on which a deployment was run to its end; and that run."""
    old = of_release(docker, release)
    ours = replace(old, folder=ROOT, options=old.options[:2])
    api = Api(f"http://127.0.0.1:{old.environment['UI_PORT']}/api", SECRETS["PREFECT_AUTH"])
    try:
        old.start()
        run = api.start(deployment)
        assert api.wait(run, PATIENCE)["state"]["type"] == "COMPLETED", old.compose("logs", "--tail", "60")
        old.compose("stop", "worker-cpu")
        ours.start()
        assert api.run(run)["state"]["type"] == "COMPLETED"
        yield ours, api, run
    finally:
        ours.compose("down", "--volumes")


def test_runs_and_results_of_the_last_release_are_there_after_an_upgrade(docker: Engine) -> None:
    with upgraded(docker, LAST_RELEASE, "experiment/experiment-tiny") as (_, api, run):
        reused_again(api, run)


def test_runs_go_on_beside_a_store_of_an_earlier_format(docker: Engine) -> None:
    with upgraded(docker, EARLIER_FORMAT, "curate/tiny") as (ours, api, _):
        refused = api.wait(api.start("curate/curate-tiny"), PATIENCE)
        assert refused["state"]["type"] != "COMPLETED"
        assert "was filled by an earlier version" in refused["state"]["message"]  # its addresses contain the names of filters
        beside = replace(ours, environment=ours.environment | {"STORE_PREFIX": "store2"})
        beside.start()
        fresh = api.wait(api.start("curate/curate-tiny"), PATIENCE)
        assert fresh["state"]["type"] == "COMPLETED", ours.compose("logs", "--tail", "60")
