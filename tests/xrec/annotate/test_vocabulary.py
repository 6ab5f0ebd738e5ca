"""Names of aspects that become one, worked out by hand."""

import pytest

from xrec.annotate.vocabulary import names_are_english, normalized


@pytest.mark.parametrize(
    ("name", "is_english", "expected"),
    [
        ("The Strings", True, "string"),
        ("its Sound   Quality!", True, "sound quality"),
        ("batteries", True, "battery"),
        ("bass", True, "bass"),
        ("servings of fries", True, "servings of fry"),
        ("late-night hours", True, "late-night hour"),
        ("R&B", True, "r&b"),
        ("Cafe\u0301", True, "caf\u00e9"),
        ("\u2764\ufe0f", True, ""),
        ("Sound \u2764\ufe0f", True, "sound"),
        ("A Bateria", False, "a bateria"),
        ("Stra\u00dfe", False, "stra\u00dfe"),
        (
            "\u0906\u0935\u093e\u091c\u093c \u0915\u0940",
            False,
            "\u0906\u0935\u093e\u091c\u093c \u0915\u0940",
        ),
        ("\u0645\u06cc\u200c\u0634\u0648\u062f!", False, "\u0645\u06cc\u200c\u0634\u0648\u062f"),
        ("\N{THUMBS UP SIGN}", False, ""),
    ],
)
def test_normalized_is_lower_case_and_in_english_singular(name, is_english, expected):
    assert normalized(name, is_english=is_english) == expected
    assert normalized(expected, is_english=is_english) == expected


def test_names_are_english_unless_the_annotators_language_is_another():
    languages = ("English", "british english", "German")
    assert [names_are_english({"language": each}) for each in languages] == [True, True, False]
    assert names_are_english({"kind": "phrases"})
