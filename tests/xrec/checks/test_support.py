"""What a text says and nothing supports: in English any word, else aspects and numbers."""

import random
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.xrec.checks.hand_made import BISTRO, GUITAR, VOCABULARY
from xrec.checks import AspectNames
from xrec.checks.support import Claims, unsupported_spans, words_to_blame
from xrec.checks.tokens import digits_in, number_words, tokens_of
from xrec.data import AspectEvidence
from xrec.data.language import singular
from xrec.llm.prompt import PairTexts
from xrec.sample import ASPECTS as SAMPLE_ASPECTS
from xrec.sample import generate_language_examples

ASPECTS = AspectNames(VOCABULARY)
EMPTY = PairTexts("", "", "")
ROOFTOP = ["rooftop", "pool", "marble", "floors"]
NUNS, HATS = ["built", "nuns"], ["sells", "hand", "knitted", "hats"]
WARNING = "It may not be suitable for those who seek a quiet garden, but has strong coffee."


def unsupported_words(text: str, texts: PairTexts, aspects: AspectNames) -> list[str]:
    claims = Claims(text, texts, aspects)
    spans = unsupported_spans(claims)
    return list(dict.fromkeys(claims.tokens.text[start:end] for start, end in spans))


def profiled(item_profile: str) -> PairTexts:
    return replace(EMPTY, item_profile=item_profile)


def known(item_profile: str) -> tuple[Sequence[str], PairTexts]:
    return VOCABULARY, profiled(item_profile)


def unsupported(text: str, texts: PairTexts = BISTRO) -> list[str]:
    return unsupported_words(text, texts, ASPECTS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # aspects
        ("Its quiet gardens suit you.", []),  # chosen
        ("The dog friendly tables suit you.", []),  # on the menu, written in another way
        ("The strong coffee suits you.", ["strong coffee"]),
        # adjectives that no text joins to the aspect, and praise that fits anything
        ("Its lively quiet garden suits you.", ["lively"]),
        ("Its great quiet garden suits you.", []),
        # what the user's profile says, said of the item
        ("You would love the good coffee.", ["coffee"]),
        ("You like quiet gardens, and here they pour good coffee.", ["pour", "coffee"]),
        ("Fans of quiet gardens can have good coffee.", ["coffee"]),
        # said of the user
        ("As you love good coffee, the quiet garden will please you.", []),
        ("Since you enjoy cousins, weekends and coffee, come to the garden.", []),
        ("You come by bike with two cousins.", []),
        # which the profile does not say
        ("As you love live music, the quiet garden will please you.", ["live music"]),
        # numbers
        ("You would enjoy Café 21 at once.", []),  # in the title
        ("You would enjoy Café 21. Nothing beats its late hours.", []),  # which ends a sentence
        ("14 of 31, fourteen of thirty-one; 3 of seven.", []),  # counts of the evidence
        ("One of your nicest days, no one is bored.", []),
        ("At 45 % of tables for 2 and two.", ["45"]),  # two cousins
        ("A five-star bistro with dozens of twenty-one.", ["five", "star", "dozens"]),
        # claims of any form
        ("You would enjoy its rooftop pool and marble floors.", ROOFTOP),
        ("It was built by nuns, and sells hand-knitted hats.", [*NUNS, *HATS]),
        ("Quietly run, it's praised for pastry: you'll love it, won't you?", []),  # other forms
        # names
        ("You would enjoy it as in Paris or New York.", ["Paris", "New", "York"]),
        ("Paris is nice. Rome is too! Oslo? It’s London.", ["Paris", "Rome", "Oslo", "London"]),
        ("I love it and I'm sure that I’d love the Novaks' bistro on Mill Lane.", []),
        ("“Wonderful,” say guests (They are right) – Enjoy.", []),
        ("You would enjoy the wi-fi and the iPad there.", ["wi", "fi", "iPad"]),
        ("At Dr. Pepper you would enjoy it.", ["Dr", "Pepper"]),  # no sentence ends there
        # digits and aspects in all languages
        ("Die Terrasse hat 45 Plätze und live music.", ["45", "live music"]),
        ("这家店有 45 个座位。", ["45"]),
        ("ستحب ٤٥ طاولة", ["٤٥"]),
        # words, and numbers in words, in English alone
        ("Die ruhige Gartenterrasse ist genau das Richtige für Sie und Ihre zwei Vettern.", []),
        ("这家店很安静，你会喜欢花园。", []),
    ],
)
def test_unsupported_words_aspects_and_numbers_are_found(text, expected):
    assert unsupported(text) == expected


SYNONYMS = (
    ["friendly service", "thai food", "local ingredient", "quiet room"],
    PairTexts(
        "Likes quick service.",
        "",
        "A place known for curries.",
        menu=frozenset({"thai food", "quiet room"}),
    ),
)
NEAR = (
    ["wine selection", "authentic thai cuisine", "great choice", "warm light", "great value"],
    profiled(
        "Known for a selection of fine wines, authentic and hot Thai cuisine, warm bread, bright "
        "lights, service and atmosphere."
    ),
)
CAJUN = ([], PairTexts("Loves Cajun food.", "", "A pub in New Orleans."))
FRENCH = (
    ["cuisine indienne", "service rapide"],
    replace(EMPTY, menu=frozenset({"cuisine indienne"})),
)


@pytest.mark.parametrize(
    ("pair", "text", "expected"),
    [
        # synonyms, words that imply others, and praise
        (SYNONYMS, "You would enjoy its quiet room and excellent service.", ["service"]),
        (SYNONYMS, "You would enjoy the wonderful meals and the great staff.", ["staff"]),
        (SYNONYMS, "As you love excellent service, the Thai food is for you.", []),
        (([], profiled("A novel.")), "This book suits you.", []),
        (([], profiled("A book.")), "This novel suits you.", ["novel"]),
        (([], profiled("A plot.")), "You would love the end, and the ending.", ["end", "ending"]),
        # the words of an aspect are close to each other
        (NEAR, "You would love its wine selection and authentic Thai cuisine.", []),
        (NEAR, "You would love its unique wine selection, making it a great choice.", []),
        (NEAR, "You would love its warm lights.", ["warm lights"]),
        # the user's profile supports only what is said about the user
        (CAJUN, "You will enjoy its Cajun food in New Orleans.", ["Cajun", "food"]),
        (CAJUN, "As you love Cajun food, this pub in New Orleans suits you.", []),
        # what a profile denies, and what punctuation separates
        (
            known("Comes without a carrying case."),
            "It has a carrying case.",
            ["carrying case"],
        ),
        (known("A no-frills carrying case."), "It has a carrying case.", []),
        (
            known("They like the river. View it here."),
            "It has a river view.",
            ["river view"],
        ),
        (
            known(WARNING),
            "You would love its quiet garden and strong coffee.",
            ["quiet garden"],
        ),
        # a part of an aspect
        (FRENCH, "Vous aimerez sa cuisine et un rapide accueil.", []),
        (
            (
                ["dry cleaning", "friendly service"],
                replace(EMPTY, menu=frozenset({"dry cleaning"})),
            ),
            "You would enjoy it for the excellent service.",
            ["service"],
        ),
    ],
)
def test_words_are_supported_by_what_means_or_implies_them(pair, text, expected):
    vocabulary, texts = pair
    assert unsupported_words(text, texts, AspectNames(vocabulary)) == expected


def test_texts_of_the_sample_have_no_unsupported_words():
    aspects = AspectNames(SAMPLE_ASPECTS)
    for example in generate_language_examples(200, seed=3):
        texts = PairTexts(example.user_profile, example.item_title, example.item_profile)
        assert unsupported_words(example.explanation, texts, aspects) == []


def test_words_to_blame_are_the_first_specific_ones_of_phrases_and_their_adjectives():
    text = "You would love the great live music, quiet rooms, a place, and the kind, helpful staff."
    evidence = AspectEvidence("quiet garden", 2, 3, 0, 0)
    texts = replace(EMPTY, aspects=(evidence,))
    phrases = ["great live music", "quiet rooms", "place", "staff"]
    spans = [(text.index(each), text.index(each) + len(each)) for each in phrases]
    blamed = words_to_blame(Claims(text, texts, ASPECTS), spans)
    assert list(blamed) == ["live", "rooms", "helpful"]
    text = "You would love the friendly and helpful staff."
    blamed = words_to_blame(Claims(text, texts, ASPECTS), [(40, 45)])
    assert list(blamed) == ["friendly"]


def test_number_in_a_product_name_is_only_supported_by_the_title():
    text = "You would enjoy the HG-200 and its tone."
    assert unsupported(text, GUITAR) == []
    assert unsupported(text, replace(GUITAR, item_title="Harbor")) == ["HG", "200"]


@pytest.mark.parametrize(
    "text",
    ["", " ", "\x00\ufffd", "A" * 10_000, "&" * 500, "²³ ½ Ⅷ", "'s", "one " * 300, "\u0301" * 50],
)
def test_hostile_texts_do_not_break_the_checks(text):
    assert isinstance(unsupported(text, EMPTY), list)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two hundred and one", ["200"]),
        ("three thousand four hundred five", ["3405"]),
        ("a dozen, five dozen, millions", ["12", "60", "1000000"]),
        ("one zero", []),
    ],
)
def test_number_words_are_read_as_digits(text, expected):
    assert [number for _, _, number in number_words(tokens_of(text))] == expected


def test_numbers_of_any_length_are_read():
    """Python's `int` and `str` refuse more than 4,300 digits."""
    assert digits_in("00" + "1" * 5000 + " 0 000") == ["1" * 5000, "0", "0"]
    assert all(len(number) < 50 for _, _, number in number_words(tokens_of("hundred " * 5000)))


VOCABULARY = [
    "hours", "late hours", "late hours bar", "coffee shop", "strong coffee", "dog-friendly tables",
    "kids' menu", "mac & cheese", "bass", "Café au lait", "花园",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Open for late hours.", ["late hours=late hours"]),
        ("A late hours bar.", ["late hours bar=late hours bar"]),
        ("the hour's end", ["hours=hour's"]),
        ("dog friendly table", ["dog-friendly tables=dog friendly table"]),
        ("dog\u2011friendly tables", ["dog-friendly tables=dog\u2011friendly tables"]),
        ("a kid's menu, the kids menu", ["kids' menu=kid's menu", "kids' menu=kids menu"]),
        ("mac and cheese", ["mac & cheese=mac and cheese"]),
        ("strong coffee shops", ["strong coffee=strong coffee", "coffee shop=coffee shops"]),
        ("cafe\u0301 au lait", ["Café au lait=café au lait"]),
        ("这家店的花园很安静", ["花园=花园"]),
        # no whole words, or not beside each other
        ("hourly, chlorate hoursX, bassist of bas", []),
        ("It is open late. Hours: 9 to 5", ["hours=Hours"]),
        ("\u200b\ufffd\x00 ... --- !!!", []),
    ],
)  # fmt: skip
def test_aspect_names_finds_whole_words_in_any_case_and_number(text, expected):
    found = AspectNames(VOCABULARY).find(text)
    text = unicodedata.normalize("NFC", text)
    assert [f"{each.name}={text[each.start : each.end]}" for each in found] == expected


def test_aspect_names_are_those_of_a_brute_force_search():
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

    def is_within(place: tuple[int, int], other: tuple[int, int]) -> bool:
        return place != other and other[0] <= place[0] and place[1] <= other[1]

    return {place for place in places if not any(is_within(place, other) for other in places)}


def test_first_of_two_equal_aspect_names_is_found():
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
        ("Fit and look are great.", ["Fit", "look"]),
    ],
)
def test_aspect_names_are_not_found_in_verbs_or_after_your(text, expected):
    names = AspectNames(["look", "sound", "value", "fit", "taste", "build"])
    assert [text[each.start : each.end] for each in names.find(text)] == expected
