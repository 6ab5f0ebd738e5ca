"""What a backfill's driver reports: progress and metrics; the size of chunks; the preview."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ray.util import metrics

from tests.xrec.backfill.runs import Runs
from xrec.backfill.driver import BackfillMetrics
from xrec.backfill.plan import run_request
from xrec.bulk import Identity, Progress

NOW = datetime(2026, 1, 2, tzinfo=UTC)
BEFORE = Progress(
    num_ok=6,
    failed={"timeout": 2},
    costs={"seconds": 8.0, "carried": 3, "carried_failed": 1, "num_prompt_tokens": 100},
    written_at=NOW,
    started_at=NOW,
    working_since=NOW - timedelta(seconds=10),
    num_rows_before=3,
)


def test_metrics_count_the_work_since_the_driver_started(monkeypatch):
    counted: dict[tuple[str, str], float] = {}

    def count(self: Any, value: float, tags: dict[str, str] | None = None) -> None:
        key = self.info["name"], next(iter((tags or {}).values()), "")
        counted[key] = counted.get(key, 0) + value

    monkeypatch.setattr(metrics.Counter, "inc", count)
    monkeypatch.setattr(metrics.Gauge, "set", count)
    after = BEFORE.model_copy(
        update={
            "num_ok": 11,
            "failed": {"timeout": 3},
            "costs": {**BEFORE.costs, "seconds": 9.5, "carried": 5, "num_prompt_tokens": 170},
            "num_deaths": 1,
        }
    )
    shown = BackfillMetrics(28)
    shown.record(BEFORE)
    counted.clear()
    shown.record(after)
    assert counted == {
        ("xrec_backfill_pairs_total", "explained"): 3,
        ("xrec_backfill_pairs_total", "carried"): 2,
        ("xrec_backfill_pairs_total", "timeout"): 1,
        ("xrec_backfill_tokens_total", "prompt"): 70,
        ("xrec_backfill_deaths_total", ""): 1,
        ("xrec_backfill_actor_seconds_total", ""): 1.5,
        ("xrec_backfill_pairs_left", ""): 14,
    }


ENDPOINT = {"engine": {"kind": "endpoint", "model": "m", "concurrency": 4}}


@pytest.mark.parametrize(
    ("num_pairs", "size", "values"),
    [
        (0, 1, {}),
        (100, 13, {}),  # four chunks for each of two actors
        (100_000, 1024, {}),
        (100, 25, ENDPOINT),  # always one process
        (100_000, 1024, ENDPOINT),  # a kill loses no reply, since each is stored within seconds
        (100_000, 7, {"rows_per_chunk": 7}),
    ],
)
def test_chunks_are_small_enough_to_occupy_all_actors_and_to_lose_little(
    runs: Runs, num_pairs, size, values
):
    config = runs.config(**{"rows_per_chunk": None, **values})
    request = run_request(config, Identity(kind="explanations", config={}, inputs={}))
    assert request.rows_per_chunk(num_pairs) == size
