"""What benchmarks share: turns, medians and ratios, tables."""

from benchmarks.report import summary


def test_summary_has_medians_and_the_median_of_the_ratios_within_a_round():
    rates = {"plain": [1.0, 0.5, 1.0], "ours": [4.0, 1.0, 9.0]}  # the second round is busy
    rows = [
        {"round": number, "contestant": name, "rate": of[number], "about": "x"}
        for number in range(3)
        for name, of in rates.items()
    ]
    plain, ours = summary(rows, "rate", ["plain", "absent"])
    assert plain == {
        "contestant": "plain",
        "rate": 1.0,
        "about": "x",
        "of plain": 1.0,
        "of absent": None,
    }
    assert (ours["rate"], ours["of plain"]) == (4.0, 4.0)
