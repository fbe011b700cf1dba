"""Loads code from outside this package, identifies it, and shares it by hash. Shipped code has no identity (a `version` is
raised by hand). Foreign code has one: `package==version` if it is installed, else `file.py#<sha256>`. The bytes of a loaded
file are kept, so that specs made with it can be read in other processes; `share` copies it to a store for other machines.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import importlib.util
import sys
import threading
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from datacomp_core.errors import DatacompError, DataError, SpecError

PREFIX = "datacomp_file_"
DIGITS = 16
OURS = ("datacomp_core", "tasks", "flows", "deployments")
_lock = threading.RLock()
_files: dict[str, tuple[str, bytes]] = {}
_registering: set[str] = set()
_finders: list[Callable[[str], bytes | None]] = []
"""Finds the bytes of a file by its digits if this process has not loaded it; the store adds one."""


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in OURS


def code_of(module: str) -> str:
    """Return the identity of foreign code: `package==version` or `file.py#<hex>`; empty for shipped code."""
    if is_ours(module):
        return ""
    if module.startswith(PREFIX):
        return f"{_files[module][0]}#{module.removeprefix(PREFIX)}"
    return _installed(module.partition(".")[0]) or _plain_module(module)


def package_of(module: str) -> str:
    """`package==version` of an installed package's module; empty for others."""
    return "" if is_ours(module) or module.startswith(PREFIX) else _installed(module.partition(".")[0])


def registers_in(module: str) -> None:
    """Record that an outside module registered something, so that its errors are attributed to it (`outside_error`)."""
    if not is_ours(module):
        _registering.add(module)


def outside_error(problem: BaseException) -> DataError | None:
    """Return one sentence with code and line if outside code raised the error. None for errors of ours."""
    if isinstance(problem, (DatacompError, KeyboardInterrupt)):
        return None
    found = None
    for frame, line in traceback.walk_tb(problem.__traceback__):
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith(PREFIX) or module in _registering:
            found = module, line, frame.f_code.co_name
    if found is None:
        return None
    module, line, function = found
    return DataError(
        f"{code_of(module)} failed at line {line} (in {function}): {type(problem).__name__}: {str(problem) or 'no message'}."
    )


@cache
def _installed(package: str) -> str:
    from importlib import metadata

    owners = metadata.packages_distributions().get(package, [])
    return f"{owners[0]}=={metadata.version(owners[0])}" if owners else ""


def _plain_module(module: str) -> str:
    """Return the file hash of a module that was imported from a path (a script, or a file next to a notebook)."""
    path = getattr(sys.modules.get(module), "__file__", None)
    if path is None:
        return "notebook"
    return f"{Path(path).name}#{hashlib.sha256(Path(path).read_bytes()).hexdigest()[:DIGITS]}"


class _FromBytes(importlib.abc.SourceLoader):
    """Imports a module from bytes, so that a file is loaded once, exactly as hashed."""

    def __init__(self, where: str, data: bytes) -> None:
        self.where, self.data = where, data

    def get_filename(self, fullname: str) -> str:
        return self.where

    def get_data(self, path: bytes | str) -> bytes:
        if str(path) != self.where:
            raise OSError(path)
        return self.data


def load_file(path: str | Path) -> ModuleType:
    """Run a Python file that registers something. SpecError if it cannot be read or fails."""
    try:
        data = Path(path).read_bytes()
    except OSError as problem:
        raise SpecError(f"Cannot read {path}: {problem.strerror or problem}.") from problem
    return load_bytes(Path(path).name, data, str(Path(path).resolve()))


def load_bytes(name: str, data: bytes, where: str = "") -> ModuleType:
    """Return the module of a file's bytes; the same bytes run once per process."""
    module = PREFIX + hashlib.sha256(data).hexdigest()[:DIGITS]
    with _lock:
        if module in sys.modules:
            return sys.modules[module]
        loader = _FromBytes(where or f"<{name}>", data)
        spec = importlib.util.spec_from_loader(module, loader)
        assert spec is not None
        made = importlib.util.module_from_spec(spec)
        sys.modules[module], _files[module] = made, (name, data)
        try:
            loader.exec_module(made)
        except BaseException as problem:
            del sys.modules[module]
            if isinstance(problem, (SpecError, KeyboardInterrupt)):
                raise
            alone = " A file is loaded alone: put what it imports into it, or install it as a package."
            hint = alone if isinstance(problem, ModuleNotFoundError) else ""
            raise SpecError(
                f"{name} fails to load{_line(problem, loader.where)}: {type(problem).__name__}: {problem}.{hint}"
            ) from problem
        return made


def _line(problem: BaseException, where: str) -> str:
    if isinstance(problem, SyntaxError):
        return f" at line {problem.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(problem.__traceback__) if frame.filename == where]
    return f" at line {lines[-1]}" if lines else ""


def require(code: str) -> None:
    """Make foreign code available in this process. SpecError says what is missing and how to get it."""
    if code == "notebook":
        raise SpecError("This filter was defined in a notebook or a prompt: write it into a .py file to use it elsewhere.")
    name, is_file, digits = code.rpartition("#")
    if is_file:
        if PREFIX + digits in sys.modules:
            return
        data = next((found for finder in _finders if (found := finder(digits)) is not None), None)
        if data is None:
            raise SpecError(f"This machine does not have the file {name} (sha256 {digits}…): give its path.")
        if not hashlib.sha256(data).hexdigest().startswith(digits):
            raise SpecError(
                f"The copy of {name} in the store differs from the file that the spec was made with (sha256 "
                f"{digits}…): restore that file."
            )
        load_bytes(name, data)
        return
    package, _, version = code.partition("==")
    from importlib import metadata

    try:
        there = metadata.version(package)
    except metadata.PackageNotFoundError:
        raise SpecError(f"This machine does not have the package {code}: install it.") from None
    if there != version:
        raise SpecError(f"This machine has {package} {there}, but the spec was made with {code}: install that version.")


def add_finder(finder: Callable[[str], bytes | None]) -> None:
    """Add a place to look for files by their digits."""
    if finder not in _finders:
        _finders.append(finder)


def loaded_files() -> dict[str, tuple[str, bytes]]:
    """Map digits to name and bytes of every file that this process has loaded."""
    return {module.removeprefix(PREFIX): found for module, found in _files.items() if module in sys.modules}


def pickled(model: Any) -> tuple[Any, ...] | None:
    """Return how to pickle an instance of a class from a loaded file: with the file. None for importable classes."""
    kind: type[Any] = type(model)
    if not kind.__module__.startswith(PREFIX):
        return None
    name, data = _files[kind.__module__]
    return unpickled, (name, data, kind.__qualname__, model.model_dump())


def unpickled(name: str, data: bytes, qualname: str, fields: dict[str, Any]) -> Any:
    made: Any = load_bytes(name, data)
    for step in qualname.split("."):
        made = getattr(made, step)
    return made.model_validate(fields)
