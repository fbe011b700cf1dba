"""Checks that an event sent to the Prefect server is stored: heartbeats and automations depend on it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from uuid import uuid4

from prefect.client.orchestration import SyncPrefectClient

from datacomp_core.errors import DatacompError

CHECKED = "datacomp.events.checked"
PATIENCE_SECONDS = 60
LETTERS = "Ä 漢 🌿"
"""A database that cannot store letters outside ASCII loses every event that contains one, and its whole batch."""


class EventsLostError(DatacompError):
    """The server accepts events and does not store them."""


def require_events(client: SyncPrefectClient, patience: float = PATIENCE_SECONDS) -> None:
    """Send an event and wait until the server has it. EventsLostError if it does not come back."""
    id_ = str(uuid4())
    event = {
        "id": id_,
        "event": CHECKED,
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": "datacomp.setup", "prefect.resource.name": LETTERS},
        "payload": {"letters": LETTERS},
    }
    client.request("POST", "/events", json=[event])
    until = time.monotonic() + patience
    while not _there(client, id_):
        if time.monotonic() > until:
            raise EventsLostError(
                f"The Prefect server at {client.api_url} accepted an event and did not store it within {patience:.0f} s, so "
                "lost runs would stay Running and trainings would not be evaluated: read the server's log, and check that its "
                "database has the encoding UTF8 (SHOW server_encoding)."
            )
        time.sleep(0.2)


def _there(client: SyncPrefectClient, id_: str) -> bool:
    answer = client.request("POST", "/events/filter", json={"filter": {"id": {"id": [id_]}}, "limit": 1}).json()
    return any(event["id"] == id_ and event["payload"] == {"letters": LETTERS} for event in answer["events"])
