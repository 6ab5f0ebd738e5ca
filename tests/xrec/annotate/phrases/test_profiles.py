"""What profiles praise, and what in them is no praise of the item."""

import pytest

from xrec.annotate.phrases.profiles import reasons


def _longest(text: str) -> list[str]:
    """How the longest name of each reason is written."""
    return [next(iter(reason.values())) for reason in reasons(text)]


def test_reasons_of_a_profile_are_its_noun_phrases_with_what_describes_them() -> None:
    text = (
        "Fans of fresh handmade pasta, craft cocktails and live music in a cozy atmosphere would "
        "enjoy The Owl in Leeds for its friendly staff."
    )
    assert _longest(text) == [
        "fresh handmade pasta",
        "craft cocktails",
        "live music",
        "cozy atmosphere",
        "friendly staff",
    ]


def test_reasons_are_activities_of_a_noun_and_a_verb_that_has_no_object() -> None:
    assert _longest("Fans of biking and horseback riding in the open") == [
        "biking",
        "horseback riding",
    ]
    assert _longest("Hikers enjoy wine tasting.") == ["wine tasting"]
    assert _longest("Fans of Thai cuisine looking for a cozy atmosphere") == [
        "thai cuisine",
        "cozy atmosphere",
    ]
    assert _longest("a bar serving craft beer") == ["bar", "craft beer"]


def test_reasons_of_several_words_with_and_are_one_thing() -> None:
    text = "Fans of Middle Eastern dishes, Mac & Cheese, and fish and chips would enjoy it."
    assert _longest(text) == ["middle eastern dishes", "mac and cheese", "fish and chips"]
    (reason,) = reasons("crispy fish & chips")
    assert dict(reason)["fish and chip"] == "fish and chips"


def test_reasons_are_what_is_praised_most_without_saying_so() -> None:
    assert _longest("tasty dishes, especially fried chicken") == ["fried chicken"]
    assert _longest("locally sourced beef and duck fat fries") == [
        "locally sourced beef",
        "duck fat fries",
    ]


def test_reasons_are_no_shops_that_nothing_describes_no_chain_and_nothing_that_is_not() -> None:
    assert _longest("a long-running chain with a one-stop shop for groceries and gift shops") == [
        "groceries",
        "gift shops",
    ]
    assert _longest("vegans and non-vegans, and recommended dishes") == []
    assert _longest("a car with washes, all-you-can-eat and all-you-can-eat sushi") == [
        "all-you-can-eat sushi"
    ]


def test_reasons_are_not_what_the_profile_is_of() -> None:
    assert _longest("Travelers who enjoy ocean views would enjoy this hotel.") == ["ocean views"]
    assert _longest("Locals would enjoy this historic tavern.") == ["historic tavern"]
    assert _longest("a relaxed beach atmosphere and a casual dining setting") == [
        "relaxed beach atmosphere",
        "casual dining",
    ]
    assert _longest("Fans of boutique hotels with coal oven pizza") == ["coal oven pizza"]
    assert [*dict(next(reasons("coal oven pizza")))] == ["coal oven pizza", "pizza"]
    assert _longest("Fans of rare books would enjoy Club Quarters and its night market.") == [
        "rare books",
        "night market",
    ]


def test_reason_may_be_called_by_fewer_of_its_words_and_its_key_is_singular() -> None:
    (reason,) = reasons("fresh handmade pasta dishes")
    assert dict(reason) == {
        "fresh handmade pasta": "fresh handmade pasta",
        "handmade pasta": "handmade pasta",
        "pasta": "pasta",
    }
    (reason,) = reasons("crispy waffles")
    assert dict(reason) == {"crispy waffle": "crispy waffles", "waffle": "waffles"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Craft beer enthusiasts and coffee lovers would enjoy it.", ["craft beer", "coffee"]),
        ("Pet owners, history buffs and families with children", ["history"]),
        ("Thrill seekers and theater-goers", []),
    ],
)
def test_reasons_of_whom_a_place_suits_are_only_what_they_love(
    text: str, expected: list[str]
) -> None:
    assert _longest(text) == expected


@pytest.mark.parametrize(
    "caveat",
    [
        "despite limited parking and a noisy room",
        "although the patio is small",
        "for those willing to tolerate long lines and loud music",
        "who do not mind street parking",
        "with slow service and crowded tables",
    ],
)
def test_reasons_of_a_caveat_are_none(caveat: str) -> None:
    assert _longest(f"Great sushi, {caveat}.") == ["sushi"]


def test_reasons_begin_again_behind_the_verb_that_ends_a_caveat() -> None:
    text = "Those who can tolerate loud noise would enjoy the river view."
    assert _longest(text) == ["river view"]


@pytest.mark.parametrize(
    "text",
    ["Great food, excellent service and a nice atmosphere.", "A wide variety of menu options."],
)
def test_reasons_need_more_than_praise_that_fits_anything(text: str) -> None:
    assert _longest(text) == []


def test_reasons_of_kinds_of_a_thing_are_several() -> None:
    assert _longest("authentic Thai and Vietnamese food") == ["vietnamese food", "thai food"]
    assert _longest("a warm and friendly staff") == ["friendly staff"]
    assert _longest("vegetarian and meat options") == ["meat"]


def test_reasons_are_no_names_and_not_what_stands_behind_one() -> None:
    assert _longest("He would enjoy Green Parrot Bistro in Reno for Starbucks coffee.") == []
    assert _longest("authentic New York-style pizza") == ["new york-style pizza"]
    assert _longest("Fans of Greek food and BBQ would enjoy it.") == ["greek food", "bbq"]
