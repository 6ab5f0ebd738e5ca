"""Aspects that are learned, and the texts that name them, as a reader would have them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from xrec.annotate.annotator import (
    Annotator,
    Failure,
    ItemInput,
    ItemText,
    PairInput,
    Review,
    ReviewedItem,
    UserInput,
    UserText,
)
from xrec.annotate.phrases import lexicon as lexicon_module
from xrec.annotate.phrases import phrases_spec
from xrec.annotate.phrases.lexicon import read_lexicon
from xrec.annotate.phrases.sentences import explanation, item_profile, listed
from xrec.config.annotate import PhrasesAnnotator
from xrec.schemas import REVIEWS
from xrec.storage import open_location

_TEXTS = (
    "This pedal has a warm tone. The switch is sturdy.",
    "I like this pedal for its great tone, and the bright display is lovely.",
    "This pedal is easy to use. My brother likes the tone, and the switch is fine.",
    "The display of this pedal is dull. This Dunlop pedal is good.",
    "The tone is lovely, and the display is great, and so is the good switch.",
)


def _learned(folder: Path) -> Annotator:
    rows = [
        {"user_id": "u", "item_id": "i", "review": text, "summary": "", "split": "train"}
        for text in _TEXTS * 4
    ]
    config = PhrasesAnnotator(kind="phrases", min_reviews=3, max_share=1)
    spec, output = phrases_spec(config), open_location(str(folder))
    assert spec.learn is not None
    spec.learn(pa.Table.from_pylist(rows, schema=REVIEWS), output)
    return spec.make(output)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the annotator of this module learned."""
    return tmp_path_factory.mktemp("learned")


@pytest.fixture(scope="module")
def annotator(folder: Path) -> Annotator:
    """An annotator that learned from the texts above."""
    return _learned(folder)


def _item(annotator: Annotator, *texts: str, title: str = "", details: str = "") -> Any:
    reviews = tuple(Review(f"u{number}", "i", text) for number, text in enumerate(texts))
    (text,) = annotator.write([ItemInput("B00X", title, details, reviews, len(texts))]).results
    return text


def _pair(annotator: Annotator, text: str, item: ItemText | None = None) -> Any:
    row = PairInput("u", "i", Review("u", "i", text), item, "train")
    (found,) = annotator.write([row]).results
    return found


@pytest.mark.usefixtures("annotator")
def test_learned_aspects_are_judged_and_are_not_what_the_item_is_called(folder: Path) -> None:
    lexicon = read_lexicon(open_location(str(folder)))
    assert {"tone", "display", "switch", "ease of use"} <= set(lexicon.aspects)
    assert "pedal" not in lexicon.aspects  # they say "this pedal"
    assert "brother" not in lexicon.aspects  # nobody judges him
    assert "pedal" in lexicon.things


def test_learned_phrases_are_the_same_in_whatever_order_a_set_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprints = set()
    for names in (("Korg", "Boss", "Fender"), ("Fender", "Korg", "Boss")):
        monkeypatch.setattr(lexicon_module, "proper_names", lambda text, names=names: names)
        folder = tmp_path / names[0]
        _learned(folder)
        fingerprints.add(lexicon_module.fingerprint_of_phrases(open_location(str(folder))))
    assert len(fingerprints) == 1


def test_item_without_title_is_called_what_its_reviews_call_it(annotator: Annotator) -> None:
    text = _item(
        annotator,
        "This Dunlop pedal has a warm tone.",
        "I have the pedal by Dunlop, great tone.",
        "My pedal is broken, and the display is dull. Awful display.",
    )
    assert (text.title, text.title_is_made) == ("Dunlop Pedal", True)
    assert "great tone" in text.profile or "warm tone" in text.profile
    assert "display" not in text.profile


def test_item_that_its_reviews_call_nothing_has_no_title(annotator: Annotator) -> None:
    text = _item(annotator, "It is sturdy.", "Works great.")
    assert (text.title, text.title_is_made) == ("", False)
    assert "build" in text.profile


def test_item_with_title_and_details_keeps_both(annotator: Annotator) -> None:
    text = _item(annotator, "A warm tone.", title="Fuzz One", details="A loud pedal")
    assert (text.title, text.title_is_made) == ("Fuzz One", False)
    assert text.profile.startswith("A loud pedal. ")
    assert "warm tone" in text.profile


def test_user_profile_names_what_they_praise_and_have(annotator: Annotator) -> None:
    texts = ("A warm tone.", "The tone is great. It is easy to use")
    item = ItemText("Wah Pedal", "", title_is_made=True)
    reviewed = tuple(ReviewedItem(Review("u", "i", text), item) for text in texts)
    (text,) = annotator.write([UserInput("u", reviewed, 2)]).results
    assert isinstance(text, UserText)
    assert "tone" in text.profile
    assert "ease of use" in text.profile
    assert text.profile.endswith("Has enjoyed the Wah Pedal.")


@pytest.mark.parametrize(
    ("text", "sentiments", "explained"),
    [
        (
            "The display is dull. A warm tone, and a great switch. Nice knob.",
            {"display": "negative", "tone": "positive", "switch": "positive"},
            "warm tone and great switch",
        ),
        ("The display came. The display is dull.", {"display": "negative"}, ""),
        ("The display is dull. The display came.", {"display": "negative"}, ""),
        (
            "The display is dull. But the display is great.",
            {"display": "positive"},
            "great display",
        ),
        ("The display is dull. The tone came.", {"display": "negative", "tone": "neutral"}, ""),
    ],
)
def test_pair_names_what_its_review_praises_and_not_what_it_blames(
    annotator: Annotator, text: str, sentiments: dict[str, str], explained: str
) -> None:
    found = _pair(annotator, text, ItemText("Fuzz One", ""))
    assert {each.aspect: each.sentiment for each in found.aspects} == sentiments
    assert explained in found.explanation
    assert bool(found.explanation) == bool(explained)
    blamed = {name for name, sentiment in sentiments.items() if sentiment != "positive"}
    assert blamed.isdisjoint(found.explanation.split())
    assert ("Fuzz One" in found.explanation) == bool(explained)


def test_pair_whose_title_says_it_already_is_praised_for_something_else(
    annotator: Annotator,
) -> None:
    text = _pair(annotator, "A great switch and a warm tone.", ItemText("Foot Switch", "", True))
    assert [each.opinion for each in text.aspects] == ["great", "warm"]
    assert "warm tone" in text.explanation
    assert "great switch" not in text.explanation


def test_text_of_reviews_that_speak_of_nothing_known_is_a_failure(annotator: Annotator) -> None:
    for failure in (_pair(annotator, "Bought on Monday."), _item(annotator, "Bought on Monday.")):
        assert isinstance(failure, Failure)
        assert failure.reason == "nothing_praised"


@pytest.mark.parametrize("title", ["Strings", "Alesis Headphones", "Pedal", "Bass"])
def test_explanation_of_a_made_title_is_grammatical(title: str) -> None:
    texts = {
        explanation(f"u{number}", "i", title, ["warm tone"], title_is_made=True)
        for number in range(60)
    }
    assert len(texts) == 8
    for text in texts:
        assert f"the {title}" in text or f"The {title}" in text
        assert text[0].isupper()
        assert text.endswith(".")
        assert {"its", "their", "it", "they"}.isdisjoint(text.lower().split())  # plural or not


def test_explanation_of_an_item_without_a_title_does_not_show_its_id() -> None:
    texts = {
        explanation(f"u{number}", "B00X", "", ["tone"], title_is_made=False) for number in range(60)
    }
    assert all("this item" in text.lower() and "B00X" not in text for text in texts)


def test_item_profile_of_long_details_without_blanks_has_their_beginning() -> None:
    details = "\u97f3\u8d28\u5f88\u597d\u3002" * 100
    assert item_profile("i", details, [], []) == f"{details[:300]} \u2026"
    assert item_profile("i", "ab " * 200, [], []) == f"{('ab ' * 100).strip()} \u2026"


def test_listed_words_are_joined_as_in_a_sentence() -> None:
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]
