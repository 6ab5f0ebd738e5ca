"""The generation benchmark: equal texts of all contestants, and ratios of medians."""

import json

import pytest
from typer.testing import CliRunner

from benchmarks.generate import CONTESTANTS, app, measure_here, summary
from benchmarks.generate_setup import Contest, prepare


@pytest.fixture
def contest(workspace):
    """8 pairs of two users of the town."""
    return Contest(str(workspace), str(workspace / "llm"), "float32", 1, 8, 4, 6)


def test_contestants_write_the_same_texts(contest):
    texts = {
        name: dict(CONTESTANTS[name](prepare(contest))) for name in ("loop", "static-8", "ours")
    }
    assert [len(ids) for ids in texts["loop"].values()] == [6] * 8
    assert texts["static-8"] == texts["loop"]
    assert texts["ours"] == texts["loop"]


def test_measure_here_reports_what_ours_consisted_of(contest):
    row = measure_here(contest, "ours")
    assert 0.1 < row["prefix hits"] < 1
    assert row["tokens/s"] == pytest.approx(6 * row["pairs/s"], rel=0.02)
    assert row["peak GiB"] > 0


def test_measure_here_texts_of_another_length_are_an_error(contest, monkeypatch):
    monkeypatch.setitem(CONTESTANTS, "ours", lambda setup: iter([(0, [3] * 5)]))
    with pytest.raises(ValueError, match="ours wrote texts of 5 to 5 tokens, expected 6"):
        measure_here(contest, "ours")


def test_summary_ratios_are_of_medians():
    rates = {"loop": [1, 3, 2], "static-8": [4, 4, 4], "static-32": [5, 1, 2], "ours": [8, 8, 9]}
    rows = [
        {"round": number, "contestant": f"{name}, 4 items", "pairs/CPU s": float(of[number])}
        for number in range(3)
        for name, of in rates.items()
    ]
    table = {row["contestant"].split(",")[0]: row for row in summary(rows)}
    assert (table["ours"]["of loop"], table["ours"]["of best static"]) == (4.0, 2.0)
    assert table["static-32"]["pairs/CPU s"] == 2.0


@pytest.mark.slow
def test_run_measures_each_contestant_in_a_process_of_its_own(contest, tmp_path):
    options = ["--contestant", "loop", "--contestant", "ours", "--items-per-user", "4"]
    options += ["--num-pairs", "8", "--num-loop-pairs", "4", "--max-new-tokens", "6"]
    options += ["--llm", contest.llm, "--dtype", "float32", "--rounds", "1"]
    arguments = ["run", contest.workspace, *options, "--output", str(tmp_path)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (table,) = list(json.loads((tmp_path / "table.json").read_text()).values())[:1]
    assert [row["contestant"] for row in table] == ["loop, 4 items", "ours, 4 items"]
    assert table[0]["of loop"] == 1
