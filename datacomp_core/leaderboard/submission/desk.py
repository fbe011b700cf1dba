"""Where bundles arrive: each is kept with its verdict, whatever that is, and what holds goes on the board.

`submissions/<id>/bundle.tar` and `verdict.json`; the id is the first digits of the bundle's sha256, so that sending one twice
is sending it once. The board is an ordinary store of entries.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from datacomp_core.errors import DatacompError
from datacomp_core.leaderboard.rules import Check
from datacomp_core.leaderboard.submission.verify import Reevaluate, Verified, verify
from datacomp_core.store import Folder, Store
from datacomp_core.store.folder import scratch
from datacomp_core.store.record import MANIFEST, RECORD, now

ID_DIGITS = 16
BUNDLE, VERDICT = "bundle.tar", "verdict.json"


class TooLargeError(DatacompError):
    """A bundle is larger than this desk takes."""


class Submission(BaseModel):
    """One bundle that was received, and what came of it."""

    model_config = ConfigDict(frozen=True)
    id: str
    sha256: str
    num_bytes: int
    sender: str
    received: str
    status: Literal["published", "rejected"]
    method: str = ""
    scale: str = ""
    address: str = ""
    findings: list[Check]


class Desk:
    """Receives into `folder`, publishes into the store below it. One bundle is checked at a time."""

    def __init__(self, folder: Path, *, max_bytes: int, pool: Folder | None = None, reevaluate: Reevaluate | None = None) -> None:
        self.folder, self.max_bytes, self.pool, self.reevaluate = folder, max_bytes, pool, reevaluate
        (folder / "submissions").mkdir(parents=True, exist_ok=True)
        (folder / "incoming").mkdir(exist_ok=True)
        for left in (folder / "incoming").iterdir():
            left.unlink()  # of a server that was ended while it received
        self.board = Store.open(str(folder / "board"))
        self._one = threading.Lock()

    async def receive(self, chunks: AsyncIterator[bytes]) -> tuple[Path, str]:
        """Write what arrives to a file of its own: its path and sha256. TooLargeError as soon as it is too much."""
        target, found, size = self.folder / "incoming" / uuid.uuid4().hex, hashlib.sha256(), 0
        try:
            with target.open("xb") as file:
                async for data in chunks:
                    size += len(data)
                    if size > self.max_bytes:
                        raise TooLargeError(f"A bundle may have {self.max_bytes:,} bytes here: leave the checkpoint out.")
                    found.update(data)
                    file.write(data)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return target, found.hexdigest()

    def judge(self, received: Path, sha256: str, sender: str) -> Submission:
        """Check a received bundle, keep it, and publish it if nothing is broken. Sent before: the verdict of then."""
        with self._one:
            known = self.submission(sha256[:ID_DIGITS])
            if known is not None:
                received.unlink()
                return known
            with scratch() as folder:
                found = verify(received, folder, pool=self.pool, reevaluate=self.reevaluate, known_only=True)
                if found.ok:
                    self._publish(found)
            return self._keep(received, sha256, sender, found)

    def _publish(self, found: Verified) -> None:
        """The entry's record and files go into the board's store, data first, record last."""
        assert found.records is not None
        record = found.records.record(found.address)
        assert record is not None
        source, target = found.records.root / str(record.artifact["data"]), self.board.root / str(record.artifact["data"])
        for name in source.files():
            target.write(name, source.read(name))
        home = self.board.home(found.address)
        home.write(MANIFEST, found.records.home(found.address).read(MANIFEST))
        home.create(RECORD, found.records.home(found.address).read(RECORD))

    def _keep(self, received: Path, sha256: str, sender: str, found: Verified) -> Submission:
        entry = found.entry
        made = Submission(
            id=sha256[:ID_DIGITS],
            sha256=sha256,
            num_bytes=received.stat().st_size,
            sender=sender,
            received=now(),
            status="published" if found.ok else "rejected",
            method=entry.method if entry else "",
            scale=entry.scale if entry else "",
            address=found.address,
            findings=found.findings,
        )
        home = self.folder / "submissions" / made.id
        home.mkdir(exist_ok=True)
        os.replace(received, home / BUNDLE)
        Folder(home).write(VERDICT, made.model_dump_json(indent=1).encode())
        return made

    def submission(self, id_: str) -> Submission | None:
        """What came of a bundle, by its id; None if there is none."""
        file = self.folder / "submissions" / id_ / VERDICT
        if len(id_) != ID_DIGITS or not id_.isalnum() or not file.exists():
            return None
        return Submission.model_validate(json.loads(file.read_bytes()))

    def submissions(self) -> list[Submission]:
        """All that were received, oldest first."""
        found = [self.submission(path.name) for path in (self.folder / "submissions").iterdir()]
        return sorted((made for made in found if made is not None), key=lambda made: made.received)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.folder).free
