"""The line that shows the progress of a backfill, and when it is written."""

import logging
from datetime import UTC, datetime, timedelta

import pytest

from xrec.backfill.progress import ProgressLine
from xrec.bulk import RunState

STARTED = datetime(2026, 1, 2, tzinfo=UTC)


class Clock:
    """A clock that a test turns, in seconds after the start of the run."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> datetime:
        return STARTED + timedelta(seconds=self.now)


def state_of(num_ok: int, before: int = 0, **failed: int) -> RunState:
    """Of a driver whose first actor was ready five seconds after the start."""
    return RunState(
        num_ok=num_ok,
        failed=failed,
        started_at=STARTED,
        num_rows_before=before,
        working_since=STARTED + timedelta(seconds=5),
    )


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (10.0, "1,020 explained, 5 failed, 100,000 left; 2.0 pairs/s, 13.9 h to go"),
        (0.01, "1,020 explained, 5 failed, 100,000 left; 2,000.0 pairs/s, 50 s to go"),
        (1.0, "1,020 explained, 5 failed, 100,000 left; 20.0 pairs/s, 83 min to go"),
    ],
)
def test_progress_line_tells_this_drivers_rate_and_the_time_left(seconds: float, line: str) -> None:
    clock = Clock()
    progress = ProgressLine(101_025, clock)
    clock.now = 5 + seconds
    assert progress.line(state_of(1020, before=1005, empty_text=5)) == line


def test_progress_line_before_the_first_result_knows_no_rate() -> None:
    line = ProgressLine(7).line(state_of(0))
    assert line == "0 explained, 0 failed, 7 left; 0.0 pairs/s, ? to go"


def test_progress_is_logged_every_ten_seconds_and_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    clock = Clock()
    with caplog.at_level(logging.INFO, logger="xrec"), ProgressLine(40, clock) as progress:
        for num_ok in (0, 10, 20, 30, 40):
            clock.now += 4.0
            progress.show(state_of(num_ok))
    starts = [record.getMessage().partition(",")[0] for record in caplog.records]
    assert starts == ["20 explained", "40 explained"]


def test_progress_on_a_terminal_is_a_bar(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown: list[str] = []
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(
        "rich.progress.Progress.update",
        lambda bar, task, *, completed, description: shown.append(description),
    )
    with caplog.at_level(logging.INFO, logger="xrec"), ProgressLine(40) as progress:
        progress.show(state_of(40))
    assert [line.partition(",")[0] for line in shown] == ["40 explained"]
    assert caplog.records == []
