"""Words that no text may hold: in letters alone, and with marks that stand for themselves."""

import pytest

from xrec.checks.word_list import WordList
from xrec.data.titles import composed


def found(entry: str, text: str) -> list[str]:
    """What a list of `entry` alone finds in `text`."""
    text = composed(text)
    return [text[start:end] for start, end in WordList([entry]).find(text)]


@pytest.mark.parametrize(
    ("entry", "text", "expected"),
    [
        ("sh*t", "This is sh*t, and SH*T.", ["sh*t", "SH*T"]),
        ("b!tch", "A B!tch's move.", ["B!tch"]),
        ("a$$", "A pain in the A$$.", ["A$$"]),
        ("$hit", "It was ($hit).", ["$hit"]),
        ("f***", "It is f***ing loud.", ["f***"]),
        ("f--k", "f--K it", ["f--K"]),
        ("holy sh*t", "Holy\n sh*t", ["Holy\n sh*t"]),
        ("stra\u00dfe!", "STRASSE!", ["STRASSE!"]),
        ("傻×", "你真傻×啊", ["傻×"]),
        # marks alone
        ("\U0001f595", "great\U0001f595", ["\U0001f595"]),
        ("***", "what the *** is that", ["***"]),
        ("&", "tea & cake", ["&"]),
        # neither a part of a word, nor what is left without the marks
        ("sh*t", "bullsh*t sh*tty shot sht", []),
        ("a$$", "a nice place", []),
        ("$hit", "a hit with guests", []),
        ("f***", "Route F, and route f.", []),
        ("f--k", "f k, f-k", []),
        ("***", "a ** b", []),
        ("&", "tea and cake", []),
    ],
)
def test_entry_with_marks_is_found_letter_by_letter_in_any_case(
    entry: str, text: str, expected: list[str]
) -> None:
    assert found(entry, text) == expected


@pytest.mark.parametrize(
    ("entry", "text", "expected"),
    [
        ("Damn Fool", "damn-fools", ["damn-fools"]),
        ("dog-eared", "dog eared", ["dog eared"]),
        ("kids' stuff", "a kid's stuff", ["kid's stuff"]),
        ("rock & roll", "Rock and Roll", ["Rock and Roll"]),
        ("f_ck", "F_CK", ["F_CK"]),
        ("café", "cafe\u0301s", ["cafés"]),
        ("हिन्दी", "हिन्दी!", ["हिन्दी"]),
        ("skill", "skills, skilled", ["skills"]),
    ],
)
def test_entry_of_letters_is_found_as_whole_words_in_any_case_and_number(
    entry: str, text: str, expected: list[str]
) -> None:
    assert found(entry, text) == expected


def test_entries_are_found_in_the_order_of_the_text_and_each_for_itself() -> None:
    words = WordList(["killing", "a$$hat", "a$$", "b!tch"])
    text = "b!tch, a$$hole, killing"
    assert [text[start:end] for start, end in words.find(text)] == ["b!tch", "a$$", "killing"]
    assert WordList([]).find(text) == []
