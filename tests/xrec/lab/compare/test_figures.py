"""Figures of runs: plain means, pairing, and what may be said of a difference."""

import pyarrow as pa
import pytest

from xrec.lab.compare.figures import MetricRow, Run, metric_rows


def _run(rouge: list[float], fmr: list[float | None], usr: float, users: str = "aabbcc") -> Run:
    table = pa.table(
        {
            "user_id": list(users),
            "item_id": [f"i{number}" for number in range(6)],
            "text": ["text"] * 6,
            "rouge_l": pa.array(rouge, pa.float64()),
            "fmr": pa.array(fmr, pa.float64()),
        }
    )
    return Run(table, {"usr": usr})


RUNS = [
    _run([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1, 0, None, 1, None, 1], 0.5),
    _run([0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [1, 0, None, 1, 1, 1], 0.7),
]


def test_figures_are_means_of_pairs_and_seeds_with_the_mean_of_each_seed():
    rouge, fmr, usr = metric_rows(RUNS)
    assert (rouge.metric, rouge.num_pairs) == ("rouge_l", 6)
    assert rouge.value == pytest.approx(0.45)
    assert rouge.by_seed == pytest.approx((0.35, 0.55))
    assert rouge.low < 0.45 < rouge.high
    # Two pairs have no FMR in one of the seeds, and are left out in both.
    assert (fmr.num_pairs, fmr.value) == (4, 0.75)
    assert usr == MetricRow("usr", pytest.approx(0.6), None, None, (0.5, 0.7), 6)


def test_differences_are_of_the_same_pairs_minus_the_first_entry():
    first = [_run([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], [0, 0, 1, 0, None, 0], 0.9)]
    rouge, fmr, usr = metric_rows(RUNS[:1], first)
    assert (rouge.value, rouge.low, rouge.high) == pytest.approx((0.1, 0.1, 0.1))
    assert (fmr.value, fmr.num_pairs) == (0.75, 4)
    assert (usr.value, usr.low) == (pytest.approx(-0.4), None)
    both = metric_rows(RUNS, first)[0]
    assert both.by_seed == pytest.approx((0.1, 0.3))
    assert both.low < 0.1 < 0.3 < both.high
