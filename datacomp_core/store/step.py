"""`@step`: gives a function an address, runs it once, and writes the record last.

Left of the star is what it is, right of the star is how it is run. Left: only Specs and Artifacts; they are hashed. Right:
`out`, `store`, workers, devices, handles; never hashed. A function that breaks this is refused when its module is imported.
Source code is never hashed: raise `version` by hand when a step's meaning changes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, ParamSpec, TypeVar

from datacomp_core import engines
from datacomp_core.artifacts import Artifact, Spec
from datacomp_core.errors import DataError, StoreError
from datacomp_core.import_errors import explain_import_errors
from datacomp_core.store import record as records
from datacomp_core.store.attempt import attempt
from datacomp_core.store.deletion import drop_own
from datacomp_core.store.fingerprint import SHORT, canonical, fingerprint
from datacomp_core.store.fingerprint import identity as meaning_of
from datacomp_core.store.folder import Folder
from datacomp_core.store.format import require_format
from datacomp_core.store.listing import ask_until_equal, hash_files
from datacomp_core.store.step_signature import (
    PlannedStep,
    built_inputs,
    check_signature,
    flatten,
    hashable_form,
    is_named,
    name_placeholder,
    path_segment,
)
from datacomp_core.store.store import Store

log = logging.getLogger(__name__)
A = TypeVar("A", bound=Artifact)
P = ParamSpec("P")

Status = Literal["reused", "built"]
STEPS: dict[str, Step[Any]] = {}
_busy: dict[str, threading.Lock] = {}
_busy_guard = threading.Lock()


@dataclass(frozen=True)
class StepOutcome(Generic[A]):
    """The result of a call: the artifact, whether it was built now, and why."""

    artifact: A
    status: Status
    why: str
    record: records.Record


class Step(Generic[A]):
    """A function that has an address. Call it with its identity and `store=`; further options go to the function."""

    def __init__(
        self,
        function: Callable[..., A],
        kind: str,
        version: int,
        name: Callable[..., str] | None,
        stale: Callable[..., str] | None = None,
        left_out: tuple[str, ...] = (),
    ) -> None:
        self.function, self.kind, self.version = function, kind, version
        self._name, self._stale, self._left_out = name, stale, left_out
        self.returns, self.identity, self.options = check_signature(function, kind)
        self.__doc__, self.__name__, self.__module__ = function.__doc__, function.__name__, function.__module__

    def __repr__(self) -> str:
        return f"<step {self.kind} v{self.version}: {self.__module__}.{self.__name__}>"

    def __call__(self, *identity: Spec | Artifact | tuple[Artifact, ...], store: Store, **options: Any) -> A:
        return self.run(*identity, store=store, **options).artifact

    # What it is ---------------------------------------------------------------------------------------------------

    def fingerprint(self, *identity: Any) -> str:
        """sha256 over kind, version, canonical specs and the fingerprints of the inputs."""
        self._fits(identity)
        return fingerprint({"kind": self.kind, "version": self.version, "of": [hashable_form(value) for value in identity]})

    def name(self, *identity: Any) -> str:
        if self._name is not None:
            return self._name(*identity)
        return next((value.label() for value in identity if isinstance(value, Spec)), "") or self.kind

    def address(self, *identity: Any) -> str:
        """`<kind>/<scale>/<readable name>--<12 hex>`."""
        scale = next((str(value.scale) for value in flatten(identity) if getattr(value, "scale", "")), "any")
        readable = path_segment(self.name(*identity))
        return f"{self.kind}/{path_segment(scale)}/{readable}--{self.fingerprint(*identity)[:SHORT]}"

    # How it is run ------------------------------------------------------------------------------------------------

    def plan(self, *identity: Any, store: Store) -> PlannedStep[A]:
        """BUILT or TO BUILD, and why; an input may itself be only planned. Nothing is written."""
        require_format(store, write=False)
        name = self.name(*[name_placeholder(value) for value in identity])
        waiting = [value for value in flatten(identity) if isinstance(value, PlannedStep) and not value.is_built]
        if waiting:
            return PlannedStep(self.kind, name, f"its {waiting[0].kind} must be built first", None, None)
        inputs = tuple(built_inputs(value) for value in identity)
        address = self._place(inputs, store)
        found = store.record(address)
        if found is None:
            why = "never built" if store.interrupted(address) is None else "its retry or takedown has not ended"
            return PlannedStep(self.kind, name, why, address, None)
        if lost := store.missing(found):
            _require_own(found, address, lost)
            return PlannedStep(self.kind, name, f"its data is lost: {lost}", address, None)
        made = store.artifact(self.returns, found)
        self._check_source(inputs, made, store)
        return PlannedStep(self.kind, name, "built", address, made, found.seconds)

    def run(self, *identity: Any, store: Store, **options: Any) -> StepOutcome[A]:
        """Reuse what is built, else build it. Calls for one address in one process wait for each other."""
        require_format(store, write=True)
        with _busy_guard:
            lock = _busy.setdefault(f"{store.root.url}/{self.kind}/{self.fingerprint(*identity)}", threading.Lock())
        with lock:
            address = self._place(identity, store)
            found = store.record(address)
            lost = store.missing(found) if found else ""
            if found and not lost:
                made = store.artifact(self.returns, found)
                self._check_source(identity, made, store)
                log.info("reused %s", address)
                return StepOutcome(made, "reused", "built before", found)
            if found:
                _require_own(found, address, lost)
                store.set_aside(found, lost)
            store.refuse_interrupted(address)
            why = f"its data is lost: {lost}" if lost else "never built"
            log.info("building %s (%s)", address, why)
            return self._build(address, identity, store, options, why)

    def _place(self, identity: tuple[Any, ...], store: Store) -> str:
        """The address, or the one at which the same thing was begun under another name that a person gave it."""
        address = self.address(*identity)
        if not any(is_named(value) for value in flatten(identity)) or store.generations(address):
            return address
        return store.namesake(address) or address

    def _check_source(self, identity: tuple[Any, ...], made: A, store: Store) -> None:
        """Raise DataError if an artifact was made from data outside the store that have changed since."""
        if self._stale is not None and (what := self._stale(*identity, made, store.folder(made))):
            raise DataError(what)

    def _build(self, address: str, identity: tuple[Any, ...], store: Store, options: dict[str, Any], why: str) -> StepOutcome[A]:
        started, clock = records.now(), time.monotonic()
        wanted = {name: value for name, value in options.items() if name in self.options}
        assert len(wanted) == len(options), f"{self} has no option {sorted(set(options) - set(wanted))}"
        if "store" in self.options:
            wanted["store"] = store
        with attempt(store.home(address), lambda name: store.is_published(address, name)) as mine:
            with explain_import_errors():
                made = self.function(*identity, out=mine.out, **wanted)
            # `data` is given by a step that only describes data elsewhere.
            files = (
                _listed(Folder(made.data), self._left_out)
                if made.data
                else hash_files(mine.out, mine.out.journal, is_all_known=mine.turn == 1)
            )
            artifact = self._finished(made, address, made.data or f"{address}/{mine.name}", identity)
            how, took = {**wanted, "engine": engines.current()}, time.monotonic() - clock
            outputs, manifest = records.outputs_of(files, mine.name)
            record = self._record(artifact, identity, outputs, how, started, took, mine.turn, adopted_from=made.data or None)
            mine.check_still_ours()
            stands = store.publish(record, manifest)
            if stands.outputs.manifest != outputs.manifest:
                drop_own(store, record.model_copy(update={"artifact": {"data": f"{address}/{mine.name}"}}))
                return StepOutcome(store.artifact(self.returns, stands), "reused", "another run finished it first", stands)
        log.info("built %s in %.1f s: %d files, %d bytes", address, record.seconds, len(files), record.outputs.num_bytes)
        return StepOutcome(artifact, "built", why, stands)

    def adopt(self, *identity: Any, made: A, source: Folder, store: Store) -> StepOutcome[A]:
        """Take in data from elsewhere, without copying a byte: `made` describes them, `source` is their place.

        The files are listed, not read; `made.content` should hash what identifies the data, since the identity cannot.
        """
        require_format(store, write=True)
        address = self.address(*identity)
        if (found := store.record(address)) is not None:
            lost = store.missing(found)
            if not lost:
                return StepOutcome(store.artifact(self.returns, found), "reused", "adopted before", found)
            store.set_aside(found, lost)
        store.refuse_interrupted(address)
        files = _listed(source)
        if not files:
            raise StoreError(f"There is nothing to adopt at {source}.")
        artifact = self._finished(made, address, source.url, identity)
        outputs, manifest = records.outputs_of(files)
        record = self._record(artifact, identity, outputs, {}, records.now(), 0.0, 1, adopted_from=source.url)
        stands = store.publish(record, manifest)
        return StepOutcome(store.artifact(self.returns, stands), "built", "adopted", stands)

    # ---------------------------------------------------------------------------------------------------------------

    def _finished(self, made: A, address: str, data: str, identity: tuple[Any, ...]) -> A:
        own = self.fingerprint(*identity)
        print_ = fingerprint([own, made.content]) if made.content else own
        scale = made.scale or address.split("/")[1]
        return made.model_copy(
            update={
                "address": address,
                "data": data,
                "fingerprint": print_,
                "scale": scale,
                "name": made.name or address.split("/")[2].rpartition("--")[0],
            }
        )

    def _record(
        self,
        artifact: A,
        identity: tuple[Any, ...],
        outputs: records.Outputs,
        options: dict[str, Any],
        started: str,
        seconds: float,
        attempts: int,
        adopted_from: str | None = None,
    ) -> records.Record:
        named = dict(zip(self.identity, identity, strict=True))
        return records.Record(
            kind=self.kind,
            version=self.version,
            address=artifact.address,
            fingerprint=artifact.fingerprint,
            spec={name: canonical(value) for name, value in named.items() if isinstance(value, Spec)},
            meaning={name: meaning_of(value) for name, value in named.items() if isinstance(value, Spec)},
            inputs={
                name: [{"address": a.address, "fingerprint": a.fingerprint} for a in flatten([value])]
                for name, value in named.items()
                if not isinstance(value, Spec)
            },
            artifact=artifact.model_dump(mode="json"),
            outputs=outputs,
            options=records.plain_options(options),
            started=started,
            seconds=round(seconds, 3),
            attempts=attempts,
            host=records.host(),
            versions=records.versions(),
            adopted_from=adopted_from,
        )

    def _fits(self, identity: tuple[Any, ...]) -> None:
        if len(identity) != len(self.identity):
            raise TypeError(f"{self} takes ({', '.join(self.identity)}), {len(identity)} given")


def _require_own(found: records.Record, address: str, lost: str) -> None:
    """DataError if lost data was adopted: no step makes it again."""
    if found.adopted_from:
        raise DataError(
            f"The data of {address}, adopted from {found.adopted_from}, are lost: {lost}. Restore them, adopt them "
            "from their new location, or adopt the rest in another edition (--refresh)."
        )


def step(
    kind: str,
    *,
    version: int,
    name: Callable[..., str] | None = None,
    stale: Callable[..., str] | None = None,
    left_out: tuple[str, ...] = (),
) -> Callable[[Callable[..., A]], Step[A]]:
    """Make a function a step. `name(*identity)` gives its readable name; by default the spec's label.

    `left_out` are names of folders whose files are not the artifact's, where it describes what lies elsewhere.
    `stale(*identity, artifact, folder)` says in a sentence why an artifact that was made from a source outside the store may not
    be used again; empty if it may.
    """

    def decorate(function: Callable[..., A]) -> Step[A]:
        made = Step(function, kind, version, name, stale, left_out)
        STEPS[f"{made.__module__}.{made.__name__}"] = made
        return made

    return decorate


def _listed(folder: Folder, left_out: tuple[str, ...] = ()) -> list[records.FileStat]:
    """The files of a folder that others wrote, which are not read: without their hashes."""
    found = ask_until_equal(folder.files, folder).items()
    return [records.FileStat(path, size, "") for path, size in found if not set(path.split("/")[:-1]) & set(left_out)]
