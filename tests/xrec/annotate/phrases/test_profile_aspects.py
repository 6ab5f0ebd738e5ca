"""The vocabulary of profiles, and what each text names of it."""

import pytest

from xrec.annotate.phrases.profile_aspects import find_aspects
from xrec.config.data import ProfileAspects
from xrec.errors import DataError

PROFILES = [
    "Fans of fresh handmade pasta would enjoy it.",
    "Fans of handmade pasta and craft cocktails would enjoy it.",
    "Pasta lovers who enjoy a craft cocktail and outdoor seating.",
    "Users who enjoy craft cocktails, outdoor seating and a pinball machine.",
    "",
]


def _config(min_items: int, max_share: float = 1.0) -> ProfileAspects:
    return ProfileAspects(kind="profiles", min_items=min_items, max_share=max_share)


def _named(profiles: list[str], texts: list[str], config: ProfileAspects) -> list[list[list[str]]]:
    found = find_aspects(profiles, texts, config)
    return [
        [sorted(found.aspects[number] for number in each) for each in named]
        for named in (found.of_profiles, found.of_explanations)
    ]


def test_find_aspects_gives_each_item_the_longest_names_that_enough_profiles_have() -> None:
    of_profiles, _ = _named(PROFILES, [], _config(2))
    assert of_profiles == [
        ["handmade pasta"],
        ["craft cocktails", "handmade pasta"],
        ["craft cocktails", "outdoor seating", "pasta"],
        ["craft cocktails", "outdoor seating"],
        [],
    ]


def test_find_aspects_are_in_the_order_of_the_number_of_profiles() -> None:
    found = find_aspects(PROFILES, [], _config(2))
    assert list(found.aspects) == [
        "cocktails",
        "craft cocktails",
        "pasta",
        "handmade pasta",
        "outdoor seating",
    ]


def test_find_aspects_leaves_out_what_too_many_profiles_have() -> None:
    of_profiles, _ = _named(PROFILES, [], _config(2, max_share=0.5))  # of four profiles
    assert of_profiles == [
        ["handmade pasta"],
        ["handmade pasta"],
        ["outdoor seating"],
        ["outdoor seating"],
        [],
    ]


def test_find_aspects_of_explanations_are_the_parts_too_and_make_no_vocabulary() -> None:
    texts = [
        "You would enjoy its handmade pasta and its garden.",
        "A garden.",
        "Despite the pasta.",
    ]
    _, of_explanations = _named(PROFILES, texts, _config(2))
    assert of_explanations == [["handmade pasta", "pasta"], [], []]


def test_find_aspects_are_in_the_plural_if_they_often_are() -> None:
    profiles = ["Book lovers and pizza lovers would enjoy it."] * 3 + ["Fans of rare books, pizza."]
    assert _named(profiles, [], _config(4))[0] == [["books", "pizza"]] * 4


def test_find_aspects_of_places_are_in_the_singular() -> None:
    profiles = ["Fans of Irish pubs, bakeries and food trucks would enjoy it."] * 3
    assert _named(profiles, [], _config(3))[0] == [["bakery", "food trucks", "irish pub"]] * 3


def test_find_aspects_leaves_out_words_that_are_mostly_capitalized() -> None:
    profiles = ["Costco would be enjoyed for its bulk candy.", "Costco has bulk candy."]
    assert _named(profiles, [], _config(2))[0] == [["bulk candy"], ["bulk candy"]]


def test_find_aspects_without_any_says_what_was_seen() -> None:
    with pytest.raises(DataError, match=r"profiles of 3 to .* saw 2 items and 2 phrases"):
        find_aspects(["Fans of pasta.", "Fans of beer."], [], _config(3))
