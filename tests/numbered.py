"""Statements that a docstring numbers, each with tests that are named for its number."""

import re
from pathlib import Path
from types import ModuleType


def check_each_is_tested(module: ModuleType, tests: Path, *, files: str, word: str) -> None:
    """Assert that the module numbers its statements from 1 on, and which have tests.

    Statement N has a test `test_<word>_N_...` in one of the `files` (a pattern) of the folder
    `tests`, and no test has another number.
    """
    stated = re.findall(r"^(\d+)\. ", module.__doc__ or "", re.MULTILINE)
    texts = [path.read_text() for path in tests.glob(files)]
    tested = re.findall(rf"^def test_{word}_(\d+)_", "".join(texts), re.MULTILINE)
    assert stated == [str(number) for number in range(1, len(stated) + 1)]
    assert set(tested) == set(stated)
