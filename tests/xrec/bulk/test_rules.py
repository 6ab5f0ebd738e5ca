"""The rules that the docstring of xrec.bulk states all have tests, by their numbers."""

from pathlib import Path

import xrec.bulk
from tests.numbered import check_each_is_tested


def test_rules_are_each_tested() -> None:
    check_each_is_tested(xrec.bulk, Path(__file__).parent, files="test_rules_*.py", word="rule")
