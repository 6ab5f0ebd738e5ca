"""The rules that the docstring of xrec.bulk states all have tests, by their numbers."""

import re
from pathlib import Path

import xrec.bulk


def test_rules_are_each_tested():
    stated = re.findall(r"^(\d+)\. ", xrec.bulk.__doc__ or "", re.MULTILINE)
    assert stated == [str(number) for number in range(1, len(stated) + 1)]
    texts = "".join(path.read_text() for path in Path(__file__).parent.glob("test_rules_*.py"))
    assert set(re.findall(r"^def test_rule_(\d+)_", texts, re.MULTILINE)) == set(stated)
