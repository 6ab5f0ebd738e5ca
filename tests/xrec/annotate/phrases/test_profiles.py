"""The vocabulary of profiles, and what each text names of it."""

import pytest

from xrec.annotate.phrases.profiles import find_aspects
from xrec.config.data import ProfileAspects
from xrec.errors import DataError

PROFILES = [
    "Fans of fresh handmade pasta would enjoy it.",
    "Fans of handmade pasta and craft cocktails would enjoy it.",
    "Many pasta lovers who like a craft cocktail and outdoor seating would enjoy it.",
    "Lovers of craft cocktails, outdoor seating and a pinball machine would enjoy it.",
    "Fans of pasta would enjoy it.",
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


def test_find_aspects_gives_each_item_the_longest_names_that_enough_profiles_have():
    of_profiles, _ = _named(PROFILES, [], _config(2))
    assert of_profiles == [
        ["handmade pasta"],
        ["craft cocktails", "handmade pasta"],
        ["craft cocktails", "outdoor seating", "pasta"],
        ["craft cocktails", "outdoor seating"],
        ["pasta"],
        [],
    ]
    of_profiles, _ = _named(PROFILES, [], _config(2, max_share=0.4))  # of five profiles
    assert of_profiles[2:4] == [["outdoor seating"], ["outdoor seating"]]


def test_find_aspects_of_explanations_are_the_parts_too_and_make_no_vocabulary():
    texts = [
        "You would enjoy its handmade pasta and its garden.",
        "A garden.",
        "Despite the pasta, it has a garden.",
    ]
    _, of_explanations = _named(PROFILES, texts, _config(2))
    assert of_explanations == [["handmade pasta", "pasta"], [], []]


@pytest.mark.parametrize(
    ("profile", "aspects"),
    [
        ("Fans of sushi, despite limited parking, would enjoy it.", ["sushi"]),
        ("Fans of sushi enjoy it. However, some find it stressful in peak hours.", ["sushi"]),
        ("Fans of sushi, though those sensitive to limited parking may be cautious.", ["sushi"]),
        ("Coffee lovers would enjoy it.", ["coffee"]),
        ("Families would enjoy sushi.", ["sushi"]),
        ("Travelers who like ocean views would enjoy this hotel.", ["ocean views"]),
        ("It has dog-friendly tables.", ["dog-friendly tables"]),
        ("A mix of books for students.", ["books"]),
        ("He would like Green Parrot Bistro for Starbucks coffee.", []),
    ],
)
def test_aspects_are_what_a_profile_praises(profile, aspects):
    others = ["Coffee lovers would enjoy it.", "It has sushi, books and ocean views."]
    profiles = [profile] * 3 + others * 3
    assert _named(profiles, [], _config(2))[0][0] == aspects


def test_adjective_that_goes_with_any_noun_is_no_part_of_an_aspect():
    nouns = ["soup", "tea", "pasta", "cake", "salad", "bread", "pizza", "curry", "stew", "rice"]
    profiles = [f"It has great {noun}." for noun in nouns * 4] + ["It has soup."] * 2
    profiles += ["It has smoky soup.", "It has smoky soup."]
    found = find_aspects(profiles, [], _config(2))
    assert "soup" in found.aspects
    assert "smoky soup" in found.aspects
    assert not any("great" in aspect for aspect in found.aspects)


def test_find_aspects_without_any_says_what_was_seen():
    with pytest.raises(DataError, match=r"profiles of 3 to .* saw 2 items and 3 phrases"):
        find_aspects(["Fans of pasta.", "Fans of beer."], [], _config(3))
