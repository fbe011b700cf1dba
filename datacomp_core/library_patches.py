"""Changes modules of other packages; a test forbids this everywhere else. Each change states why no public parameter works,
and for which version it was made; the version is checked first.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from datacomp_core.errors import MissingLibraryError

MADE_FOR = {"img2dataset": "1.47"}


def require_version(package: str) -> None:
    """MissingLibraryError unless the installed version is the one that this file was made for."""
    wanted, found = MADE_FOR[package], version(package)
    if found != wanted and not found.startswith(f"{wanted}."):
        raise MissingLibraryError(
            f"{package} {found} is installed, but this works only with {wanted}: pip install -c constraints.txt {package}."
        )


@contextmanager
def timed_downloads(times: dict[int, tuple[float, datetime]]) -> Generator[None]:
    """In the block, img2dataset's downloads of this process record in `times`, by row, their duration and end. img2dataset
    keeps no times; its Downloader calls a function of its module for each row, and has no parameter to replace it.
    """
    require_version("img2dataset")
    from img2dataset import downloader

    fetch = downloader.download_image_with_retry

    def timed(row: tuple[int, str], **options: Any) -> Any:
        began = time.monotonic()
        answer = fetch(row, **options)
        times[row[0]] = (time.monotonic() - began, datetime.now(UTC))
        return answer

    downloader.download_image_with_retry = timed
    try:
        yield
    finally:
        downloader.download_image_with_retry = fetch


@contextmanager
def left_out(names: Iterable[str]) -> Generator[None]:
    """In the block, imports of these modules fail in this process, unless they are already loaded. Libraries with optional
    imports (open_clip: timm and transformers; img2dataset: torch) cannot switch them off, and they cost seconds in each process.
    For processes with one kind of work: imported code continues without them.
    """
    missing = [name for name in names if name not in sys.modules]
    for name in missing:
        sys.modules[name] = None  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


def lift_pillows_cap() -> None:
    """Pillow's own setting for images of any size, for processes that check the size themselves."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
