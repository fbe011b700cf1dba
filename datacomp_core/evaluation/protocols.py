"""The protocols by name: one line each."""

from __future__ import annotations

from datacomp_core.evaluation.classification import Classification
from datacomp_core.evaluation.faces import Faces
from datacomp_core.evaluation.grouped import Camelyon17, DollarStreet, FMoW, GeoDE, IWildCam
from datacomp_core.evaluation.protocol import EvalProtocol
from datacomp_core.evaluation.retrieval import Retrieval
from datacomp_core.evaluation.winogavil import Winogavil

PROTOCOLS: dict[str, type[EvalProtocol]] = {
    "classification": Classification,
    "retrieval": Retrieval,
    "winogavil": Winogavil,
    "iwildcam": IWildCam,
    "camelyon17": Camelyon17,
    "fmow": FMoW,
    "dollar_street": DollarStreet,
    "geode": GeoDE,
    "faces": Faces,
}
