"""The vocabulary: texts come back to the letter, in any language."""

import pytest

from xrec.lab.baselines.codec import BEGIN, END, PAD, SPECIAL, UNKNOWN, Words, pieces_of


def test_pieces_are_words_and_marks_with_the_blank_before_them():
    assert pieces_of("It's  fine - \u201cvery\u201d\nwell-known, 3.5 of 5!") == [
        *("It's", " fine", " -", " \u201c", "very", "\u201d", " well", "-", "known", ","),
        *(" 3.5", " of", " 5", "!"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "You'll love its dog-friendly tables (and the caf\u00e9's pie), won't you?",
        "Im M\u00fcnchner \u201eHof\u201c gibt's Ma\u00df um 12,50 \u20ac \u2026 sch\u00f6n!",
        "\u3053\u306e\u5e97\u306e\u30e9\u30fc\u30e1\u30f3\u306f\u304a\u3044\u3057\u3044\u3002",
        "\u0e2d\u0e32\u0e2b\u0e32\u0e23\u0e2d\u0e23\u0e48\u0e2d\u0e22\u0e21\u0e32\u0e01",
        "<pad> is no word, 5_000 is; \U0001f469\u200d\U0001f373 cooks.",
        "",
    ],
)
def test_words_decode_what_they_encode_to_the_letter(text):
    words = Words.of([text], max_words=1000)
    ids = words.encode(text)
    assert words.decode(ids) == words.decode([*ids, END, 7]) == text
    assert not {PAD, BEGIN, END, UNKNOWN} & set(ids)


def test_words_blanks_and_line_breaks_become_one_blank_and_letters_are_composed():
    words = Words.of(["the caf\u00e9 is fine"], max_words=10)
    assert words.decode(words.encode("  the cafe\u0301\t is\n\nfine ")) == "the caf\u00e9 is fine"


def test_words_keep_the_most_frequent_pieces_and_of_equal_ones_the_first():
    words = Words.of(["b a c", "c b c", "c"], max_words=3)
    # " c" twice; "b" (begins a text), " b", " a", "c" twice ("c b c" and "c")
    assert words.pieces == (*SPECIAL, " c", "c", " a")
    assert words.encode("c a b") == [5, 6, UNKNOWN]
    assert len(words) == 7
