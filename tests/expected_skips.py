"""Fails a run in which a test was skipped for a reason that is not listed here, so that no test disappears unnoticed.

`make setup` installs everything that pip can install: a missing package is never a reason.
"""

from __future__ import annotations

import re

import pytest

REASONS = {
    r"no CUDA device|one CUDA device": "the tests in tests/gpu need one or two",
    r"this machine has a CUDA device": "the tests of the messages for machines without one",
    r"this torch is a build for CPUs.*": "the test of what is removed from the CUDA build",
    r"no Chromium.*": "pip cannot install a browser",
    r"PostgreSQL is not installed.*": "pip cannot install a database server",
    r"needs Debian's slurm-wlm, and root": "pip cannot install Slurm",
    r"needs root and Debian's debootstrap": "the tests in fresh Debian systems",
    r"needs pyspark and a Java runtime": "img2dataset's distributor; pyspark alone is 450 MB",
    r"these tests fill 20 GB.*|an engine of our own needs root|.* not found: apt install docker.io .*": "tests/stack",
    r"network namespaces need root.*|no network namespace can be made here.*": "two machines on one",
    r"emulating machines needs root.*|namespaces are not allowed here.*": "the cluster of two machines on one",
    r"SeaweedFS is not installed.*": "its package has a wheel for Linux on x86_64 only",
    r"needs /dev/full": "not every system has it",
}
"""Patterns of the whole reason, each with what cannot be had everywhere."""
EXPECTED = re.compile("|".join(f"(?:{pattern})" for pattern in REASONS), re.DOTALL)


class UnexpectedSkips:
    """Notes skipped tests and modules whose reason is not listed, and fails the run for them."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not hasattr(report, "wasxfail"):
            self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped:
            return
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr).removeprefix("Skipped: ")
        if not EXPECTED.fullmatch(reason):
            self.found[report.nodeid] = reason

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.found and session.exitstatus in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.found:
            terminalreporter.section("unexpected skips (tests/expected_skips.py lists the expected reasons)", red=True)
            for test, reason in self.found.items():
                terminalreporter.line(f"{test}: {reason}")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # with -n the reports of all processes come to the first one
        config.pluginmanager.register(UnexpectedSkips(), "unexpected-skips")
