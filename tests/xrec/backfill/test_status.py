"""The line that shows the progress of a backfill, and when it is written."""

import logging
from typing import Any

import pytest
from xrec.backfill.status import Status, with_status

from tests.xrec.backfill.test_report import COMMITS


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (10.0, "20 explained, 0 failed, 100,000 left; 2.0 pairs/s, 13.9 h to go"),
        (0.01, "20 explained, 0 failed, 100,000 left; 2,000.0 pairs/s, 50 s to go"),
        (1.0, "20 explained, 0 failed, 100,000 left; 20.0 pairs/s, 83 min to go"),
    ],
)
def test_status_line_tells_rate_and_time_left(seconds: float, line: str) -> None:
    status = Status(100_020, started_at=5.0)
    status.add(COMMITS[0])
    assert status.line(5.0 + seconds) == line


def test_with_status_passes_each_commit_on_and_writes_at_least_the_last_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO, logger="xrec"):
        assert list(with_status(iter(COMMITS), num_left=110)) == COMMITS
    assert caplog.records[-1].getMessage().startswith("105 explained, 5 failed, 0 left; ")


def test_with_status_on_a_terminal_passes_each_commit_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert list(with_status(iter(COMMITS), num_left=110)) == COMMITS
