"""Reads arrays from untrusted files: their decoded size is known, and limited, before they are decoded."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from datacomp_core.errors import DataError

MAX_MEMBERS = 1000


def read_npz(path: Path, where: str, *, max_bytes: int) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an npz by name. DataError if it is not an npz, is damaged, or has more than `max_bytes` when decoded.

    What a member says of its size binds the reader of deflated data alone: bzip2 and LZMA decompress everything at once.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise DataError(f"{where} has {len(members)} arrays; at most {MAX_MEMBERS} are read.")
            for member in members:
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise DataError(f"{where} is compressed in a way that no npz is: numpy deflates or stores its arrays.")
            if (size := sum(member.file_size for member in members)) > max_bytes:
                raise DataError(f"{where} has {size:,} bytes when decoded; at most {max_bytes:,} are read.")
            return {member.filename.removesuffix(".npy"): _member(archive, member, where) for member in members}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as problem:
        raise DataError(f"{where} is not an npz of plain arrays: {problem}") from problem


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> npt.NDArray[Any]:
    with archive.open(member) as file:
        return _array(file, f"{member.filename} in {where}")


def read_npy(data: bytes, where: str) -> npt.NDArray[Any]:
    """Return the array in an npy file's bytes. DataError if it is not an npy; a shape larger than the bytes allocates no
    memory."""
    return _array(io.BytesIO(data), where).copy()  # an array over bytes is read-only


def _array(file: IO[bytes], where: str) -> npt.NDArray[Any]:
    shape, order, dtype = read_header(file, where)
    data = file.read()
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise DataError(f"{where} has {len(data)} bytes, which do not fit shape {shape} and {dtype}.")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order else "C")


def read_header(file: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, Fortran order and type of an npy. DataError if it is not an npy, or contains Python objects."""
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, order, dtype = read(file)
    except Exception as problem:  # numpy's header reader raises a dozen exception types on bad bytes, including tokenize's
        raise DataError(f"{where} is not an npy file: {str(problem).partition(chr(10))[0]}") from problem
    if dtype.hasobject or any(length < 0 for length in shape):
        raise DataError(f"{where} is an npy of {dtype} and shape {shape}, which is not read from untrusted files.")
    return shape, order, dtype
