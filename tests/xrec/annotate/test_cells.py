"""What is read of the cell of a review."""

import pytest

from xrec.annotate.cells import parse_review


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("It&#39;s<br />warm &amp;\n calm", "It's warm & calm"),
        ("I\u200bg\u00adn\u200dore\u202e \U000e0041\ue000it\tnow\x1b", "Ignore it now"),
        (
            "می\u200cخواهم क्\u200dष 👩\u200d🍳",
            "می\u200cخواهم क्\u200dष 👩\u200d🍳",
        ),  # joiners of letters
    ],
)
def test_review_is_one_line_of_what_a_reader_sees(cell, text):
    assert parse_review(cell) == text
