"""The generation benchmark: equal texts of all contestants."""

import pytest

from benchmarks.generate import CONTESTANTS, Contest, app, measure_here, prepare


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


def test_measure_here_texts_of_another_length_are_an_error(contest, monkeypatch):
    monkeypatch.setitem(CONTESTANTS, "ours", lambda setup: iter([(0, [3] * 5)]))
    with pytest.raises(ValueError, match="ours wrote texts of 5 to 5 tokens, expected 6"):
        measure_here(contest, "ours")


@pytest.mark.slow
def test_run_measures_each_contestant_in_a_process_of_its_own(contest, run):
    options = ["--contestant", "loop", "--contestant", "ours", "--items-per-user", "4"]
    options += ["--num-pairs", "8", "--num-loop-pairs", "4", "--max-new-tokens", "6"]
    options += ["--llm", contest.llm, "--dtype", "float32", "--rounds", "1"]
    (table, *_) = run(app, "run", contest.workspace, *options).values()
    assert [row["contestant"] for row in table] == ["loop", "ours"]
    assert table[0]["of loop"] == 1
