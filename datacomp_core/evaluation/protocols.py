"""The protocols by name: one line each."""

from __future__ import annotations

from datacomp_core.evaluation.classification import Classification
from datacomp_core.evaluation.protocol import EvalProtocol
from datacomp_core.evaluation.retrieval import Retrieval

PROTOCOLS: dict[str, type[EvalProtocol]] = {
    "classification": Classification,
    "retrieval": Retrieval,
}
