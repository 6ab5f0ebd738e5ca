"""The look-up benchmark: every contestant finds each user's ten rows, before and after."""

from benchmarks.lookup import run


def test_contestants_find_the_same_rows_before_and_after_a_compaction() -> None:
    lines = list(run(400, 10, 100, 128))  # each look-up asserts that it finds ten rows
    names = ["first", "footer", "memory", "dataset", "bucket"]
    assert [line["contestant"] for line in lines] == [*names, *names, "follow"]
    assert [line["files"] for line in lines if "files" in line] == [4] * 5 + [1] * 5
