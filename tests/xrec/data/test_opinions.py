"""Opinions: which of the reviewers' words say most of an aspect of an item."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from xrec import schemas
from xrec.data import Dataset
from xrec.data.opinions import Opinions
from xrec.storage import Manifest

NAMES = ["build", "price", "ease of use"]
BUILD, PRICE, EASE = range(3)
Said = tuple[int, int, int, str]
"""User, item, aspect and opinion."""


def opinions_of(said: Sequence[Said], aspects_from: str = "reviews", **columns: Any) -> Opinions:
    names = ("user_index", "item_index", "aspect_index", "opinion")
    table = {name: [row[place] for row in said] for place, name in enumerate(names)}
    table |= {"sentiment": ["positive"] * len(said), "split": ["train"] * len(said)} | columns
    dataset = Dataset(
        Manifest.model_construct(metrics={"aspects_from": aspects_from}),
        users=pa.table({}),
        items=pa.table({}),
        interactions=pa.table({}),
        explanations=pa.table({}),
        aspects=pa.table({"aspect": NAMES}),
        explanation_aspects=pa.table(table).cast(schemas.EXPLANATION_ASPECTS),
    )
    return Opinions(dataset)


def test_opinion_is_what_most_reviews_of_the_item_say() -> None:
    said = [(0, 7, BUILD, "sturdy"), (1, 7, BUILD, "sturdy"), (2, 7, BUILD, "rugged")]
    elsewhere = [(user, 8, BUILD, "rugged") for user in range(9)]
    opinions = opinions_of([*said, *elsewhere])
    assert opinions.of(7, BUILD) == "sturdy"
    assert opinions.of(8, BUILD) == "rugged"
    assert opinions.of(7, PRICE) == opinions.of(9, BUILD) == ""


def test_opinion_that_is_rare_elsewhere_says_more_than_a_common_one() -> None:
    said = [(0, 7, BUILD, "sturdy"), (1, 7, BUILD, "sturdy"), (2, 7, BUILD, "built like a tank")]
    elsewhere = [(user, 8, BUILD, "sturdy") for user in range(50)]
    assert opinions_of([*said, *elsewhere]).of(7, BUILD) == "built like a tank"


def test_opinion_without_a_user_is_as_if_that_review_had_not_been_written() -> None:
    opinions = opinions_of([(0, 7, BUILD, "rugged"), (1, 7, BUILD, "sturdy")])
    assert {opinions.of(7, BUILD, user) for user in (0, 1)} == {"rugged", "sturdy"}
    assert opinions.of(7, BUILD, 0) == "sturdy"
    assert opinions_of([(0, 7, BUILD, "rugged")]).of(7, BUILD, 0) == ""


@pytest.mark.parametrize(
    ("aspect", "opinion", "expected"),
    [
        (BUILD, "great", ""),
        (BUILD, "well built", ""),
        (PRICE, "really good price", ""),
        (EASE, "easy to use", ""),
        (BUILD, "sounds good", ""),
        (BUILD, "feels solid", "feels solid"),
        (EASE, "easy to install", "easy to install"),
        (PRICE, "low  price", "low price"),
        (BUILD, "as I told my neighbour last year", ""),
        (BUILD, "", ""),
    ],
)
def test_opinion_is_short_and_says_more_than_that_the_aspect_is_good(
    aspect: int, opinion: str, expected: str
) -> None:
    assert opinions_of([(0, 7, aspect, opinion)]).of(7, aspect) == expected


@pytest.mark.parametrize(
    "columns", [{"split": ["test"]}, {"split": ["validation"]}, {"sentiment": ["negative"]}]
)
def test_opinion_comes_from_praise_in_training_reviews_only(columns: dict[str, Any]) -> None:
    assert opinions_of([(0, 7, BUILD, "rugged")], **columns).of(7, BUILD) == ""


def test_opinions_of_profiles_are_none() -> None:
    assert opinions_of([(0, 7, BUILD, "rugged")], "profiles").of(7, BUILD) == ""
