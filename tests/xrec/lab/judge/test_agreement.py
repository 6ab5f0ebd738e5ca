"""How far judges agree: correlations that are known."""

import pyarrow as pa

from xrec.lab.judge.judge import agreement_lines


def _table(ann: list[float | None], bob: list[float | None], text: str = "a text") -> pa.Table:
    return pa.table(
        {
            "text": [text] * len(ann),
            "gptscore_ann": pa.array(ann, pa.float64()),
            "gptscore_bob": pa.array(bob, pa.float64()),
        }
    )


def lines(table: pa.Table) -> list[str]:
    return agreement_lines("ours", table, ["ann", "bob"])


def test_two_judges_that_rank_alike_far_apart_agree():
    ann = [float(score) for score in range(20)]
    (line,) = lines(_table(ann, [score + 37 for score in ann]))
    assert line == (
        "Judges ann and bob rank the texts of `ours` alike by 1.00, Spearman's correlation "
        "over 20 pairs; their means differ by -37.0."
    )


def test_pairs_without_a_text_or_a_score_are_left_out():
    ann, bob = [1.0, 2.0, None, 4.0, 5.0], [5.0, 4.0, 3.0, None, 1.0]
    (line,) = lines(_table(ann, bob))
    assert "by -1.00" in line
    assert "over 3 pairs" in line
    assert lines(_table(ann, bob, text="")) == []
    assert lines(_table([1.0] * 5, bob)) == []  # it says the same of all
