"""The generation benchmark: equal texts of all contestants."""

import pytest

from benchmarks.generate import CONTESTANTS, Contest, app, measure_here, prepare


@pytest.fixture
def contest(workspace):
    """8 pairs of two users of the town."""
    return Contest(str(workspace), str(workspace / "llm"), "float32", 1, 8, 4, 6)


def test_contestants_write_the_same_texts(contest):
    names = ("loop", "static-8", "ours")
    loop, static, ours = (dict(CONTESTANTS[name](prepare(contest))) for name in names)
    assert [len(ids) for ids in loop.values()] == [6] * 8
    assert loop == static == ours


def test_measure_here_texts_of_another_length_are_an_error(contest, monkeypatch):
    monkeypatch.setitem(CONTESTANTS, "ours", lambda setup: iter([(0, [3] * 5)]))
    with pytest.raises(ValueError, match="ours wrote texts of 5 to 5 tokens, expected 6"):
        measure_here(contest, "ours")


@pytest.mark.slow
def test_run_measures_each_contestant_in_a_process_of_its_own(contest, run):
    names, toy = ["loop", "ours"], {"llm": contest.llm, "dtype": "float32", "rounds": 1}
    sizes = {"num_pairs": 8, "num_loop_pairs": 4, "items_per_user": 4, "max_new_tokens": 6}
    (table, *_) = run(app, "run", contest.workspace, contestant=names, **sizes, **toy).values()
    assert [row["contestant"] for row in table] == names
    assert table[0]["of loop"] == 1
