"""The house has no import circle."""

from benchmarks.size import circles


def test_neither_modules_nor_packages_import_each_other_in_a_circle():
    assert circles() == []
