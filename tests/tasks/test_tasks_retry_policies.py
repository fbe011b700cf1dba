"""What is retried, asked of Prefect itself: real task runs that fail for a real reason."""

from __future__ import annotations

import pytest

from datacomp_core.errors import DatacompError, DataError, DiskFullError, IncompleteError, LostProcessError, SpecError, StoreError
from tasks.retry_policies import is_transient


def fate(problem: Exception) -> bool:
    """Whether a task that ended so is tried again."""
    from prefect.states import exception_to_failed_state
    from prefect.utilities.asyncutils import run_coro_as_sync

    state = run_coro_as_sync(exception_to_failed_state(problem))
    return is_transient(None, None, state)  # pyright: ignore[reportArgumentType] - neither is looked at


@pytest.mark.parametrize(
    ("problem", "again"),
    [
        (SpecError("x"), False),
        (DataError("x"), False),
        (IncompleteError("x"), False),
        (DiskFullError("x"), False),
        (AssertionError("x"), False),
        (DatacompError("x"), False),
        (StoreError("the bucket does not answer"), True),
        (LostProcessError("a rank was killed"), True),
        (ConnectionResetError("x"), True),
        (TimeoutError("x"), True),
        (OSError("x"), True),
        (FileNotFoundError("x"), False),
        (PermissionError("x"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_what_the_network_or_a_machine_did_is_tried_again(problem: Exception, again: bool) -> None:
    assert fate(problem) is again
