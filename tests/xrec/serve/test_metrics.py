"""What `/metrics` shows, and that labels are those that are declared."""

import pytest

from xrec.serve import metrics
from xrec.serve.metrics import Metric, Recorder


def test_names_are_distinct_and_have_the_endpoints_prefix() -> None:
    names = [value.name for value in vars(metrics).values() if isinstance(value, Metric)]
    assert len(set(names)) == len(names)
    assert all(name.startswith("xrec_serve_") for name in names)


def test_recorder_shows_what_was_recorded(ray_cluster: None) -> None:
    recorder = Recorder()
    recorder.increase(metrics.PAIRS, {"source": "live"}, by=3)
    recorder.set(metrics.BACKFILL_ROWS, 17)
    recorder.observe(metrics.FIRST_TOKEN_SECONDS, 0.03)
    text = recorder.text().decode()
    assert 'xrec_serve_pairs_total{source="live"} 3.0\n' in text
    assert "xrec_serve_backfill_rows 17.0\n" in text
    assert 'xrec_serve_first_token_seconds_bucket{le="0.02"} 0.0\n' in text
    assert 'xrec_serve_first_token_seconds_bucket{le="0.05"} 1.0\n' in text
    with pytest.raises(ValueError, match="Incorrect label names"):
        recorder.increase(metrics.PAIRS, {"user_id": "u1"})
