"""The look-up benchmark: every contestant finds each user's ten rows."""

from benchmarks.lookup import run


def test_contestants_find_the_same_rows():
    lines = list(run(4000, 10))  # each look-up asserts that it finds ten rows
    found = [line["contestant"] for line in lines if "contestant" in line]
    assert found == ["first", "find", "deltalake", "polars", "duckdb_arrow"]
