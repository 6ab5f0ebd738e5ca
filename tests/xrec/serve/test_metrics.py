"""The table of metrics: names, what `/metrics` shows, and only declared labels."""

import pytest

from xrec.serve import metrics
from xrec.serve.metrics import FRONTEND, GENERATOR, Metric, Recorder


def test_names_are_distinct_and_have_the_endpoints_prefix() -> None:
    declared = {value.name for value in vars(metrics).values() if isinstance(value, Metric)}
    recorded = {metric.name for metric in (*FRONTEND, *GENERATOR)}
    assert declared == recorded
    assert all(name.startswith("xrec_serve_") for name in declared)


def test_recorder_shows_what_was_recorded(ray_cluster: None) -> None:
    recorder = Recorder(FRONTEND)
    recorder.increase(metrics.PAIRS, {"source": "live"}, by=3)
    recorder.set(metrics.BACKFILL_ROWS, 17)
    recorder.observe(metrics.FIRST_TOKEN_SECONDS, 0.03)
    text = recorder.text().decode()
    assert 'xrec_serve_pairs_total{source="live"} 3.0\n' in text
    assert "xrec_serve_backfill_rows 17.0\n" in text
    assert 'xrec_serve_first_token_seconds_bucket{le="0.02"} 0.0\n' in text
    assert 'xrec_serve_first_token_seconds_bucket{le="0.05"} 1.0\n' in text


def test_recorder_refuses_a_label_that_is_not_declared(ray_cluster: None) -> None:
    with pytest.raises(ValueError, match="Incorrect label names"):
        Recorder(FRONTEND).increase(metrics.PAIRS, {"user_id": "u1"})
