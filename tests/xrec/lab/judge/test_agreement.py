"""Agreement of judges against ranks by hand, and tables that do not fit."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from xrec.errors import DataError
from xrec.lab.judge import JUDGE_SCORES, agreement, judge_scores, published_scores


def _scores(**judges: list[float]) -> pa.Table:
    rows = [
        {"user_id": f"u{place}", "item_id": "i", "judge": judge, "score": score}
        for judge, scores in judges.items()
        for place, score in enumerate(scores)
    ]
    return pa.Table.from_pylist(rows, schema=JUDGE_SCORES)


def test_agreement_is_of_ranks_so_that_a_level_of_ones_own_does_not_count() -> None:
    scores = _scores(ann=[10, 20, 30, 40, 50], bob=[60, 61, 70, 99, 100], cid=[5, 4, 3, 2, 1])
    rows = {(row["judge"], row["other"]): row for row in agreement(scores).to_pylist()}
    assert set(rows) == {("ann", "bob"), ("ann", "cid"), ("bob", "cid")}
    assert rows["ann", "bob"]["spearman"] == pytest.approx(1)
    assert rows["ann", "bob"]["mean_difference"] == -48
    assert rows["ann", "cid"]["spearman"] == pytest.approx(-1)


def test_agreement_of_five_pairs_equals_the_formula_by_hand() -> None:
    # Ranks 1 2 3 4 5 and 2 1 4 3 5: sum of squared differences 4, 1 - 6 * 4 / (5 * 24) = 0.8.
    row = agreement(_scores(ann=[1, 2, 3, 4, 5], bob=[20, 10, 40, 30, 50])).to_pylist()[0]
    assert row["spearman"] == pytest.approx(0.8)
    assert row["num_pairs"] == 5
    assert row["low"] <= 0.8 <= row["high"]


def test_interval_of_the_agreement_is_about_that_of_ranking_each_draw_anew() -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(0, 1, 300)
    ann, bob = level + rng.normal(0, 1, 300), level + rng.normal(0, 1, 300)
    row = agreement(_scores(ann=ann.tolist(), bob=bob.tolist()), num_samples=800).to_pylist()[0]
    draws = rng.integers(0, 300, (400, 300))
    anew = [spearmanr(ann[drawn], bob[drawn]).statistic for drawn in draws]
    assert [row["low"], row["high"]] == pytest.approx(np.percentile(anew, [2.5, 97.5]), abs=0.03)


def test_pairs_of_one_user_make_the_agreement_no_surer() -> None:
    rng = np.random.default_rng(1)
    ann, bob = rng.normal(0, 1, 40), rng.normal(0, 1, 40)
    once = _scores(ann=ann.tolist(), bob=bob.tolist())
    copies = pa.concat_tables(
        once.set_column(1, "item_id", pa.array([f"i{copy}"] * once.num_rows)) for copy in range(4)
    )
    single, repeated = (agreement(each, num_samples=800).to_pylist()[0] for each in (once, copies))
    width = single["high"] - single["low"]
    assert repeated["high"] - repeated["low"] == pytest.approx(width, rel=0.1)


def test_agreement_with_published_judges_is_over_shared_pairs_and_means_of_several_scores() -> None:
    lines = [
        {"uid": f"u{place}", "iid": "i", "judges": {"gemma2": [place, place + 2.0], "llama": place}}
        for place in range(3)
    ]
    published = published_scores([*lines, {"uid": "u9", "iid": "i", "judges": None}], "judges")
    assert published.num_rows == 9
    ours = _scores(ann=[5, 6, 7, 8])
    rows = agreement(ours, published).to_pylist()
    assert [(row["judge"], row["other"], row["num_pairs"]) for row in rows] == [
        ("ann", "gemma2", 3),
        ("ann", "llama", 3),
    ]
    assert [row["mean_difference"] for row in rows] == [4, 5]


def test_agreement_that_cannot_be_computed_is_null() -> None:
    same, few = (
        agreement(_scores(ann=[1, 2, 3], bob=[7, 7, 7])),
        agreement(_scores(ann=[1, 2], bob=[1, 2])),
    )
    for table in (same, few):
        row = table.to_pylist()[0]
        assert (row["spearman"], row["low"]) == (None, None)


def test_judge_that_scored_nothing_agrees_with_nobody_and_ends_nothing() -> None:
    published = pa.Table.from_pylist(
        [{"user_id": "1", "item_id": "a", "judge": "other", "score": 3.0}], JUDGE_SCORES
    )
    assert agreement(JUDGE_SCORES.empty_table(), published).num_rows == 0


def test_scores_of_other_pairs_and_tables_of_other_columns_are_refused() -> None:
    other = _scores(gemma2=[1, 2]).set_column(1, "item_id", pa.array(["x", "y"]))
    with pytest.raises(DataError, match="2 pairs, none of which is among the 3 scored"):
        agreement(_scores(ann=[1, 2, 3]), other)
    with pytest.raises(DataError, match="columns user_id, item_id, score; expected"):
        agreement(_scores(ann=[1, 2]).drop_columns(["judge"]))
    with pytest.raises(DataError, match="row 1 has uid, iid; expected"):
        published_scores([{"uid": 1, "iid": 2}], "judges")


def test_scores_of_a_table_of_pairs_leave_out_failures_and_pairs_without_a_text() -> None:
    table = pa.table(
        {
            "user_id": ["a", "b", "c"],
            "item_id": ["x", "y", "z"],
            "text": ["one", "two", ""],
            "rouge_l": [0.1, 0.2, 0.0],
            "gptscore_ann": [50.0, None, 0.0],
            "gptscore_ann_failed": [0.0, 1.0, 0.0],
            "gptscore_ann_sample_std": [1.0, None, 0.0],
        }
    )
    assert judge_scores(table).to_pylist() == [
        {"user_id": "a", "item_id": "x", "judge": "ann", "score": 50.0}
    ]
