"""A driver's metrics and the line that it shows: what it did, and not what was there before it."""

from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from xrec.backfill import driver
from xrec.backfill.driver import BackfillMetrics, progress_line
from xrec.bulk import Progress

STARTED = datetime(2026, 1, 2, tzinfo=UTC)


def progress_of(**values: Any) -> Progress:
    """Of a driver that had its first result five seconds after the start."""
    ready = STARTED + timedelta(seconds=5)
    return Progress(written_at=STARTED, started_at=STARTED, working_since=ready, **values)


class Recorded:
    """Stands for Ray's counters and gauges, by name and tag."""

    values: ClassVar[dict[tuple[str, str], float]] = {}

    def __init__(self, name: str, *description: Any):
        self._name = name.removeprefix("xrec_backfill_")

    def inc(self, amount: float, tags: dict[str, str]) -> None:
        key = (self._name, *tags.values(), "")[:2]
        self.values[key] = self.values.get(key, 0) + amount

    def set(self, value: float) -> None:
        self.values[self._name, ""] = value


def test_metrics_count_what_this_driver_did(monkeypatch):
    monkeypatch.setattr(driver, "Counter", Recorded)
    monkeypatch.setattr(driver, "Gauge", Recorded)
    monkeypatch.setattr(Recorded, "values", {})
    recorder = BackfillMetrics(100)
    for num_ok, failed, carried, tokens, deaths in (
        (20, {"empty_text": 3}, 2.0, 50.0, 1),  # of earlier drivers
        (30, {"empty_text": 4}, 5.0, 90.0, 3),
        (34, {"engine_error": 1}, 5.0, 99.0, 3),  # a retry
    ):
        costs = {"carried": carried, "num_generated_tokens": tokens, "seconds": tokens / 10}
        recorder.record(progress_of(num_ok=num_ok, failed=failed, costs=costs, num_deaths=deaths))
    assert Recorded.values == {
        ("pairs_total", "explained"): 11,
        ("pairs_total", "carried"): 3,
        ("pairs_total", "empty_text"): 1,
        ("pairs_total", "engine_error"): 1,
        ("tokens_total", "generated"): 49,
        ("deaths_total", ""): 2,
        ("actor_seconds_total", ""): pytest.approx(4.9),
        ("pairs_left", ""): 65,
    }


def test_progress_line_tells_this_drivers_rate_and_the_time_left():
    progress = progress_of(num_ok=1020, num_rows_before=1005, failed={"empty_text": 5})
    line = progress_line(progress, 101_025, STARTED + timedelta(seconds=5 + 10))
    assert line == "1,020 explained, 5 failed, 100,000 left; 2.0 pairs/s, 13.9 h to go"


def test_progress_line_before_the_first_result_knows_no_rate():
    line = progress_line(progress_of(), 7, STARTED)
    assert line == "0 explained, 0 failed, 7 left"
