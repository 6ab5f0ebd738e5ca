"""Praise, blame and denial in English; other languages pass."""

from dataclasses import replace

import pytest

from tests.xrec.checks.hand_made import BISTRO, NOVEL, VOCABULARY
from xrec.checks import AspectNames
from xrec.checks.tone import why_not_positive
from xrec.llm.prompt import PairTexts

ASPECTS = AspectNames(VOCABULARY)


def why(text: str, texts: PairTexts = BISTRO) -> str:
    """The reason why it is not positive, "" if it is."""
    return why_not_positive(text, texts, ASPECTS) or ""


@pytest.mark.parametrize(
    "quoted", ['"awful"', "\u201cawful\u201d", "\u201eawful\u201c", "\u00abawful\u00bb"]
)
def test_blame_in_quotation_marks_of_any_kind_is_found(quoted):
    assert why(f"Guests call this place {quoted} and leave.")


@pytest.mark.parametrize(
    "text",
    [
        "Not only the late hours but the staff will please you.",
        "It is not just the quiet garden that you would love.",
        "A no-frills bistro with a quiet garden.",
        "A hassle-free evening in the quiet garden.",
        "You won't be disappointed by the late hours.",
        "You can't go wrong with the late hours.",
        "No wonder that you love the quiet garden.",
        "You never regret the late hours.",
        "No other bistro has such late hours.",
        "The late hours are to die for.",
        "Late hours.",
        "The quiet garden is never crowded.",
        "It is hard to resist the quiet garden.",
        "The garden has no noise, and the late hours suit you.",
        "Who wouldn't love the quiet garden?",
        "You will not find a better quiet garden.",
        "You get a quiet garden without high prices.",
        "You will not only enjoy the garden, you may not want to leave.",
        "Some find the staff slow, but the quiet garden is lovely.",
        "",
    ],
)
def test_praise_that_holds_words_of_denial_is_positive(text):
    assert why(text) == ""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("It has no quiet garden.", "denies or excludes"),
        ("No one likes the late hours.", "denies or excludes"),
        ("None of the guests praise the late hours.", "denies or excludes"),
        ("There used to be a quiet garden.", "denies or excludes"),
        ("The late hours leave much to be desired.", "dissuades"),
        ("You get a quiet garden for high prices.", "it blames: 'high prices'"),
        ("You would love it without the late hours.", "denies or excludes"),
        ("The late hours aren\u2019t what you love.", "denies or excludes"),
        ("You would love the garden rather than the late hours.", "denies or excludes"),
        ("You would love it, but the late hours are awful.", "blames"),
        ("The late hours are overpriced, but you would love the great staff.", "blames"),
        ("You would hate it here.", "sentiment is -0.57"),
        ("The user may not enjoy this great and lovely place.", "dissuades: 'may not enjoy'"),
        ("You would like its great tone and high price.", "blames: 'high price'"),
        ("Great cakes, but you won\u2019t really love it.", "dissuades"),
        ("A sad and ugly place for you.", "sentiment is -"),
    ],
)
def test_blame_and_denial_are_refused(text, reason):
    assert reason in why(text)


def test_a_denied_aspect_that_was_not_chosen_is_no_denial():
    text = "You would enjoy the quiet garden without the live music."
    assert why(text) == ""
    assert "denies" in why(text.replace("live music", "late hours"))


def test_grim_titles_aspects_and_subjects_are_no_blame_and_grim_judgements_are():
    text = "The Killing Hour is a murder mystery, a case of murder and revenge in court."
    assert why(text, NOVEL) == ""
    assert "sentiment" in why(text, replace(NOVEL, item_title="", item_profile=""))
    blamed = replace(NOVEL, item_profile=f"{NOVEL.item_profile} Some find it terrible.")
    assert "sentiment" in why("You would find this book of murder terrible.", blamed)
    parking = replace(NOVEL, item_title="The High Cost of Free Parking")
    assert why("You would enjoy The High Cost of Free Parking for its plot.", parking) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Die Bar hat die Terrasse, die Sie lieben, und war nie voll.",  # VADER knows "die", "war"
        "Le bar n'a pas de jardin et la mal nommée terrasse est triste.",
        "这家店很糟糕。",
    ],
)
def test_other_languages_pass(text):
    assert why(text) == ""
