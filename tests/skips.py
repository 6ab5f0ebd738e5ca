"""A pytest plugin: a skip that no committed line allows fails the run.

The lines are `allowed_skips` and `allowed_skips_off_ci` in pyproject.toml, each the beginning of a
reason. Where the environment variable CI is set, those of `allowed_skips_off_ci` are not allowed.
"""

import os

import pytest

_OFF_CI = "allowed_skips_off_ci"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini("allowed_skips", "beginnings of the reasons to skip", "linelist", [])
    parser.addini(_OFF_CI, "more of them, for machines where CI is not set", "linelist", [])


def pytest_configure(config: pytest.Config) -> None:
    allowed = [*config.getini("allowed_skips")]
    if not os.environ.get("CI"):
        allowed += config.getini(_OFF_CI)
    config.pluginmanager.register(_Skips(tuple(allowed)))


class _Skips:
    """Collects the skips that are not allowed; with forks, in the process that reports."""

    def __init__(self, allowed: tuple[str, ...]):
        self._allowed = allowed
        self._refused: dict[str, str] = {}

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def _note(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
        reason = text.removeprefix("Skipped: ")
        if not reason.startswith(self._allowed):
            self._refused[report.nodeid] = reason

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._refused and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._refused:
            terminalreporter.section("skips that pyproject.toml does not allow", red=True)
            for nodeid, reason in self._refused.items():
                terminalreporter.line(f"{nodeid}: {reason}", red=True)
