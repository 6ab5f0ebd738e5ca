"""Titles of items that have none: what reviews call them, and never what they say of them."""

import pytest

from xrec.annotate.annotator import Review
from xrec.annotate.phrases.lexicon import Lexicon
from xrec.annotate.phrases.titles import made_title

THINGS = ("capo", "work", "application", "cable", "winder", "light", "flaw")
LEXICON = Lexicon({}, dict.fromkeys(THINGS, 1.0), {}, 100)


def title_of(*texts: str) -> str:
    reviews = [Review(f"u{number}", "i", text) for number, text in enumerate(texts)]
    return made_title(reviews, LEXICON)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("This capo holds.", "I like this capo."), "Capo"),
        (("This cheap capo holds.", "I like the cheap capo."), "Capo"),
        (("This light shines.", "I clip this light to my stand."), "Light"),
        (("This work is fine.", "This work lasts."), ""),
        (("I like the proper application.", "A proper application."), ""),
        (("This flaw is small.", "I see this flaw."), ""),
    ],
)
def test_made_title_names_a_thing_without_judging_it(texts: tuple[str, ...], expected: str) -> None:
    assert title_of(*texts) == expected


def test_made_title_does_not_say_a_brands_word_twice() -> None:
    texts = ("I bought the Winder. This winder turns.", "My Winder works. I like this winder.")
    assert title_of(*texts) == "Winder"
