"""What profiles praise, and what in them is no praise of the item."""

import pytest

from xrec.annotate.phrases.profiles import reasons


@pytest.mark.parametrize(
    ("text", "longest"),
    [
        # Noun phrases with what describes them.
        (
            "Fans of fresh handmade pasta, craft cocktails and live music in a cozy atmosphere "
            "would enjoy The Owl in Leeds for its friendly staff.",
            "fresh handmade pasta, craft cocktails, live music, cozy atmosphere, friendly staff",
        ),
        # Activities: a noun and a verb that has no object.
        ("Fans of biking and horseback riding in the open", "biking, horseback riding"),
        ("Hikers enjoy wine tasting.", "wine tasting"),
        ("Fans of Thai cuisine looking for a cozy atmosphere", "thai cuisine, cozy atmosphere"),
        ("a bar serving craft beer", "bar, craft beer"),
        # Several words with "and" are one thing.
        (
            "Fans of Middle Eastern dishes, Mac & Cheese, and fish and chips would enjoy it.",
            "middle eastern dishes, mac and cheese, fish and chips",
        ),
        # What is praised most, without saying so.
        ("tasty dishes, especially fried chicken", "fried chicken"),
        ("locally sourced beef and duck fat fries", "locally sourced beef, duck fat fries"),
        # No shops that nothing describes, no chain, and nothing that is not.
        (
            "a long-running chain with a one-stop shop for groceries and gift shops",
            "groceries, gift shops",
        ),
        ("vegans and non-vegans, and recommended dishes", ""),
        ("a car with washes, all-you-can-eat and all-you-can-eat sushi", "all-you-can-eat sushi"),
        # Not what the profile is of.
        ("Travelers who enjoy ocean views would enjoy this hotel.", "ocean views"),
        ("Locals would enjoy this historic tavern.", "historic tavern"),
        (
            "a relaxed beach atmosphere and a casual dining setting",
            "relaxed beach atmosphere, casual dining",
        ),
        ("Fans of boutique hotels with coal oven pizza", "coal oven pizza"),
        (
            "Fans of rare books would enjoy Club Quarters and its night market.",
            "rare books, night market",
        ),
        # Of whom a place suits, only what they love.
        ("Craft beer enthusiasts and coffee lovers would enjoy it.", "craft beer, coffee"),
        ("Pet owners, history buffs and families with children", "history"),
        ("Thrill seekers and theater-goers", ""),
        # Nothing of a caveat, up to the verb that ends it.
        ("Great sushi, despite limited parking and a noisy room.", "sushi"),
        ("Great sushi, although the patio is small.", "sushi"),
        ("Great sushi, for those willing to tolerate long lines and loud music.", "sushi"),
        ("Great sushi, who do not mind street parking.", "sushi"),
        ("Great sushi, with slow service and crowded tables.", "sushi"),
        ("Those who can tolerate loud noise would enjoy the river view.", "river view"),
        # More than praise that fits anything.
        ("Great food, excellent service and a nice atmosphere.", ""),
        ("A wide variety of menu options.", ""),
        # Kinds of a thing are several.
        ("authentic Thai and Vietnamese food", "vietnamese food, thai food"),
        ("a warm and friendly staff", "friendly staff"),
        ("vegetarian and meat options", "meat"),
        # No names, and not what stands behind one.
        ("He would enjoy Green Parrot Bistro in Reno for Starbucks coffee.", ""),
        ("authentic New York-style pizza", "new york-style pizza"),
        ("Fans of Greek food and BBQ would enjoy it.", "greek food, bbq"),
    ],
)
def test_reasons_of_a_profile_are_what_it_praises(text: str, longest: str) -> None:
    assert ", ".join(next(iter(reason.values())) for reason in reasons(text)) == longest


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (
            "fresh handmade pasta dishes",
            {
                "fresh handmade pasta": "fresh handmade pasta",
                "handmade pasta": "handmade pasta",
                "pasta": "pasta",
            },
        ),
        ("crispy waffles", {"crispy waffle": "crispy waffles", "waffle": "waffles"}),
        ("coal oven pizza", {"coal oven pizza": "coal oven pizza", "pizza": "pizza"}),
        (
            "crispy fish & chips",
            {"crispy fish and chip": "crispy fish and chips", "fish and chip": "fish and chips"},
        ),
    ],
)
def test_reason_may_be_called_by_fewer_of_its_words_and_its_key_is_singular(
    text: str, names: dict[str, str]
) -> None:
    (reason,) = reasons(text)
    assert dict(reason) == names
