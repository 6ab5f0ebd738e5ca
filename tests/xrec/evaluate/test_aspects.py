import pytest

from xrec.evaluate.aspects import aspect_pattern, chance_level, named_aspects, names_only

ASPECTS = ["patio", "dog-friendly patio", "Live Jazz", "view"]
PATTERN = aspect_pattern(ASPECTS)


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


def test_pattern_takes_phrases_literally():
    assert named_aspects("a c++ bar", aspect_pattern(["c++ bar", "c.* bar"])) == {"c++ bar"}


def test_phrase_that_begins_with_another_is_not_taken_for_it():
    assert named_aspects(
        "Live music nights!", aspect_pattern(["live music", "live music nights"])
    ) == {"live music nights"}


def test_text_that_names_the_right_aspect_alone_is_right():
    assert names_only(
        ["Great live jazz.", "A fine view."], ["Live Jazz", "patio"], PATTERN
    ).tolist() == [True, False]


def test_text_that_names_several_or_no_aspects_is_wrong():
    everything = "live jazz, a patio, a dog-friendly patio, a view"
    assert names_only([everything, "Lovely place."], ["Live Jazz", "view"], PATTERN).tolist() == [
        False,
        False,
    ]


def test_chance_level_is_the_mean_of_the_reciprocal_counts():
    assert chance_level([("a", "b"), ("a", "b", "c", "d")]) == pytest.approx((1 / 2 + 1 / 4) / 2)


def test_aspects_that_are_missing_are_refused():
    with pytest.raises(ValueError, match="one or more phrases"):
        aspect_pattern([" "])
    with pytest.raises(ValueError, match="each with one aspect"):
        chance_level([("a",), ()])
