"""Explains a library that cannot be imported, with what to install, and outside code that fails. Worker processes call this
where the error happens: only there the traceback shows which code needed the module.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType

from datacomp_core import external_code
from datacomp_core.errors import MissingLibraryError

OURS = {"datacomp_core", "tasks", "flows", "deployments"}
PACKAGES = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "faiss": "faiss-cpu",
    "gcld3": "cld3-py",
    "imagehash": "ImageHash",
    "imghdr": "standard-imghdr",
    "open_clip": "open_clip_torch",
    "open_clip_train": "open_clip_torch",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
"""Packages whose name differs from their module."""
AGAIN = "or install everything again (`make setup` after removing .venv)"
NO_MODULE = re.compile(r"No module named '?([\w.]+)'?")
NO_FILE = re.compile(r"(\S+): cannot open shared object file")


@contextmanager
def explain_import_errors() -> Generator[None]:
    """Convert an ImportError of this block with `library_error`, and errors of outside code with `outside_error`."""
    try:
        yield
    except (Exception, SystemExit) as problem:
        error = external_code.outside_error(problem)
        if error is None and isinstance(problem, ImportError):
            error = library_error(problem)
        if error is None or error is problem:
            raise
        raise error from problem


def library_error(problem: ImportError) -> Exception:
    """Return a MissingLibraryError in one sentence; an error within this project's modules is a bug and is returned unchanged."""
    text = str(problem)
    found = NO_MODULE.search(text)
    module = problem.name or (found.group(1) if found else "")
    top = module.partition(".")[0]
    importer = _importer(problem.__traceback__, top)
    if top in OURS or (not module and not importer):
        return problem
    wanted = "" if importer in {"", "__main__"} else f", which {importer} needs"
    if isinstance(problem, ModuleNotFoundError) or found:
        return MissingLibraryError(
            f"Cannot import the module {module!r}{wanted}: install the package {PACKAGES.get(top, top)} "
            f"(pip install -c constraints.txt {PACKAGES.get(top, top)}), {AGAIN}."
        )
    if file := NO_FILE.search(text):
        return MissingLibraryError(
            f"Cannot load the module {module or importer!r}: the system has no {file.group(1)}. Install the system package that "
            "contains it (apt-file search names it)."
        )
    return MissingLibraryError(
        f"Cannot import the module {module or importer!r}{wanted} ({text}): its version is incompatible with the others. "
        f"Install the pinned version (pip install -c constraints.txt), {AGAIN}."
    )


def _importer(trace: TracebackType | None, missing: str) -> str:
    """Return the name of the module whose import of `missing` failed."""
    name = ""
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in {"importlib", "_frozen_importlib", "_frozen_importlib_external", missing}:
            name = module
        trace = trace.tb_next
    return name
