"""The look-up benchmark: every contestant finds each user's ten rows, whatever the row groups."""

from benchmarks.lookup import run


def test_contestants_find_the_same_rows_in_row_groups_of_any_size():
    lines = list(run(4000, 10, (1000, 2000)))  # each look-up asserts that it finds ten rows
    found = [line["contestant"] for line in lines if "contestant" in line]
    names = ["first", "find", "deltalake", "polars", "duckdb_arrow"]
    assert found == 2 * names
    small, large = [line["row_groups_a_file"] for line in lines if "footer_kb" in line]
    assert small > large > 1
