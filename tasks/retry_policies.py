"""Defines how tasks run: retries, timeouts and caching. Only transient failures are retried: a wrong request, broken data or a
run that loses too much fails at once. Prefect's result cache is never used for data, because it considers a task cached after
its data is deleted. Our store checks the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import prefect.client.schemas.objects as prefect_objects
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from datacomp_core.errors import DataError, DiskFullError, IncompleteError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

    from prefect import Task
    from prefect.cache_policies import CachePolicy

NEVER_RETRIED = (
    *(SpecError, DataError, IncompleteError, DiskFullError, AssertionError, TypeError, KeyError),
    *(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError),
)


def is_transient(task: Task[Any, Any], run: object, state: prefect_objects.State[Any]) -> bool:
    """Retry failures of the network or a machine; never errors of the user or our code."""
    try:
        state.result()
    except NEVER_RETRIED:
        return False
    except (OSError, ConnectionError, TimeoutError):
        return True
    except Exception as problem:
        return type(problem).__name__ in {"StoreError", "LostProcessError"}
    return False


class TaskPolicy(TypedDict, total=False):
    """The arguments of `@task` that a policy sets."""

    cache_policy: CachePolicy
    persist_result: bool
    retries: int
    retry_delay_seconds: Callable[[int], list[float]]
    retry_jitter_factor: float
    retry_condition_fn: Callable[..., bool]


LOCAL: TaskPolicy = {"cache_policy": NO_CACHE, "persist_result": False}
"""Work on this machine's data: minutes, nothing to wait for."""

NETWORK: TaskPolicy = {
    **LOCAL,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=10),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": is_transient,
}
"""Reads or writes over a network: a step resumes where it stopped, so a retry is cheap."""

TRAINING: TaskPolicy = {**NETWORK, "retries": 2}
"""Long runs on GPUs: a retry resumes from the last checkpoint."""
