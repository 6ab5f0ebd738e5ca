"""How far judges agree: correlations that are known, with an interval by user."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from xrec.lab.judge import agreement_lines
from xrec.lab.judge.agreement import rank_correlation


def _table(ann: list[float | None], bob: list[float | None], text: str = "a text") -> pa.Table:
    return pa.table(
        {
            "user_id": [f"u{place // 2}" for place in range(len(ann))],
            "text": [text] * len(ann),
            "gptscore_ann": pa.array(ann, pa.float64()),
            "gptscore_bob": pa.array(bob, pa.float64()),
        }
    )


def lines(table: pa.Table) -> list[str]:
    return agreement_lines("ours", table, ["ann", "bob"], num_samples=100, seed=0)


def test_two_judges_that_rank_alike_far_apart_agree() -> None:
    ann = [float(score) for score in range(20)]
    (line,) = lines(_table(ann, [score + 37 for score in ann]))
    assert line == (
        "Judges ann and bob rank the texts of `ours` alike by 1.00 (1.00 to 1.00), Spearman's "
        "correlation over 20 pairs; their means differ by -37.0."
    )


def test_pairs_without_a_text_or_a_score_are_left_out() -> None:
    ann, bob = [1.0, 2.0, None, 4.0, 5.0], [5.0, 4.0, 3.0, None, 1.0]
    (line,) = lines(_table(ann, bob))
    assert "by -1.00" in line
    assert "over 3 pairs" in line
    assert lines(_table(ann, bob, text="")) == []
    assert lines(_table([1.0] * 5, bob)) == []  # it says the same of all


def test_rank_correlation_is_spearmans_with_an_interval_by_user() -> None:
    rng = np.random.default_rng(0)
    left = rng.integers(0, 5, 60).astype(np.float64)
    right = left + rng.normal(size=60)
    each, by_six = (
        rank_correlation(left, right, users, num_samples=500, seed=0)
        for users in (range(60), [number // 10 for number in range(60)])
    )
    assert each is not None
    assert by_six is not None
    assert each.value == by_six.value == pytest.approx(spearmanr(left, right).statistic)
    assert (each.low, each.high) != (by_six.low, by_six.high)
    alone = rank_correlation(left, right, ["one"] * 60, num_samples=500, seed=0)
    assert alone is not None
    assert (alone.low, alone.high) == (None, None)


def test_interval_of_a_correlation_covers_it_in_about_95_of_100_draws() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for draw in range(100):
        x = rng.normal(size=120)
        y = 0.5 * x + np.sqrt(0.75) * rng.normal(size=120)
        found = rank_correlation(x, y, range(120), num_samples=300, seed=draw)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 6 / np.pi * np.arcsin(0.25) <= found.high  # of a normal pair
    assert inside >= 87
