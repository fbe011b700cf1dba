"""The protocols by name: one line each. Another package adds its own by `register` and an entry point of `datacomp.protocols`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from datacomp_core.errors import SpecError
from datacomp_core.evaluation.classification import Classification
from datacomp_core.evaluation.faces import FaceClassification
from datacomp_core.evaluation.grouped import Camelyon17, DollarStreet, FMoW, GeoDE, IWildCam
from datacomp_core.evaluation.protocol import EvalProtocol
from datacomp_core.evaluation.retrieval import Retrieval
from datacomp_core.evaluation.winogavil import Winogavil
from datacomp_core.external_code import code_of, require
from datacomp_core.registry import PROTOCOLS as KNOWN
from datacomp_core.registry import Registry

P = TypeVar("P", bound=type[EvalProtocol])
PROTOCOLS: Registry[type[EvalProtocol]] = KNOWN


def register(name: str) -> Callable[[P], P]:
    """The decorator of a protocol's class. `name` is what a task's `protocol` calls it."""

    def decorate(kind: P) -> P:
        PROTOCOLS.add(name, kind, kind.__module__)
        return kind

    return decorate


SHIPPED: dict[str, type[EvalProtocol]] = {
    "classification": Classification,
    "retrieval": Retrieval,
    "winogavil": Winogavil,
    "iwildcam": IWildCam,
    "camelyon17": Camelyon17,
    "fmow": FMoW,
    "dollar_street": DollarStreet,
    "geode": GeoDE,
    "faces": FaceClassification,
}
for _name, _kind in SHIPPED.items():
    PROTOCOLS.add(_name, _kind, __name__)


def code_of_protocol(name: str) -> str:
    """The identity of a known protocol's code; empty for one of this package."""
    return code_of(PROTOCOLS[name].__module__)


def protocol_of(name: str, code: str = "") -> type[EvalProtocol]:
    """A protocol by its name, and by the code that it comes from, which is loaded if need be. SpecError if it is not here."""
    if not code:
        return PROTOCOLS.find(name)
    found = PROTOCOLS.of_code(name, code)
    if found is None:
        require(code)
        found = PROTOCOLS.of_code(name, code)
    if found is None:
        raise SpecError(f"{code} has no protocol {name!r}: leave out the task's `code`, which is filled in automatically.")
    return found
