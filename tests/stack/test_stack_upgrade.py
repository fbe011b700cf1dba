"""From the last release to this one, as docs/operations.md says it: its database is migrated, and its store, which is of an
earlier format, is refused in one sentence; with another prefix (`STORE_PREFIX`) runs go on beside it.
"""

from __future__ import annotations

from dataclasses import replace

from client import Api
from docker_engine import MARKS, PATIENCE, ROOT, Engine, of_last_release
from stack import SECRETS

pytestmark = MARKS


def test_runs_of_the_last_release_are_there_after_an_upgrade_and_runs_go_on_beside_its_store(docker: Engine) -> None:
    old = of_last_release(docker)
    ours = replace(old, folder=ROOT, options=old.options[:2])
    api = Api(f"http://127.0.0.1:{old.environment['UI_PORT']}/api", SECRETS["PREFECT_AUTH"])
    try:
        old.start()
        run = api.start("experiment/tiny")
        assert api.wait(run, PATIENCE)["state"]["type"] == "COMPLETED", old.compose("logs", "--tail", "60")
        old.compose("stop", "worker-cpu")
        ours.start()
        assert api.run(run)["state"]["type"] == "COMPLETED"
        again = api.start("experiment/experiment-tiny")
        ended = api.wait(again, PATIENCE)
        assert ended["state"]["type"] != "COMPLETED"
        assert "was filled by an earlier version" in ended["state"]["message"]  # its addresses contain the names of filters
        beside = replace(ours, environment=ours.environment | {"STORE_PREFIX": "store2"})
        beside.start()
        fresh = api.wait(api.start("experiment/experiment-tiny"), PATIENCE)
        assert fresh["state"]["type"] == "COMPLETED", ours.compose("logs", "--tail", "60")
    finally:
        ours.compose("down", "--volumes")
