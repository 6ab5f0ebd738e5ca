import pytest

from xrec.evaluate.text_metrics import aspect_pattern, named_aspects

PATTERN = aspect_pattern(["patio", "dog-friendly patio", "Live Jazz", "view"])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Come for the LIVE  jazz.", {"live jazz"}),
        ("Come for the live\njazz tonight", {"live jazz"}),
        ("A dog-friendly patio awaits.", {"dog-friendly patio"}),
        ("A patio awaits, and a dog-friendly patio too.", {"patio", "dog-friendly patio"}),
        ("An interview in the reviews.", set()),
        ("", set()),
        ("The view, the view!", {"view"}),
    ],
)
def test_named_aspects_are_whole_phrases_in_any_case_and_spacing(text, named):
    assert named_aspects(text, PATTERN) == named


def test_phrases_are_taken_literally_and_the_longer_one_first():
    assert named_aspects("a c++ bar", aspect_pattern(["c++ bar", "c.* bar"])) == {"c++ bar"}
    nights = aspect_pattern(["live music", "live music nights"])
    assert named_aspects("Live music nights!", nights) == {"live music nights"}
