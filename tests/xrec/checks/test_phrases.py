"""Phrases in texts: whole words in any case and number, the longest first, against brute force.

Words of a list of unsafe words may hold marks, which stand for themselves.
"""

import random
import re
import unicodedata

import pytest

from xrec.checks import AspectNames
from xrec.checks.phrases import WordList
from xrec.data.english import singular
from xrec.data.titles import composed

VOCABULARY = [
    "hours", "late hours", "late hours bar", "coffee shop", "strong coffee", "dog-friendly tables",
    "kids' menu", "mac & cheese", "bass", "Café au lait", "花园", "tête-à-tête",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Open for late hours.", ["late hours=late hours"]),
        ("LATE HOUR, Late  Hours", ["late hours=LATE HOUR", "late hours=Late  Hours"]),
        ("A late hours bar.", ["late hours bar=late hours bar"]),
        ("the hour's end", ["hours=hour's"]),
        ("dog friendly table", ["dog-friendly tables=dog friendly table"]),
        ("Dog-friendly tables!", ["dog-friendly tables=Dog-friendly tables"]),
        ("dog\u2011friendly tables", ["dog-friendly tables=dog\u2011friendly tables"]),
        ("a kid's menu, the kids menu", ["kids' menu=kid's menu", "kids' menu=kids menu"]),
        ("mac and cheese", ["mac & cheese=mac and cheese"]),
        ("Mac & Cheese", ["mac & cheese=Mac & Cheese"]),
        ("strong coffee shops", ["strong coffee=strong coffee", "coffee shop=coffee shops"]),
        ("cafe\u0301 au lait", ["Café au lait=café au lait"]),
        ("这家店的花园很安静", ["花园=花园"]),
        ("un tête-à-tête", ["tête-à-tête=tête-à-tête"]),
        # no whole words, or not beside each other
        ("hourly, chlorate hoursX, bassist of bas", []),
        ("It is open late. Hours: 9 to 5", ["hours=Hours"]),
        ("late, hours", ["hours=hours"]),
        ("", []),
        ("\u200b\ufffd\x00 ... --- !!!", []),
    ],
)  # fmt: skip
def test_aspect_names_finds_whole_words_in_any_case_and_number(text, expected):
    found = AspectNames(VOCABULARY).find(text)
    text = unicodedata.normalize("NFC", text)
    assert [f"{each.name}={text[each.start : each.end]}" for each in found] == expected


def test_aspect_names_are_those_of_a_search_of_all_places_for_all_phrases():
    rng = random.Random(0)
    words = ["late", "hour", "hours", "garden", "gardens", "quiet", "bass", "of"]
    for _ in range(300):
        vocabulary = [
            " ".join(rng.choices(words, k=rng.randint(1, 3))) for _ in range(rng.randint(0, 6))
        ]
        text = "".join(
            rng.choice(words) + rng.choice([" ", "-", ", ", "  "]) for _ in range(rng.randint(0, 9))
        )
        found = {(each.start, each.end) for each in AspectNames(vocabulary).find(text)}
        assert found == brute_force(text, vocabulary)


def brute_force(text: str, vocabulary: list[str]) -> set[tuple[int, int]]:
    """All places of all phrases that stand in no longer one."""
    places = set()
    for phrase in vocabulary:
        patterns = [rf"{singular(word)}s?" for word in phrase.split()]
        pattern = rf"(?=(?<!\w)({'[ -]+'.join(patterns)})(?!\w))"
        places |= {match.span(1) for match in re.finditer(pattern, text)}
    return {
        (start, end)
        for start, end in places
        if not any(
            other != (start, end) and other[0] <= start and end <= other[1] for other in places
        )
    }


def test_aspect_names_the_first_of_two_that_are_the_same_is_found():
    names = AspectNames(["board game", "Board-Games", "coffee"])
    assert [each.name for each in names.find("Board games")] == ["board game"]
    assert names.same("BOARD games") == "board game"
    assert names.same("tea") == "tea"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Look at it for its look and sound.", ["look", "sound"]),
        ("You will value it, as it sounds and looks warm; it fits.", []),
        ("It is what you look for, to fit your taste and your value.", []),
        (
            "Its fit, the look, great value, a taste of sounds.",
            ["fit", "look", "value", "taste", "sounds"],
        ),
        ("You'd look long for such a build.", ["build"]),
        ("Fit and look are great.", ["Fit", "look"]),
        ("It has value, thanks to price and build.", ["value", "build"]),
    ],
)
def test_aspect_names_are_no_verbs_and_nothing_of_the_readers(text, expected):
    names = AspectNames(["look", "sound", "value", "fit", "taste", "build"])
    assert [text[each.start : each.end] for each in names.find(text)] == expected


def found(entry: str, text: str) -> list[str]:
    text = composed(text)
    return [text[start:end] for start, end in WordList([entry]).find(text)]


@pytest.mark.parametrize(
    ("entry", "text", "expected"),
    [
        # marks: as it is written, in any case
        ("sh*t", "This is sh*t, and SH*T.", ["sh*t", "SH*T"]),
        ("a$$", "A pain in the A$$.", ["A$$"]),
        ("f***", "Route F, it is f***ing loud.", ["f***"]),
        ("***", "what the *** is that", ["***"]),
        ("&", "tea & cake", ["&"]),
        ("sh*t", "a shot", []),
        ("$hit", "a hit with guests", []),
        # letters alone: whole words in any case and number
        ("Damn Fool", "damn-fools", ["damn-fools"]),
        ("dog-eared", "dog eared", ["dog eared"]),
        ("rock & roll", "Rock and Roll", ["Rock and Roll"]),
        ("café", "cafe\u0301s", ["cafés"]),
        ("skill", "skills, skilled", ["skills"]),
    ],
)
def test_word_list_finds_letters_as_words_and_marks_as_they_are_written(entry, text, expected):
    assert found(entry, text) == expected


def test_entries_are_found_in_the_order_of_the_text():
    words = WordList(["killing", "a$$", "b!tch"])
    text = "b!tch, a$$hole, killing"
    assert [text[start:end] for start, end in words.find(text)] == ["b!tch", "a$$", "killing"]
    assert WordList([]).find(text) == []
