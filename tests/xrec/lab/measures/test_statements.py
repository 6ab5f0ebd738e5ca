"""Statements of texts against those of reviews, counted by hand."""

import numpy as np
import pytest

from tests.world.town import dataset_of, held_out
from xrec.lab.measures.measure import ScoredTexts
from xrec.lab.measures.statements import Statement, Statements, aspects_named, statements_made

PAIRS = held_out((0, 0), (1, 0), (0, 1), (2, 2))
DATASET = dataset_of(
    aspects=["garden", "service", "beer", "wine list", "gardens"],
    named=[
        (0, 0, 0, "positive", "quiet"),
        (0, 0, 1, "negative", ""),
        (0, 0, 2, "neutral", ""),
        (1, 0, 4, "positive", ""),
        (0, 1, 2, "neutral", ""),
    ],
    trained=[
        (0, 1, 0),
        (1, 1, 0),
        (1, 1, 4),
        (2, 1, 0, "negative"),
        (2, 1, 2, "neutral"),
        (2, 0, 1, "negative"),
        (0, 2, 3),
    ],
)
STATEMENTS = Statements(DATASET, PAIRS)


def scored(*texts: str) -> ScoredTexts:
    return ScoredTexts(tuple(PAIRS[: len(texts)]), texts)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("You would enjoy the beer, and the garden.", [("beer", "+"), ("garden", "+")]),
        ("The service is terrible but it has a lovely garden.", [
            ("service", "-"),
            ("garden", "+"),
        ]),
        ("Gardens, a garden, more gardens!", [("garden", "+")]),
        ("There is an awful wine list.", [("wine list", "-")]),
        ("Nothing of all that.", []),
    ],
)  # fmt: skip
def test_statements_of_a_text_are_praise_unless_it_blames_each_aspect_once(text, expected):
    signs = {"positive": "+", "negative": "-"}
    found = [(each.aspect, signs[each.sentiment]) for each in STATEMENTS.of_text(text)]
    assert found == expected


def test_statements_of_a_review_are_opinions_only_and_forms_of_an_aspect_are_one():
    assert STATEMENTS.of_reference(PAIRS[0]) == [
        Statement("garden", "positive"),
        Statement("service", "negative"),
    ]
    assert STATEMENTS.of_reference(PAIRS[1]) == [("garden", "positive")]
    assert STATEMENTS.of_reference(PAIRS[2]) == STATEMENTS.of_reference(PAIRS[3]) == []


def test_statements_are_counted_in_training_reviews_alone():
    garden, blamed, service = (
        ("garden", "positive"),
        ("garden", "negative"),
        ("service", "negative"),
    )
    assert STATEMENTS.of_items[1] == {garden: 3, blamed: 1}
    assert STATEMENTS.of_items[0] == {service: 1}
    assert STATEMENTS.of_users[2] == {blamed: 1, service: 1}
    assert STATEMENTS.of_users[0] == {garden: 1, ("wine list", "positive"): 1}
    assert STATEMENTS.of_all == {garden: 3, blamed: 1, service: 1, ("wine list", "positive"): 1}


def test_statements_match_by_aspect_and_sentiment():
    texts = scored(
        "You will like the garden, the beer and the service.",  # 1 of 3 right, 1 of 2 found
        "",
        "You will like the beer.",
        "You will like the beer.",
    )
    found = statements_made(STATEMENTS, texts)
    nothing = [np.nan, np.nan]
    for name, expected in {
        "statement_precision": [1 / 3, 0, *nothing],
        "statement_recall": [1 / 2, 0, *nothing],
        "statement_f1": [2 / 5, 0, *nothing],
    }.items():
        assert found[name] == pytest.approx(expected, nan_ok=True)


def test_aspects_named_count_what_is_only_spoken_of_and_not_what_is_blamed():
    found = aspects_named(
        STATEMENTS, scored("The beer, the service, the garden.", "", "The beer.", "The beer.")
    )
    # Spoken of, but not ill: garden and beer | garden | beer | nothing.
    for name, expected in {
        "aspects_named": [3, 0, 1, 1],
        "aspect_precision": [2 / 3, 0, 1, np.nan],
        "aspect_recall": [1, 0, 1, np.nan],
        "aspect_f1": [4 / 5, 0, 1, np.nan],
        "fmr": [1, 0, 1, np.nan],
    }.items():
        assert found[name] == pytest.approx(expected, nan_ok=True)
