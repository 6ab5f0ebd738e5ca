from xrec.evaluate.ablation_report import render_ablation
from xrec.evaluate.bootstrap import Estimate

FULL = {
    "nll_own": Estimate(3.1, 3.0, 3.2),
    "personalization_gain": Estimate(0.01, -0.01, 0.03),
    "bleu": Estimate(4.7),
}


def with_difference(low: float, high: float) -> dict[str, Estimate]:
    difference = Estimate((low + high) / 2, low, high)
    return {
        "nll_own": Estimate(3.2, 3.1, 3.3),
        "personalization_gain": Estimate(0.0, 0.0, 0.0),
        "nll_above_full": difference,
    }


def test_ablation_report_has_a_row_a_variant_and_a_column_for_each_metric_that_is_there():
    lines = render_ablation(
        {"full": FULL, "constant": with_difference(0.1, 0.3)}, 1200, 40
    ).splitlines()
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    assert table[0] == [
        "variant",
        "NLL, own vector",
        "gain of the own vector",
        "NLL above full",
        "BLEU",
    ]
    assert [row[0] for row in table[2:]] == ["`full`", "`constant`"]
    assert table[2][1] == "3.1000 (3.0000 to 3.2000)"
    assert "| 4.7000 |" in next(line for line in lines if line.startswith("| `full`"))
    assert any("1,200 held-out pairs of 40 users" in line for line in lines)


def test_ablation_report_of_one_training_a_variant_says_nothing_of_better_or_worse():
    variants = {"full": FULL, "constant": with_difference(0.1, 0.3)}
    text = render_ablation(variants, 10, 5)
    assert "0.2000 (0.1000 to 0.3000)" in text
    assert "This is no verdict: each variant was trained once" in text
    assert "better than" not in text
    assert "worse than" not in text
