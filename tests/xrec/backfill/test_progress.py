"""The line that shows the progress of a backfill."""

from datetime import UTC, datetime, timedelta

import pytest

from xrec.backfill.driver import progress_line
from xrec.bulk import Progress

STARTED = datetime(2026, 1, 2, tzinfo=UTC)


def progress_of(num_ok: int, before: int = 0, **failed: int) -> Progress:
    """Of a driver whose first actor was ready five seconds after the start."""
    return Progress(
        written_at=STARTED,
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
    at = STARTED + timedelta(seconds=5 + seconds)
    assert progress_line(progress_of(1020, before=1005, empty_text=5), 101_025, at) == line


def test_progress_line_before_the_first_result_knows_no_rate() -> None:
    line = progress_line(progress_of(0), 7, STARTED)
    assert line == "0 explained, 0 failed, 7 left; 0.0 pairs/s, ? to go"
