"""Noun phrases with the opinion on them, and praise that names nothing."""

import pytest

from xrec.annotate.phrases.attributes import attributes
from xrec.annotate.phrases.mentions import noun_phrases, proper_names


def _found(text: str) -> list[tuple[str, str, str]]:
    return [(each.names[0], each.opinion, each.sentiment) for each in noun_phrases(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The tone is very warm.", [("tone", "warm", "positive")]),
        ("A warm, lovely tone!", [("tone", "lovely", "positive")]),
        ("I love the tone.", [("tone", "", "positive")]),
        ("The tone is not great.", [("tone", "", "negative")]),
        ("It has an acceptable tone.", [("tone", "", "neutral")]),
        ("The tone is far from warm.", [("tone", "", "negative")]),
        ("I don't love the tone.", [("tone", "", "negative")]),
        ("The sound is terrible", [("sound", "", "negative")]),
        ("It could have a more pleasant tone", [("tone", "", "negative")]),
        ("It has a knob.", [("knob", "", "neutral")]),
        ("A small knob at a low price.", [("knob", "", "neutral"), ("price", "", "neutral")]),
        ("The knob is too small.", [("knob", "", "negative")]),
        ("Low quality.", [("quality", "", "negative")]),
        ("It sounds more like a fuzz", [("fuzz", "", "neutral")]),
        ("I really like the fuzz", [("fuzz", "", "positive")]),
        ("The build quality is excellent", [("build quality", "excellent", "positive")]),
        ("Great screens and knobs.", [("screen", "great", "positive"), ("knob", "", "neutral")]),
    ],
)
def test_noun_phrases_have_the_opinion_nearby(
    text: str, expected: list[tuple[str, str, str]]
) -> None:
    assert _found(text) == expected


@pytest.mark.parametrize(
    ("text", "sentiment"),
    [
        ("I expected great quality and got junk", "neutral"),
        ("I was hoping to get a warm, pleasant quality", "neutral"),
        ("It is better than expected with great quality", "positive"),
        ("I was not really expecting to get such a great quality", "positive"),
        ("I expected little and, wow, great quality", "positive"),
        ("If you want a warm, pleasant quality, buy it", "neutral"),
        ("If you are careful, it has great quality", "positive"),
        ("Unless you need great quality", "neutral"),
        ("I wish it had great quality", "negative"),
        ("It could have a more pleasant quality", "negative"),
        ("This could be great quality", "neutral"),
        ("You could not find a more pleasant quality", "positive"),
        ("It could be smaller, but great quality", "positive"),
        ("You could pay me and anyone else in town and it has great quality", "positive"),
    ],
)
def test_praise_that_is_wished_expected_or_conditional_is_none(text: str, sentiment: str) -> None:
    found = {each.names[0]: each.sentiment for each in noun_phrases(text)}
    assert found["quality"] == sentiment


def test_noun_phrases_of_a_compound_may_be_called_by_its_last_words() -> None:
    (phrase,) = noun_phrases("A reliable guitar strap button.")
    assert phrase.names == ("guitar strap button", "strap button", "button")


def test_noun_phrases_tell_verbs_from_nouns_by_the_word_before() -> None:
    assert _found("They sound as I want to play") == []
    assert [name for name, _, _ in _found("The sound of my play")] == ["sound", "play"]


def test_noun_phrases_say_what_this_points_to() -> None:
    points = {each.names[0]: each.points for each in noun_phrases("This nice pedal has a switch.")}
    assert points == {"pedal": True, "switch": False}


def test_proper_names_are_capitalized_within_a_sentence() -> None:
    text = "Great, and I'd say so. My friend has Planet Waves cables, and Dunlop straps. Nice!"
    assert proper_names(text) == {"Planet", "Waves", "Planet Waves", "Dunlop"}


@pytest.mark.parametrize(
    ("text", "aspects"),
    [
        ("It's so easy to set up!", ["ease of use"]),
        ("Works really well and sounds great", ["performance", "sound"]),
        ("well made, sturdy, and worth every penny", ["build", "build", "value"]),
        ("You can't beat it for this price", ["price"]),
        ("The staff were nice; friendly service, tasty food", ["service", "taste"]),
        ("An excellent quality capo, works exactly as it should", ["quality", "performance"]),
        ("It lasted me a very long time, and gets the job done", ["durability", "performance"]),
        ("I could not put it down, a page-turner", ["story"]),
        ("Inaccurate. An easygoing man worked here. Unreliable.", []),
    ],
)
def test_attributes_stand_for_what_is_praised(text: str, aspects: list[str]) -> None:
    assert [each.aspect for each in attributes(text)] == aspects


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It does the job, and lasts a long time.", ["does the job", "lasts a long time"]),
        ("Does what it's supposed to do", ["does what it's supposed to do"]),
        ("does exactly what I need", ["does exactly what i need"]),
        ("Easy to put on and easy to read!", ["easy to put on", "easy to read"]),
        ("What it does to the sound", []),
    ],
)
def test_attributes_have_whole_turns_of_phrase(text: str, words: list[str]) -> None:
    assert [each.words for each in attributes(text)] == words


def test_attributes_that_are_denied_say_so() -> None:
    denied = [
        (each.aspect, each.is_denied) for each in attributes("It is not easy to use, but sturdy")
    ]
    assert denied == [("ease of use", True), ("build", False)]
