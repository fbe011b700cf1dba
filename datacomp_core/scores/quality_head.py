"""Applies a small network from a file to image features: LAION's aesthetics predictor, an NSFW detector, or your own.

The file has the weights of linear layers (`NAME.weight` (out, in) and `NAME.bias`), applied in the order of their names. It is
identified by its sha256 and read without executing anything in it (safetensors, npz, or a torch file of plain tensors).
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field

from datacomp_core import external_files
from datacomp_core.errors import DataError
from datacomp_core.pool_source import PoolSource
from datacomp_core.scores.base import Score, ScoreContext, register
from datacomp_core.torch_files import why_unreadable
from datacomp_core.vectors.files import Vectors, unit

SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin")
LAYER = re.compile(r"(?:(.*)\.)?(weight|bias)")


def _pinned(name: str) -> str:
    return external_files.pin_place(name, SUFFIXES, "a head")


class Layer(NamedTuple):
    """`weight` (out, in) and `bias` (out,)."""

    weight: Vectors
    bias: Vectors


@register("quality_head")
class QualityHead(Score):
    """The output of a small network from a file on an image's features, such as an aesthetics or NSFW predictor."""

    paper = "Schuhmann et al. 2022, LAION-5B (arXiv:2210.08402), for its aesthetics and NSFW heads; the file's own otherwise"
    needs = frozenset({"features"})
    head: Annotated[str, AfterValidator(_pinned)] = Field(
        description="The weights: .safetensors, .npz or .pt; local, s3://, https:// or hf://. Identified by its sha256."
    )
    features: str = Field(
        default="l14", pattern=r"^[a-z0-9_]+$", description="Name of the embeddings: <features>_img in the npz."
    )
    between: Literal["nothing", "relu"] = Field(
        default="nothing", description="Between layers: nothing (LAION's aesthetics, at inference), or relu (its NSFW head)."
    )
    after: Literal["nothing", "sigmoid"] = Field(
        default="nothing", description="Activation of the last layer; sigmoid gives a probability."
    )
    output: int = Field(default=0, ge=0, description="Which of the head's outputs, counted from 0.")
    scale: Literal["unit", "as_is"] = Field(default="unit", description="unit: features of length 1, as LAION's heads require.")

    def feature_keys(self) -> tuple[str, ...]:
        return (f"{self.features}_img",)

    def prepare(self, context: ScoreContext) -> tuple[Layer, ...]:
        """The layers. DataError if they do not fit each other or the features."""
        found = layers(self.head)
        width = next(context.source.embeddings(context.names[0], self.feature_keys()[0], 1)).shape[1]
        for number, layer in enumerate(found):
            if layer.weight.shape[1] != width:
                raise DataError(
                    f"Layer {number} of {external_files.place_of(self.head)} expects {layer.weight.shape[1]} numbers and gets "
                    f"{width}: it is not a head for {self.features} features."
                )
            width = layer.weight.shape[0]
        if self.output >= width:
            raise DataError(
                f"{external_files.place_of(self.head)} has {width} outputs, but number {self.output} is requested (from 0)."
            )
        return found

    def of_part(self, source: PoolSource, part: str, prepared: tuple[Layer, ...]) -> npt.NDArray[np.float32]:
        found = [np.empty(0, np.float32)]
        for block in source.embeddings(part, self.feature_keys()[0]):
            found.append(self._of_block(unit(block) if self.scale == "unit" else block, prepared))
        return np.concatenate(found)

    def _of_block(self, rows: Vectors, through: tuple[Layer, ...]) -> Vectors:
        for number, layer in enumerate(through):
            if number and self.between == "relu":
                rows = np.maximum(rows, 0)
            rows = rows @ layer.weight.T + layer.bias
        said = rows[:, self.output]
        if self.after != "sigmoid":
            return said
        from scipy.special import expit

        return expit(said)


def layers(name: str) -> tuple[Layer, ...]:
    """The linear layers of a pinned file. DataError if it holds anything else."""
    path = external_files.place_of(name)
    files = external_files.local(name, SUFFIXES)
    if len(files) != 1:
        raise DataError(f"{path} is a folder of {len(files)} files: give one file.")
    arrays = _arrays(files[0].read_bytes(), path)
    found: dict[tuple[int | str, ...], dict[str, Any]] = {}
    for key, array in arrays.items():
        named = LAYER.fullmatch(key)
        if named is None or array.ndim != (2 if named[2] == "weight" else 1) or array.dtype.kind not in "fiu":
            raise DataError(
                f"{path}: {key} {array.shape} {array.dtype} is not the weight (out, in) or bias (out,) of a linear layer."
            )
        if not np.isfinite(array).all():
            raise DataError(f"{path}: {key} has values that are not finite: export the head again.")
        found.setdefault(_order(named[1] or ""), {})[named[2]] = array.astype(np.float32)
    if not found or not all("weight" in layer for layer in found.values()):
        raise DataError(f"{path} does not contain the weights of linear layers (`NAME.weight`, `NAME.bias`).")
    made: list[Layer] = []
    for key in sorted(found, key=lambda parts: [(isinstance(part, str), part) for part in parts]):
        weight = found[key]["weight"]
        bias = found[key].get("bias", np.zeros(len(weight), np.float32))
        if bias.shape != (len(weight),):
            raise DataError(f"{path}: a layer has {len(weight)} outputs and a bias of {bias.shape[0]}.")
        made.append(Layer(weight, bias))
    return tuple(made)


def _order(name: str) -> tuple[int | str, ...]:
    """`layers.10` comes after `layers.2`."""
    return tuple(int(piece) if piece.isdigit() else piece for piece in name.split("."))


def _arrays(data: bytes, path: str) -> Mapping[str, npt.NDArray[Any]]:
    """The arrays of a file; nothing in it is executed."""
    try:
        if path.endswith(".safetensors"):
            from safetensors.numpy import load

            return load(data)
        if path.endswith(".npz"):
            with np.load(io.BytesIO(data), allow_pickle=False) as found:
                return {key: found[key] for key in found.files}
    except Exception as problem:  # zipfile's, numpy's and safetensors' readers raise a dozen kinds on bad bytes
        raise DataError(f"{path} cannot be read as a head: {problem}") from problem
    return _of_torch(data, path)


def _of_torch(data: bytes, path: str) -> Mapping[str, npt.NDArray[Any]]:
    import torch

    try:
        found: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as problem:
        raise DataError(f"{path} is not a torch file of plain tensors: {why_unreadable(problem)}.") from problem
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(one, torch.Tensor) for one in found.values()):
        raise DataError(f"{path} is not a table of tensors by name (a state_dict).")
    return {str(key): tensor.float().numpy() for key, tensor in found.items()}
