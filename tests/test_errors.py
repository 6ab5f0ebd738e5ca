"""The errors of the product: their messages in one file, and how they travel between processes."""

import pickle

from tests.errors import MESSAGES, messages
from xrec.errors import ConfigError


def test_messages_are_those_of_the_file():
    assert messages() == MESSAGES.read_text(), "run: python -m tests.errors, and read the changes"


def test_every_error_has_a_code():
    without = [line for line in messages().splitlines() if " -: " in line]
    assert {line.split()[0] for line in without} == {"UnknownIdError"}  # which makes its own


def test_pickled_error_keeps_its_fields():
    error = ConfigError("folds must be at least 2, got 1", code="too_few", key="folds", saw=1)
    error.problems = {"folds": "too_few"}
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.code, copy.key, copy.saw) == (str(error), "too_few", "folds", 1)
    assert copy.problems == error.problems
