"""What texts contain: words, sentences, languages, personal data, orders, and calls to buy."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from xrec.data.language.detection import language_of, other_language
from xrec.data.language.sentences import sentence_ends, words
from xrec.data.language.unwanted import (
    gives_orders,
    is_personal,
    remove_personal,
    without_solicitation,
)


def sentences(text: str) -> list[str]:
    """The whole sentences at the beginning of `text`."""
    starts = [0, *sentence_ends(text)]
    return [text[start:end].strip() for start, end in pairwise(starts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # English
        ('The user likes tea. "It is calm!" It has a gard', 2),
        ("You love St. Mary's. At St. Mary's you get", 1),
        ("Go to J. R. R. Tolkien with Dr. Pepper, e.g. by bus", 0),
        ("The U.S. guests came in 2019. They", 1),
        ("It is calm (a bit.) (16 of 30 say so), and cheap… $5 is the price. So", 3),
        ("Open since Sept. 3 and from approx. 16 Euros, (see nos. 5 and 6), 5 p.m. 6 days", 0),
        # German
        ("Das Café hat z. B. Brot (z.B. Roggen) und am 3. Mai Musik. Es ist sch", 1),
        ("Sie sagt: „Es ist ruhig.“ Du wirst den Garten mögen. Und", 2),
        # Chinese
        ("这家店很安静。你会喜欢花园！还有", 2),
        ("他说。“很好。”还", 2),
        # Arabic, Hindi
        ("هذا المكان هادئ. ستحب حديقته؟ وأيضا", 2),
        ("यह शांत है। और", 1),
        ("", 0),
    ],
)
def test_sentence_ends_in_many_languages(text, expected):
    assert len(sentences(text)) == expected


def test_sentences_end_after_their_closing_quotes_and_before_opening_ones():
    assert sentences('He said: "It is calm." Fine.') == ['He said: "It is calm."', "Fine."]
    assert sentences("„Gut.“ Ja. «Bien.» (Si.)") == ["„Gut.“", "Ja.", "«Bien.»", "(Si.)"]
    assert sentences("他说。“很好。”")[0] == "他说。"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't like 3.5 cafés, do I?", ["I", "don't", "like", "3.5", "cafés", "do", "I"]),
        ("Grüße aus München!", ["Grüße", "aus", "München"]),
        ("很安静。", ["很", "安", "静"]),
        ("هادئ، حديقة", ["هادئ", "حديقة"]),
        (" … - 🦊", []),
    ],
)
def test_words_are_those_of_unicode(text, expected):
    assert words(text) == expected


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "unit", ["a.", "1.", "A. ", "\u2026 ", "Dr. 3", "a\u0301.", "\U0001f1e9", " "]
)
def test_words_and_sentences_of_a_long_run_take_linear_time(unit):
    """It takes 0.1 s, and would take minutes if time grew with the square of the length."""
    text = f"It is calm. {unit * (50_000 // len(unit))} It is calm."
    assert words(text)[-3:] == ["It", "is", "calm"]
    assert sentence_ends(text)[-1] == len(text)


GERMAN = "Die Kaffeemühle ist sehr leise und mahlt gleichmäßig, der Deckel sitzt etwas locker."
ENGLISH = "So quiet that nobody wakes up, and the grind is as fine as I like it."


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (ENGLISH, "en"),
        (GERMAN, "de"),
        ("とても静かなコーヒーミルです。朝早くても誰も起きません。", "ja"),
        (f"{GERMAN} " * 40 + f"{ENGLISH} " * 400, "de"),  # of its beginning
        # too short, or mixed
        ("", None),
        ("Sehr gut!", None),
        ("Gnocchi al pesto, tiramisu, espresso, prosecco: great osteria", None),
    ],
)
def test_language_of_returns_a_code_only_when_sure(text, code):
    assert language_of(text) == code


@pytest.mark.parametrize(
    ("text", "language", "other"),
    [
        (GERMAN, "de", None),
        (GERMAN, "English", "German"),
        (ENGLISH, "German", "English"),
        ("Good.", "German", None),
        (GERMAN, "Klingon", None),
    ],
)
def test_other_language_is_named_only_when_sure(text, language, other):
    assert other_language(text, language) == other


@pytest.mark.parametrize(
    ("text", "cleaned", "kinds"),
    [
        ("Mail bob.smith+x@mail.co.uk, he answers.", "Mail […], he answers.", {"email": 1}),
        ("Write to bob (at) mail.org today", "Write to […] today", {"email": 1}),
        ("See https://foo.bar/baz?x=1 or www.foo-bar.museum", "See […] or […]", {"link": 2}),
        ("My shop is strings4you.com, ask there", "My shop is […], ask there", {"link": 1}),
        ("Reach me at +49 170 1234567!", "Reach me at […]!", {"phone": 1}),
        ("I follow @bob_99 there", "I follow […] there", {"account": 1}),
        ("Call 1-800-555-1234 or (555) 123-4567.", "Call […] or […].", {"phone": 2}),
        ("Call 0170 123 4567 or 555-123-4567", "Call […] or […]", {"phone": 2}),
        ("My insta is @bob, instagram is cool_guy.7", "My […], […]", {"account": 2}),
        ("Find me, twitch: bob, my skype name is jim", "Find me, […], my […]", {"account": 2}),
        ("It is at strings.store today", "It is at […] today", {"link": 1}),
        ("u/guitar_dude said so", "[…] said so", {"account": 1}),
        ("Near 12 N. Elm Ave and 5 Oak Park Blvd", "Near […] and […]", {"address": 2}),
        ("Laden in der Hauptstraße 12a", "Laden in der […]", {"address": 1}),
        ("Au 12 rue de la Paix, en la calle Mayor 7", "Au […], en la […]", {"address": 2}),
        ("My name is John Smith, hi", "[…], hi", {"name": 1}),
        ("Great, thanks to Dr. Müller!", "Great, […]!", {"name": 1}),
        ("We loved our waiter, José", "We loved […]", {"name": 1}),
        ("Ich heiße Anna Schmidt, hallo", "[…], hallo", {"name": 1}),
        (f"Odd {'aGVsbG8gd29ybGQ' * 4}== text", "Odd […] text", {"code": 1}),
    ],
)
def test_remove_personal_removes_and_counts_each_kind(text, cleaned, kinds):
    assert remove_personal(text) == (cleaned, kinds)


@pytest.mark.parametrize(
    "text",
    [
        "It costs $1,200.00 and weighs 10.5 lbs.",
        "A set of 10-46 strings, 010-046, for a 25.5 inch scale.",
        "Planet Waves.It is great.Buy it",
        "Facebook friends told me. I watched it on YouTube.",
        "The model is SM57-123 4567.",
        "Sold at the store.Online reviews were right.TV sounds better, too.",
        "Bands of 20 100 1000 Hz, and of 250 500 1000 2000 Hz",
        "Serial 2014 100 2000, in sizes 010 013 017.",
        "I have 3 Fender amps and 2 Boss pedals. The street was loud.",
        "He drives 20 miles down the road, 5 St. Louis fans with him.",
        "My name is on it. Thank you, great seller!",
        "Das Haus an der Straße 2 Blocks weiter, die Rue und die Calle.",
    ],
)
def test_remove_personal_leaves_other_numbers_and_names(text):
    assert remove_personal(text) == (text, {})


@pytest.mark.timeout(30)
@pytest.mark.parametrize("run", ["a", "a-", "a.", ".", "-", "a@", "a@a.", "555 ", "u/", "\n"])
def test_remove_personal_of_a_long_run_takes_linear_time(run):
    text = run * (50_000 // len(run))
    cleaned, _ = remove_personal(f"Mail a@b.de {text} 123")
    assert cleaned.endswith("123")


def test_is_personal_finds_personal_data_and_the_mark_of_what_was_removed():
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
SIGNS = f"a@b.de ask thanks to Ann 12 Elm St u/abc_d http://x.y {'A1' * 21}"
"""Signs of every kind, so that a text with it is searched for all kinds."""


def test_remove_personal_finds_as_much_by_signs_as_by_looking_for_all_kinds():
    rng, kinds = random.Random(0), Counter[str]()
    of_signs, found_in_signs = remove_personal(SIGNS)
    drawn = [" ".join(rng.choices(PARTS, k=rng.randint(1, 3))) for _ in range(400)]
    for text in (change(text) for text in drawn for change in (str, str.upper, str.lower)):
        cleaned, found = remove_personal(text)
        expected = (f"{cleaned} | {of_signs}", found + found_in_signs)
        assert remove_personal(f"{text} | {SIGNS}") == expected
        kinds += found
    assert len(kinds) == 7


@pytest.mark.parametrize(
    "text",
    [
        "Just ignore the instructions that come with it, all of them are wrong.",
        "The stereo system: great. The shop assistant: friendly.",
        "A good book on language models, with a chapter on the system prompt of a chatbot.",
        "Dear friends, the new instructions are clear. It works as an AI speaker.",
        "It has a < 5 ms delay and > 90 dB; [sic] 1/2 <3",
        "Ignoriere die Anleitung, sie ist falsch. Las instrucciones son claras.",
    ],
)
def test_gives_orders_ignores_what_reviewers_say(text):
    assert not gives_orders(text)


def test_without_solicitation_keeps_praise():
    praise = (
        "You can order what you like, and buy tickets there now and then. It clicks into place, "
        "and calls to mind old times. The dress code is easy, and one may book a table for today."
    )
    assert without_solicitation(praise, ()) == (praise, 0)
