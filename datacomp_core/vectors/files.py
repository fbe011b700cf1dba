"""Reference vectors that filters compare embeddings with: centroids and target sets, by name or from a file.

A file is npy, npz (one array, or `file.npz:key`) or a torch file of plain tensors or arrays. In a spec its name carries the
first digits of its sha256 (`mine.npy#3fa2b1c04d5e`), so that an address follows what is in it and not what it is called.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator

from datacomp_core import pinned_files
from datacomp_core.arrays import read_npy
from datacomp_core.assets import asset
from datacomp_core.errors import DataError
from datacomp_core.input_classes import InputUse
from datacomp_core.torch_files import why_unreadable

Vectors = npt.NDArray[np.float32]
NAMED: dict[str, tuple[str, ...]] = {
    "imagenet1k_l14": tuple(f"in1k_clip_vit_l14_{number}.pt" for number in range(5)),
    **{f"{scale}_centroids_l14": (f"{scale}_centroids_l14.pt",) for scale in ("small", "medium", "large", "xlarge")},
}
"""Sets that are released assets: ImageNet-1k train by CLIP L/14 (OpenAI), and the k-means centroids of each scale."""
ARRAY_PARTS = frozenset(
    {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }
)
FILES = (".npy", ".npz", ".pt")


def pin_vectors(name: str) -> str:
    """Return the name with the digits of its file's hash, if it is a file. SpecError if it is neither known nor a file."""
    return pinned_files.pin_file(
        name, _file(name)[0], noun="set of vectors", plain="a file of vectors", known=NAMED, endings=FILES
    )


VectorsName = Annotated[str, AfterValidator(pin_vectors)]


@cache
def vectors(name: str) -> Vectors:
    """The vectors of a name, float32 (n, d); loaded once a process. DataError if they are not what they should be."""
    if name in NAMED:
        return np.concatenate([_matrix(_torch(asset(file).read_bytes(), file), file) for file in NAMED[name]])
    path, _, digits = name.partition("#")
    file, key = _file(path)
    data = pinned_files.content(path, file, digits)
    if file.endswith(".pt"):
        return _matrix(_torch(data, file), file)
    if file.endswith(".npy"):
        return _matrix(read_npy(data, path), path)
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
        found = found[key or found.files[0]]
    except Exception as problem:  # zipfile's and numpy's readers raise a dozen kinds on bad bytes
        raise DataError(f"{path} is not readable as vectors: {problem}") from problem
    return _matrix(found, path)


def matched(name: str, dimensions: int) -> Vectors:
    """`vectors`, of the wanted number of dimensions."""
    found = vectors(name)
    if found.shape[1] != dimensions:
        raise DataError(f"The vectors {name.partition('#')[0]} have {found.shape[1]} dimensions and the embeddings {dimensions}.")
    return found


def target_use(name: Any) -> Iterator[InputUse]:
    """Yield the inputs of a target set: ImageNet's train images for the released set, nothing for a file."""
    if name in NAMED:
        yield InputUse(f"the target set {name}", "target")


def unit(rows: Vectors) -> Vectors:
    """Rows of length 1; a row of zeros stays one."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _file(path: str) -> tuple[str, str]:
    """`file.npz:key` to its parts; a url's colon is none."""
    file, colon, key = path.rpartition(":")
    return (file, key) if colon and file.endswith(".npz") else (path, "")


def _torch(data: bytes, where: str) -> Any:
    """A tensor, or an array as torch saves one, in a torch file; nothing in it is executed."""
    import torch

    try:
        array = _array(data)
        if array is not None:
            return array
        found: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as problem:
        raise DataError(f"{where} is not a torch file of plain tensors: {why_unreadable(problem)}.") from problem
    if isinstance(found, dict):
        found = found.get("image_features", next(iter(found.values()), None))
    return found.float().numpy() if isinstance(found, torch.Tensor) else found


class _ArrayOnly(pickle.Unpickler):
    """Makes plain arrays and nothing else: torch's own safe reader does not know the form of the released centroids."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) in ARRAY_PARTS:
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"{module_name}.{global_name} is not part of an array")


def _array(data: bytes) -> Any:
    """The numpy array that a torch file holds, None if it holds something else."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        try:
            found = _ArrayOnly(io.BytesIO(archive.read(name))).load()
        except pickle.UnpicklingError:
            return None
    return found if isinstance(found, np.ndarray) and found.dtype.kind == "f" else None


def _matrix(found: Any, where: str) -> Vectors:
    array = np.asarray(found)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating) or not len(array):
        raise DataError(f"{where} does not contain vectors: give an array (n, dimensions) of numbers; this one is {array.shape}.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise DataError(f"{where} has NaN or infinity in row {row:,}: every vector must be finite. Make the file again.")
    return np.ascontiguousarray(array, np.float32)
