"""Classifies a failed request to a bucket: no such file, a temporary fault, or a refused condition. "Not there" is only what
the store said; every other failure is an error, and is retried where that is harmless.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TypeVar

from datacomp_core.errors import DiskFullError, MissingFileError, StoreError

log = logging.getLogger(__name__)
R = TypeVar("R")

PAUSES = (0.3, 1.5)
"""Seconds before a failed request is made again. Clients of real buckets retry what fails on the way several times before."""
LASTING = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOSPC)
EXPLAINED = {
    "RequestTimeTooSkewed": "the clock of this machine differs too much from the store's: set it, then run it again.",
    "ExpiredToken": "the credentials have expired: renew them, then run it again.",
}
"""Refusals that have nothing to do with permissions. A request without a body (HEAD) is refused without such a reason."""
REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


class CutError(OSError):
    """A body that is shorter than the store says the file is."""


def check_size(data: bytes, size: int, path: str) -> bytes:
    """The body of a file, if it has as many bytes as the store says. CutError if not."""
    if len(data) != size:
        raise CutError(errno.EIO, f"{len(data)} bytes arrived instead of {size}", path)
    return data


def with_retries(request: Callable[[], R], *, is_write: bool = False) -> R:
    """The answer of a request that may be made twice; a transient failure is followed by another try."""
    for pause in (*PAUSES, None):
        try:
            return request()
        except Exception as problem:
            if isinstance(problem, FileNotFoundError):
                refuse_lost_bucket(problem)
            if pause is None or not is_transient(problem, is_write=is_write):
                raise
            log.debug("trying again after %s: %s", type(problem).__name__, problem)
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def retry_if_missing(request: Callable[[], R]) -> R:
    """The answer of a read. "Not there" is believed once the store has said it twice, as an empty listing is."""
    try:
        return request()
    except FileNotFoundError:
        return request()


def is_transient(problem: BaseException, *, is_write: bool = False) -> bool:
    """Whether another try may go better. A "not found" in answer to a write is: its own retry found an upload already ended."""
    if isinstance(problem, FileNotFoundError):
        return is_write and not _has_code(problem, ("NoSuchBucket",))
    if isinstance(problem, (PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)):
        return False
    if isinstance(problem, OSError):
        return problem.errno not in LASTING
    return is_of_client(problem)


def is_of_client(problem: BaseException) -> bool:
    """An error of the libraries beneath that they do not turn into an OSError, such as the error of a truncated body."""
    return type(problem).__module__.split(".")[0] in ("botocore", "aiobotocore", "aiohttp", "fsspec")


def is_refused(problem: BaseException) -> bool:
    """S3 answers a refused condition with 412 or, when two writers race, 409; s3fs wraps it in several ways."""
    return isinstance(problem, FileExistsError) or _has_code(problem, REFUSED) or "PreconditionFailed" in str(problem)


def _has_code(problem: BaseException | None, codes: Iterable[str]) -> bool:
    while problem is not None:
        response = getattr(problem, "response", None)
        if isinstance(response, dict) and response.get("Error", {}).get("Code", "") in codes:
            return True
        problem = problem.__cause__
    return False


def refuse_lost_bucket(problem: FileNotFoundError) -> None:
    """A bucket that does not exist (or is no longer ours) is not an empty folder."""
    if _has_code(problem, ("NoSuchBucket",)):
        raise OSError(errno.EINVAL, "the bucket does not exist") from problem


@contextmanager
def as_store_errors(where: str) -> Generator[None]:
    """Turn the errors of disks and buckets into one sentence; leave the errors of the caller's block alone."""
    try:
        yield
    except FileNotFoundError as problem:
        raise MissingFileError(f"{where} is not there.") from problem
    except PermissionError as problem:
        for code, what in EXPLAINED.items():
            if _has_code(problem, (code,)):
                raise StoreError(f"Cannot use {where}: {what}") from problem
        raise StoreError(
            f"No permission for {where}: correct its permissions, renew credentials that have expired, or choose another store "
            "(DATACOMP_STORE)."
        ) from problem
    except OSError as problem:
        if problem.errno == errno.ENOSPC:
            raise DiskFullError(where) from problem
        raise StoreError(f"Cannot use {where}: {problem}") from problem
    except Exception as problem:
        if is_of_client(problem):
            raise StoreError(f"Cannot use {where}: {problem}") from problem
        raise
