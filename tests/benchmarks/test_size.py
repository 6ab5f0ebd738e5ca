"""The house has no import circle."""

from benchmarks.size import circles


def test_no_import_circles():
    assert circles() == []
