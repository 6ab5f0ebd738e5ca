"""A driver's metrics are what it did, and not what was there before it."""

from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest

from xrec.backfill import metrics
from xrec.backfill.metrics import BackfillMetrics
from xrec.bulk import Progress

STARTED = datetime(2026, 1, 2, tzinfo=UTC)


class Recorded:
    """Stands for Ray's counters and gauges, by name and tag."""

    values: ClassVar[dict[tuple[str, str], float]] = {}

    def __init__(self, name: str, *description: Any):
        self._name = name

    def inc(self, amount: float, tags: dict[str, str]) -> None:
        key = (self._name.removeprefix("xrec_backfill_"), *tags.values(), "")[:2]
        self.values[key] = self.values.get(key, 0) + amount

    def set(self, value: float) -> None:
        self.values[self._name.removeprefix("xrec_backfill_"), ""] = value


def test_metrics_count_what_this_driver_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "Counter", Recorded)
    monkeypatch.setattr(metrics, "Gauge", Recorded)
    monkeypatch.setattr(Recorded, "values", {})
    recorder = BackfillMetrics(100)
    for num_ok, failed, carried, tokens, deaths in (
        (20, {"empty_text": 3}, 2.0, 50.0, 1),  # of earlier drivers
        (30, {"empty_text": 4}, 5.0, 90.0, 3),
        (34, {"engine_error": 1}, 5.0, 99.0, 3),  # a retry
    ):
        costs = {"carried": carried, "num_generated_tokens": tokens, "seconds": tokens / 10}
        recorder.record(
            Progress(
                num_ok=num_ok,
                failed=failed,
                costs=costs,
                num_deaths=deaths,
                started_at=STARTED,
                written_at=STARTED,
            )
        )
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
