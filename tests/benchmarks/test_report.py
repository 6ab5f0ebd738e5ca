"""What benchmarks share: turns, medians and ratios, tables."""

import json

from benchmarks.report import summary, take_turns


def test_take_turns_runs_all_in_each_round_and_turns_the_order(tmp_path):
    ran = []
    calls = {name: lambda name=name: ran.append(name) or {"seconds": 1.5} for name in ("a", "b")}
    rows = take_turns("toy", calls, 3, tmp_path)
    assert ran == ["a", "b", "b", "a", "a", "b"]
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert all(line.pop("machine")["cores"] and line.pop("kind") == "toy" for line in lines)
    assert lines == rows


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
