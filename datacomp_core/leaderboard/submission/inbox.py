"""Receives bundles: keeps each with its verdict, and puts the valid ones on the board.

`submissions/<id>/bundle.tar` and `verdict.json`; the id comes from the sender's name and the bundle's sha256, so that sending
one twice is sending it once, and nobody gets the verdict on another's submission as their own. What is published is the entry
as it was made again from the bundle's evidence. Nothing that was published is ever written over: another attempt at an
experiment has a row and an address of its own. `decisions.jsonl` has a line for each decision. One process serves
an inbox.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import threading
import uuid
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from datacomp_core.artifacts import BoardEntry
from datacomp_core.errors import DatacompError, DataError, StoreError
from datacomp_core.leaderboard.entries.entry import ENTRY, Entry, SubmissionInfo, read
from datacomp_core.leaderboard.entries.per_image_scores import HITS
from datacomp_core.leaderboard.entries.rules import RuleCheck
from datacomp_core.leaderboard.submission import signature
from datacomp_core.leaderboard.submission.bundle import LIST, SIGNATURE
from datacomp_core.leaderboard.submission.isolated_check import CheckLimits, verify_apart
from datacomp_core.leaderboard.submission.verify import Reevaluate, VerificationResult
from datacomp_core.store import Folder, Store
from datacomp_core.store.folder import FileStat
from datacomp_core.store.record import Record, now, outputs_of

log = logging.getLogger(__name__)
ID_DIGITS = 16
BUNDLE, VERDICT, DECISIONS, WITHDRAWN = "bundle.tar", "verdict.json", "decisions.jsonl", "withdrawn.json"
SPARE = 1 << 30
"""Bytes that a received bundle must leave free on the disk, beside room for unpacking it."""
LOOK_EVERY = 64 << 20


class BundleTooLargeError(DatacompError):
    """A bundle is larger than this inbox takes."""


class NoSpaceError(DatacompError):
    """The inbox's disk is too full to receive and unpack a bundle."""


class NotYoursError(DatacompError):
    """Only the sender of a row may withdraw it."""


class Submission(BaseModel):
    """One bundle that was received, and what came of it."""

    model_config = ConfigDict(frozen=True)
    id: str
    sha256: str
    num_bytes: int
    sender: str
    received: str
    status: Literal["published", "rejected", "withdrawn"]
    method: str = ""
    scale: str = ""
    address: str = ""
    attempt: int = 1
    findings: list[RuleCheck]


class SubmissionInbox:
    """Receives into `folder`, publishes into the store below it. One bundle is checked at a time."""

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        pool: Folder | None = None,
        reevaluate: Reevaluate | None = None,
        limits: CheckLimits | None = None,
        spare_bytes: int = SPARE,
    ) -> None:
        self.folder, self.max_bytes, self.pool, self.reevaluate = folder, max_bytes, pool, reevaluate
        self.limits, self.spare_bytes = limits or CheckLimits(), spare_bytes
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "submissions").mkdir(exist_ok=True)
        (folder / "incoming").mkdir(exist_ok=True)
        for left in (folder / "incoming").iterdir():  # of a server that was ended while it received or checked
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        self.board = Store.open(str(folder / "board"))
        self._one = threading.Lock()
        self._published = cache(self._read_entry)

    # Receiving ------------------------------------------------------------------------------------------------------

    async def receive(self, chunks: AsyncIterator[bytes]) -> tuple[Path, str]:
        """Write a received bundle to a new file; return its path and sha256. TooLargeError as soon as it exceeds the limit."""
        target, found, size, looked = self.folder / "incoming" / uuid.uuid4().hex, hashlib.sha256(), 0, 0
        try:
            with target.open("xb") as file:
                async for data in chunks:
                    size += len(data)
                    if size > self.max_bytes:
                        raise BundleTooLargeError(
                            f"The limit for a bundle is {self.max_bytes:,} bytes: leave the checkpoint out."
                        )
                    if size >= looked:
                        self.require_space(LOOK_EVERY + size)
                        looked = size + LOOK_EVERY
                    found.update(data)
                    file.write(data)
        except TimeoutError:  # an OSError too, and the sender's
            target.unlink(missing_ok=True)
            raise
        except OSError as problem:
            target.unlink(missing_ok=True)
            raise NoSpaceError("The board cannot store the bundle now: try again later.") from problem
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        return target, found.hexdigest()

    def require_space(self, num_bytes: int) -> None:
        """Raise NoSpaceError if this number of further bytes would fill the inbox's disk."""
        if shutil.disk_usage(self.folder).free < num_bytes + self.spare_bytes:
            raise NoSpaceError("The board's disk is full: try again later.")

    # Deciding -------------------------------------------------------------------------------------------------------

    def judge(self, received: Path, sha256: str, sender: str, keys: tuple[str, ...] = ()) -> Submission:
        """Check a received bundle, keep it, and publish it if nothing is broken.

        What this sender has published before keeps its verdict; what was refused is checked again, since the fault may have been
        the board's. `keys` are the public keys of the sender: with one, a bundle must be signed by it.
        """
        with self._one:
            known = self.submission(submission_id(sha256, sender))
            if known is not None and known.status != "rejected":
                received.unlink()
                self._decided("sent again", known, sender)
                return known
            work = self.folder / "incoming" / f"{uuid.uuid4().hex}.work"
            work.mkdir()
            try:
                self.require_space(received.stat().st_size)
                found = verify_apart(
                    received, work, pool=self.pool, reevaluate=self.reevaluate, known_only=True, limits=self.limits
                )
                if any(other.sha256 == sha256 and other.sender != sender for other in self.submissions()):
                    found.say("sender", None, "Another sender has sent the same bundle before.")
                signed = self._signed(found, keys)
                return self._keep(received, sha256, sender, found, signed=signed)
            finally:
                shutil.rmtree(work, ignore_errors=True)
                received.unlink(missing_ok=True)

    def _signed(self, found: VerificationResult, keys: tuple[str, ...]) -> bool:
        """Whether it is signed by the sender; a finding says so, or why it must be."""
        file = found.folder / SIGNATURE
        if not keys:
            if file.exists():
                found.say("signature", None, "The bundle is signed, but the board has no key of this sender.")
            return False
        if not file.exists():
            found.say("signature", False, "The board has a key of this sender: sign the bundle with it (--sign KEY).")
            return False
        ok = (found.folder / LIST).exists() and signature.is_by(found.folder / LIST, file.read_bytes(), keys)
        found.say("signature", ok, "Signed by the sender's key." if ok else "The bundle is not signed by a key of this sender.")
        return ok

    def _keep(self, received: Path, sha256: str, sender: str, found: VerificationResult, *, signed: bool) -> Submission:
        """The bundle first, then the entry, then the verdict: what is interrupted between is done again when it is sent again."""
        made = Submission(
            id=submission_id(sha256, sender),
            sha256=sha256,
            num_bytes=received.stat().st_size,
            sender=sender,
            received=now(),
            status="published" if found.ok else "rejected",
            method=_plain(found.entry.method) if found.entry else "",
            scale=_plain(found.entry.scale) if found.entry else "",
            address=found.address,
            findings=found.findings,
        )
        home = self.folder / "submissions" / made.id
        home.mkdir(exist_ok=True)
        os.replace(received, home / BUNDLE)
        if found.ok:
            made = self._publish(found, made, signed=signed)
        Folder(home).write(VERDICT, made.model_dump_json(indent=1).encode())
        self._decided(made.status, made, sender)
        return made

    def _publish(self, found: VerificationResult, made: Submission, *, signed: bool) -> Submission:
        """Write the recomputed entry to the board's store, at an unused address."""
        assert found.proved is not None
        entry = found.proved.entry
        attempt = 1 + sum(1 for other in self._of_sender(made.sender) if _is_same(other, entry))
        submitted = SubmissionInfo(
            id=made.id, by=made.sender, attempt=attempt, signed=signed, evaluated_again=self.reevaluate is not None
        )
        entry = entry.model_copy(update={"date": made.received, "submitted": submitted})
        files = {ENTRY: entry.to_bytes(), HITS: (found.folder / HITS).read_bytes()}
        base = found.address
        for address in (base, f"{base}.{made.id}", f"{base}.{made.id}.{uuid.uuid4().hex[:8]}"):
            if not self.board.home(address).exists() and self._put(address, files, entry, found.folder):
                return made.model_copy(update={"address": address, "attempt": attempt})
        raise StoreError(f"The board has no address left for {base}: run the server again.")

    def _put(self, address: str, files: dict[str, bytes], entry: Entry, folder: Path) -> bool:
        sent = Record.model_validate_json((folder / "records" / _first(address) / "_artifact.json").read_bytes())
        data = f"{address}/attempt-{uuid.uuid4().hex[:8]}"
        written = [(self.board.root / data).write(name, content) for name, content in files.items()]
        stats = [FileStat(stat.path, stat.size, stat.sha256) for stat in written]
        artifact = BoardEntry(
            scale=entry.scale,
            name=address.rpartition("/")[2].rpartition("--")[0],
            address=address,
            data=data,
            fingerprint=sent.fingerprint,
            recipe=entry.method,
            seed=entry.seeds["training"],
            average=entry.average,
        )
        outputs, manifest = outputs_of(stats)
        record = Record(
            kind=BoardEntry.kind,
            version=sent.version,
            address=address,
            fingerprint=sent.fingerprint,
            spec=sent.spec,
            inputs=sent.inputs,
            artifact=artifact.model_dump(mode="json"),
            outputs=outputs,
            started=entry.date,
            seconds=0.0,
            host={},
            versions={},
        )
        return self.board.publish(record, manifest).outputs.manifest == outputs.manifest

    def withdraw(self, id_: str, sender: str) -> Submission | None:
        """Take a row off the board at the wish of who sent it; bundle and entry are kept. None if there is no such row."""
        with self._one:
            made = self.submission(id_)
            if made is None or made.status == "rejected":
                return None
            if made.sender != sender:
                raise NotYoursError("Only the sender of a row can withdraw it.")
            if made.status == "published":
                Folder(self.folder / "submissions" / id_).create(WITHDRAWN, json.dumps({"at": now(), "by": sender}).encode())
                made = made.model_copy(update={"status": "withdrawn"})
                self._decided("withdrawn", made, sender)
            return made

    def _decided(self, what: str, made: Submission, sender: str) -> None:
        broken = [f"{check.rule}: {check.reason}" for check in made.findings if check.ok is False]
        line = {"at": now(), "what": what, "id": made.id, "sender": sender, "address": made.address, "why": broken[:5]}
        with os.fdopen(os.open(self.folder / DECISIONS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as file:
            file.write(json.dumps(line, ensure_ascii=True) + "\n")
        log.info("submission %s of %r: %s", made.id, sender, what)

    # Reading --------------------------------------------------------------------------------------------------------

    def submission(self, id_: str) -> Submission | None:
        """Return the submission with this id; None if it does not exist."""
        home = self.folder / "submissions" / id_
        if len(id_) != ID_DIGITS or not (id_.isalnum() and id_.isascii()) or not (home / VERDICT).exists():
            return None
        made = Submission.model_validate_json((home / VERDICT).read_bytes())
        return made.model_copy(update={"status": "withdrawn"}) if (home / WITHDRAWN).exists() else made

    def submissions(self) -> list[Submission]:
        """All that were received, oldest first."""
        found = [self.submission(path.name) for path in (self.folder / "submissions").iterdir()]
        return sorted((made for made in found if made is not None), key=lambda made: (made.received, made.id))

    def entries(self, scale: str = "") -> list[tuple[str, Entry]]:
        """Address and content of what stands on the board, of a scale or of all: what was published and not withdrawn."""
        shown = [made.address for made in self.submissions() if made.status == "published"]
        found = [(address, self._published(address)) for address in sorted(shown)]
        return [(address, entry) for address, entry in found if scale in ("", entry.scale)]

    def change(self) -> tuple[int, int]:
        """Another value whenever something was decided, so that a page is made once for each state of the board."""
        try:
            stat = (self.folder / DECISIONS).stat()
        except FileNotFoundError:
            return 0, 0
        return stat.st_size, stat.st_mtime_ns

    def _of_sender(self, sender: str) -> list[Entry]:
        """Everything that a sender has published, including rows withdrawn since."""
        mine = [made.address for made in self.submissions() if made.sender == sender and made.status != "rejected"]
        return [self._published(address) for address in mine]

    def _read_entry(self, address: str) -> Entry:
        """A published entry. DataError or StoreError if it cannot be read: a board without its row would be a false one."""
        record = self.board.record(address)
        if record is None:
            raise DataError(f"{self.board.home(address)} was published and is not there: restore it from a copy.")
        return read(self.board, self.board.artifact(BoardEntry, record))


def submission_id(sha256: str, sender: str) -> str:
    """The id of a bundle of a sender."""
    return hashlib.sha256(f"{sha256} {sender}".encode()).hexdigest()[:ID_DIGITS]


def _is_same(one: Entry, other: Entry) -> bool:
    return (one.same_but_for_seeds, one.seeds) == (other.same_but_for_seeds, other.seeds)


def _first(address: str) -> str:
    """The address under which it was sent."""
    head, dash, digits = address.rpartition("--")
    return f"{head}{dash}{digits.partition('.')[0]}"


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isprintable())[:80]
