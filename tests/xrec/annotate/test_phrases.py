"""The phrases annotator: mentions in a sentence, the lexicon, texts, aspects of profiles."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.errors import raises
from tests.xrec.annotate.conftest import item_row, pair_row
from xrec.annotate.annotator import Annotator, ItemText, PairText, Review, ReviewedItem, UserInput
from xrec.annotate.phrases import phrases_spec
from xrec.annotate.phrases.annotator import OTHER_LANGUAGE
from xrec.annotate.phrases.lexicon import Lexicon, read_lexicon
from xrec.annotate.phrases.mentions import Mention
from xrec.annotate.phrases.profiles import find_aspects
from xrec.annotate.phrases.reader import Reader
from xrec.annotate.phrases.sentences import explanation
from xrec.config import PhrasesAnnotator, VocabularyConfig
from xrec.errors import DataError
from xrec.schemas import REVIEWS
from xrec.storage import open_location

READER = Reader()


def _mentions(text: str) -> dict[str, Mention]:
    return {name: each for each in READER.mentions(text) or () for name in each.names}


@pytest.mark.parametrize(
    ("text", "name", "opinion", "sentiment"),
    [
        ("A warm tone.", "tone", "warm", "positive"),
        ("The tone is very warm.", "tone", "warm", "positive"),
        ("The plot is weak.", "plot", "", "negative"),
        ("The hotel has a pool.", "pool", "", "neutral"),
        ("It has a sturdy switch.", "switch", "sturdy", "positive"),  # in neither lexicon
        ("The case is flimsy.", "case", "", "negative"),
        # A negation reverses an opinion, and "too" is blame.
        ("The screen is not great.", "screen", "", "negative"),
        ("The dialogue is too funny.", "dialogue", "", "negative"),
        ("It couldn't have a better sound.", "sound", "good", "positive"),
        # A richer sound is rich, but a higher price and an almost perfect fit are not praise.
        # A dial that is easy to read is praised, but it is not an easy dial.
        ("It has a much richer sound.", "sound", "rich", "positive"),
        ("It has a higher price.", "price", "", "neutral"),
        ("The dial is easy to read.", "dial", "", "positive"),
        ("The sound quality is poor.", "quality", "", "negative"),
        ("Not the best quality.", "quality", "", "negative"),
        ("The fit is almost perfect.", "fit", "", "neutral"),
        # Wishes, questions and conditions are not praise.
        ("I wish it had a warm tone.", "tone", "", "negative"),
        ("If you want great quality, look elsewhere.", "quality", "", "neutral"),
        ("Does it have a good battery?", "battery", "", "neutral"),
        # Neither is "not bad", "good enough", "hard to get", or what an item is made for.
        ("The price is not bad.", "price", "", "neutral"),
        ("The neck is good enough.", "neck", "", "neutral"),
        ("It is hard to get clean tones from it.", "tone", "", "neutral"),
        ("It is soft enough to protect the finish.", "finish", "", "neutral"),
        ("It is worth its weight in gold.", "weight", "", "neutral"),
        # What is near the item does not belong to it.
        ("It is close to some great restaurants.", "restaurant", "", "neutral"),
        # Verbs and adjectives that imply a noun.
        ("It sounds great.", "sound", "great", "positive"),
        ("This chair is comfortable.", "comfort", "", "positive"),
        ("It is not very durable.", "durability", "", "negative"),
        ("It is easy to use.", "ease of use", "", "positive"),
        ("It is beautifully written.", "writing", "", "positive"),
        ("It is well made.", "workmanship", "", "positive"),
        # Several words.
        ("I like its ease of use.", "ease of use", "", "positive"),
    ],
)
def test_mention_has_the_opinion_of_its_sentence(text, name, opinion, sentiment):
    found = _mentions(text)[name]
    assert (found.opinion, found.sentiment) == (opinion, sentiment)


@pytest.mark.parametrize(
    ("text", "name", "is_mentioned"),
    [
        ("Streak-free windows.", "streak", False),
        ("The sound is better than the streak.", "streak", False),
        ("It arrived in fine streak.", "streak", False),  # as "in fine shape"
        ("This is a portable amp.", "portability", True),
        ("I use the cable with a portable amp.", "portability", False),
    ],
)
def test_what_is_absent_or_of_another_item_is_not_mentioned(text, name, is_mentioned):
    assert (name in _mentions(text)) == is_mentioned


_TEXTS = (
    "This pedal has a warm tone. The switch is sturdy. It is durable.",
    "I like this pedal for its great tone, and the bright display is lovely. My brother is great.",
    "This pedal is comfortable to use. My brother likes the tone, and the switch is fine.",
    "The display of this pedal is bad. This Dunlop pedal is good. Great durability, my brother.",
    "The tone is lovely, and the display is great, and the switch is warm. I play in a "
    "band in a great room.",
)


def _learned(folder: Path, **vocabulary: Any) -> tuple[Annotator, Lexicon]:
    rows = [
        {"user_id": "u", "item_id": f"i{number}", "review": text, "summary": "", "split": "train"}
        for number, text in enumerate(_TEXTS * 5)
    ]
    words = VocabularyConfig(min_reviews=3, **vocabulary)
    spec = phrases_spec(PhrasesAnnotator(kind="phrases"), words)
    output = open_location(str(folder))
    spec.learn(pa.Table.from_pylist(rows, schema=REVIEWS), output)
    return spec.make(output, 0), read_lexicon(output)


@pytest.fixture(scope="module")
def learned(tmp_path_factory, actor_here):
    return _learned(tmp_path_factory.mktemp("learned"))


@pytest.fixture
def annotator(learned):
    return learned[0]


def _item(annotator: Annotator, *texts: str, **more: str) -> Any:
    (text,) = annotator.write([item_row(*texts, **more)]).results
    return text


def _pair(annotator: Annotator, text: str, item: ItemText | None = None) -> Any:
    (found,) = annotator.write([pair_row(text, item=item)]).results
    return found


def test_learned_aspects_are_judged_parts_and_not_names_of_the_item(learned):
    _, lexicon = learned
    assert set(lexicon.aspects) == {"tone", "display", "switch", "durability"}
    assert lexicon.items == {"pedal": ("this pedal", 1.0)}


@pytest.mark.usefixtures("actor_here")
def test_vocabulary_adds_and_drops_words(tmp_path):
    _, lexicon = _learned(tmp_path, add=("great room",), synonyms={"switches": None})
    assert set(lexicon.aspects) == {"great room", "tone", "display", "durability"}


@pytest.mark.parametrize(
    ("texts", "said", "unsaid"),
    [
        (
            [
                "This Dunlop pedal has a warm tone.",
                "I have the pedal by Dunlop, great tone.",
                "My pedal is broken, and the display is bad. Awful display.",
            ],
            ("great tone", "warm tone"),
            "display",
        ),
        (["I found this site helpful. It is durable.", "Works great."], ("durability",), "site"),
        (["The tone is warm.", *["It came on Monday."] * 20], ("",), "tone"),  # few praise it
    ],
)
def test_item_without_a_title_is_called_what_reviews_call_all_items(annotator, texts, said, unsaid):
    text = _item(annotator, *texts)
    assert (text.title, text.title_is_made) == ("this pedal", True)
    assert any(phrase in text.profile for phrase in said)
    assert unsaid not in text.profile


def test_item_with_title_and_details_keeps_both(annotator):
    text = _item(annotator, "A warm tone.", title="Fuzz One", details="A loud pedal")
    assert (text.title, text.title_is_made) == ("Fuzz One", False)
    assert text.profile.startswith("A loud pedal. ")
    assert "warm tone" in text.profile


def test_user_profile_names_what_they_praise_and_items_they_enjoyed(annotator):
    items = [ItemText("this pedal", "", title_is_made=True), ItemText("Fuzz One", "")]
    texts = ["A warm tone.", "The tone is great. It is durable."]
    reviewed = tuple(
        ReviewedItem(Review("u", f"i{number}", text), item)
        for number, (text, item) in enumerate(zip(texts, items, strict=True))
    )
    (text,) = annotator.write([UserInput("u", reviewed, 2)]).results
    assert "tone" in text.profile
    assert "durability" in text.profile
    assert text.profile.endswith("Has enjoyed Fuzz One.")


@pytest.mark.parametrize(
    ("text", "sentiments", "explained"),
    [
        (
            "The display is bad. A warm tone, and a great switch. Nice knob.",
            {"display": "negative", "tone": "positive", "switch": "positive"},
            "warm tone and great switch",
        ),
        ("Great switch. I love this switch. A warm tone.", {"tone": "positive"}, "warm tone"),
        ("The display came. The display is bad.", {"display": "negative"}, ""),
        ("The display is bad. But the display is great.", {"display": "positive"}, "great display"),
    ],
)
def test_pair_names_only_what_its_review_praises(annotator, text, sentiments, explained):
    found = _pair(annotator, text, ItemText("Fuzz One", ""))
    assert {each.aspect: each.sentiment for each in found.aspects} == sentiments
    assert explained in found.explanation
    assert bool(found.explanation) == bool(explained)
    blamed = {name for name, sentiment in sentiments.items() if sentiment != "positive"}
    assert blamed.isdisjoint(found.explanation.split())
    assert ("Fuzz One" in found.explanation) == bool(explained)


def test_pair_explanation_does_not_repeat_the_title(annotator):
    text = _pair(annotator, "A great switch and a warm tone.", ItemText("Foot Switch", "", True))
    assert [each.opinion for each in text.aspects] == ["great", "warm"]
    assert ("warm tone" in text.explanation, "great switch" in text.explanation) == (True, False)


def test_review_without_aspects_or_in_another_language_gives_no_reason(annotator):
    assert _item(annotator, "Bought on Monday.").profile == ""
    german = "Der tone von diesem Pedal ist sehr gut und ich habe lange danach gesucht."
    written = annotator.write([pair_row("Bought on Monday."), pair_row(german)])
    assert written.results == [PairText("", ())] * 2
    assert written.costs == {OTHER_LANGUAGE: 1}


@pytest.mark.parametrize("title", ["these strings", "this bass", "Carl's Jr.", ""])
def test_explanation_is_grammatical_whatever_the_title(title):
    texts = {explanation(f"u{number}", "B00X", title, ["warm tone"]) for number in range(60)}
    shown = title or "this item"
    assert len(texts) == 7
    for text in texts:
        assert shown in text or shown[0].upper() + shown[1:] in text
        assert text[0].isupper()
        assert re.fullmatch(r".*[^.]\.", text)
        assert {"its", "their", "it", "they"}.isdisjoint(text.lower().split())
        assert "B00X" not in text


PROFILES = [
    "Fans of fresh handmade pasta would enjoy it.",
    "Fans of handmade pasta and craft cocktails would enjoy it.",
    "Many pasta lovers who like a craft cocktail and outdoor seating would enjoy it.",
    "Lovers of craft cocktails, outdoor seating and a pinball machine would enjoy it.",
    "Fans of pasta would enjoy it.",
    "",
]


def _named(profiles: list[str], texts: list[str], max_share: float = 1.0) -> list[list[list[str]]]:
    found = find_aspects(profiles, texts, min_items=2, max_share=max_share)
    return [
        [sorted(found.aspects[number] for number in each) for each in named]
        for named in (found.of_profiles, found.of_explanations)
    ]


def test_find_aspects_gives_each_item_the_longest_names_that_enough_profiles_share():
    of_profiles, _ = _named(PROFILES, [])
    assert of_profiles == [
        ["handmade pasta"],
        ["craft cocktails", "handmade pasta"],
        ["craft cocktails", "outdoor seating", "pasta"],
        ["craft cocktails", "outdoor seating"],
        ["pasta"],
        [],
    ]
    of_profiles, _ = _named(PROFILES, [], max_share=0.4)  # of five profiles
    assert of_profiles[2:4] == [["outdoor seating"], ["outdoor seating"]]


def test_find_aspects_of_explanations_adds_no_names_and_counts_parts():
    texts = [
        "You would enjoy its handmade pasta and tea.",
        "Despite the pasta, it has tea.",
    ]
    assert _named(PROFILES, texts)[1] == [["handmade pasta", "pasta"], []]


@pytest.mark.parametrize(
    ("profile", "aspects"),
    [
        ("Fans of sushi, despite limited parking, would enjoy it.", ["sushi"]),
        ("Fans of sushi, though those sensitive to limited parking may be cautious.", ["sushi"]),
        ("Coffee lovers would enjoy it.", ["coffee"]),
        ("Fans of sushi enjoy it. However, some find it stressful in peak hours.", ["sushi"]),
        ("Families would enjoy sushi.", ["sushi"]),
        ("A mix of books for students.", ["books"]),
        ("Travelers who like ocean views would enjoy this hotel.", ["ocean views"]),
        ("It has dog-friendly tables.", ["dog-friendly tables"]),
        ("He would like Green Parrot Bistro for Starbucks coffee.", []),
    ],
)
def test_find_aspects_finds_what_a_profile_praises(profile, aspects):
    others = ["Coffee lovers would enjoy it.", "It has sushi, books and ocean views."]
    profiles = [profile] * 3 + others * 3
    assert _named(profiles, [])[0][0] == aspects


def test_find_aspects_raises_if_there_are_none():
    with raises(DataError, "no_aspects", "aspects_from", 3):
        find_aspects(["Fans of pasta.", "Fans of beer."], [])
