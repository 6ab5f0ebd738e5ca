"""Personal data in texts: what is removed, and what only looks like it."""

import random

import pytest

from xrec.data import personal
from xrec.data.personal import is_personal, remove_personal


@pytest.mark.parametrize(
    ("text", "cleaned", "kinds"),
    [
        ("Mail bob.smith+x@mail.co.uk, he answers.", "Mail […], he answers.", {"email": 1}),
        ("Write to bob (at) mail.org today", "Write to […] today", {"email": 1}),
        ("See https://foo.bar/baz?x=1 now", "See […] now", {"link": 1}),
        ("It is at www.foo-bar.museum now", "It is at […] now", {"link": 1}),
        ("My shop is strings4you.com, ask there", "My shop is […], ask there", {"link": 1}),
        ("Call (555) 123-4567 or 555-123-4567.", "Call […] or […].", {"phone": 2}),
        ("Reach me at +49 170 1234567!", "Reach me at […]!", {"phone": 1}),
        ("I follow @bob_99 there", "I follow […] there", {"account": 1}),
        ("Call 1-800-555-1234 or 0170 123 4567", "Call […] or […]", {"phone": 2}),
        ("My instagram is cool_guy.7", "My […]", {"account": 1}),
        ("My insta is @bob, my skype name is jim", "My […], my […]", {"account": 2}),
        ("Find me, twitch: bob", "Find me, […]", {"account": 1}),
        ("It is at strings.store today", "It is at […] today", {"link": 1}),
        ("u/guitar_dude said so", "[…] said so", {"account": 1}),
        ("It is at 221 Baker Street.", "It is at […].", {"address": 1}),
        ("Near 12 N. Elm Ave and 5 Oak Park Blvd", "Near […] and […]", {"address": 2}),
        ("Laden in der Hauptstraße 12a", "Laden in der […]", {"address": 1}),
        ("Au 12 rue de la Paix, sympa", "Au […], sympa", {"address": 1}),
        ("En la calle Mayor 7", "En la […]", {"address": 1}),
        ("My name is John Smith, hi", "[…], hi", {"name": 1}),
        ("Ask for Maria at the desk", "[…] at the desk", {"name": 1}),
        ("Great, thanks to Dr. Müller!", "Great, […]!", {"name": 1}),
        ("We loved our waiter, José", "We loved […]", {"name": 1}),
        ("Ich heiße Anna Schmidt, hallo", "[…], hallo", {"name": 1}),
        (f"Odd {'aGVsbG8gd29ybGQ' * 4}== text", "Odd […] text", {"code": 1}),
    ],
)
def test_remove_personal_of_each_kind_is_removed_and_counted(text, cleaned, kinds):
    assert remove_personal(text) == (cleaned, kinds)


@pytest.mark.parametrize(
    "text",
    [
        "It costs $1,200.00 and weighs 10.5 lbs.",
        "A set of 10-46 strings, 010-046, for a 25.5 inch scale.",
        "In 2010-2011 it had 100 watts; SKU 1234567890.",
        "Planet Waves.It is great.Buy it",
        "An 1/4 inch plug, a 3.5mm jack, 9v @ 100 mA",
        "Facebook friends told me. I watched it on YouTube.",
        "The model is SM57-123 4567.",
        "YouTube is full of demos. Skype is clear and loud.",
        "I love it.Me and my wife use it.",
        "Sold at the store.Online reviews were right.TV sounds better, too.",
        "Bands of 20 100 1000 Hz, and of 250 500 1000 2000 Hz",
        "Serial 2014 100 2000, in sizes 010 013 017.",
        "I have 3 Fender amps and 2 Boss pedals. The street was loud.",
        "Ask for the manual. Thanks to the case it is safe. I ask for nothing.",
        "He drives 20 miles down the road, 5 St. Louis fans with him.",
        "My name is on it. Thank you, great seller!",
        "Das Haus an der Straße 2 Blocks weiter, die Rue und die Calle.",
    ],
)
def test_remove_personal_of_numbers_and_names_that_are_none_leaves_the_text(text):
    assert remove_personal(text) == (text, {})


@pytest.mark.parametrize("run", ["a", "a-", "a.", ".", "-", "a@", "a@a.", "555 ", "u/", "\n"])
def test_remove_personal_of_a_long_run_takes_no_more_than_a_moment(run):
    """With patterns whose time grows with the square of the length it would take minutes."""
    text = run * (100_000 // len(run))
    cleaned, _ = remove_personal(f"Mail a@b.de {text} 123")
    assert cleaned.endswith("123")


def test_text_is_personal_even_where_only_the_mark_of_what_was_removed_is_left():
    text, _ = remove_personal("Ask for Maria, she is kind.")
    assert is_personal("Ask for Maria, she is kind.")
    assert is_personal(text)
    assert not is_personal("She is kind.")
    assert remove_personal("note: mail a@b.de now", mark="")[0] == "note: mail now"


PARTS = (
    "a.b@c.com|foo [AT] bar.org|www.x.com|http://a.b/c|I love it.Me too|it.It|call 5551234567|"
    "12 Elm St|"
    "Hauptstraße 5|12 rue de la Paix|My Name's Bob|my name is Bob|asked for Maria|thanks to Al|"
    "shout-out to Liz|kudos to Ray|served by Kim|helped by Al|our host was Max|Our server Sue|"
    "ich heiße Karl|Mein Name ist Karl|je m'appelle Luc|me llamo Ana|mi nombre es Ana|"
    "mi chiamo Ugo|@cool|İnstagram: foo|ınsta: foo|ſkype: foo|KIK: foo|thanKs to Bob|"
    f"aſk for Bob|u/abc_d|60 Hz|{'A1' * 21}|the tuner is quick"
).split("|")


def test_kinds_without_a_sign_in_a_text_have_no_place_in_it(monkeypatch):
    rng = random.Random(0)
    drawn = [" ".join(rng.choices(PARTS, k=rng.randint(1, 3))) for _ in range(1500)]
    texts = [change(text) for text in drawn for change in (str, str.upper, str.lower)]
    found = list(map(remove_personal, texts))
    monkeypatch.setattr(personal, "_possible_kinds", lambda text: tuple(personal._KINDS))
    assert found == list(map(remove_personal, texts))
    assert set().union(*(kinds for _, kinds in found)) == set(personal._KINDS)
