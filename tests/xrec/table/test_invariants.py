"""The invariants that the docstring of xrec.table states all have tests, by their numbers."""

from pathlib import Path

import xrec.table
from tests.numbered import check_each_is_tested


def test_invariants_are_each_tested() -> None:
    check_each_is_tested(
        xrec.table, Path(__file__).parent, files="test_invariants_*.py", word="invariant"
    )
