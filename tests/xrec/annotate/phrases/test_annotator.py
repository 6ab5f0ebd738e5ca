"""Aspects that are learned, and the texts that name them, as a reader would have them."""

from pathlib import Path

import pyarrow as pa
import pytest

from xrec.annotate.annotator import (
    Annotator,
    Failure,
    ItemInput,
    ItemText,
    PairInput,
    PairText,
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


def _annotator(tmp_path: Path) -> Annotator:
    rows = [
        {"user_id": "u", "item_id": "i", "review": text, "summary": "", "split": "train"}
        for text in _TEXTS * 4
    ]
    config = PhrasesAnnotator(kind="phrases", min_reviews=3, max_share=1)
    spec, output = phrases_spec(config), open_location(str(tmp_path))
    spec.learn(pa.Table.from_pylist(rows, schema=REVIEWS), output)
    return spec.make(output)


def _reviews(*texts: str) -> tuple[Review, ...]:
    return tuple(Review(f"u{number}", "i", text) for number, text in enumerate(texts))


def test_learned_aspects_are_judged_and_are_not_what_the_item_is_called(tmp_path: Path) -> None:
    _annotator(tmp_path)
    lexicon = read_lexicon(open_location(str(tmp_path)))
    assert {"tone", "display", "switch", "ease of use"} <= set(lexicon.aspects)
    assert "pedal" not in lexicon.aspects  # they say "this pedal"
    assert "brother" not in lexicon.aspects  # nobody judges him
    assert "pedal" in lexicon.things


def test_item_without_title_is_called_what_its_reviews_call_it(tmp_path: Path) -> None:
    reviews = _reviews(
        "This Dunlop pedal has a warm tone.",
        "I have the pedal by Dunlop, great tone.",
        "My pedal is broken, and the display is dull. Awful display.",
    )
    (text,) = _annotator(tmp_path).write([ItemInput("B1", "", "", reviews, 3)]).results
    assert isinstance(text, ItemText)
    assert (text.title, text.title_is_made) == ("Dunlop Pedal", True)
    assert "great tone" in text.profile or "warm tone" in text.profile
    assert "display" not in text.profile


def test_item_that_its_reviews_call_nothing_does_not_show_its_id(tmp_path: Path) -> None:
    rows = [
        ItemInput("B00X", "", "", _reviews("It is sturdy.", "Works great."), 2),
        ItemInput("B00Y", "", "", _reviews("I bought it on Monday."), 1),
    ]
    named, unknown = _annotator(tmp_path).write(rows).results
    assert isinstance(named, ItemText)
    assert (named.title, named.title_is_made) == ("", False)
    assert "build" in named.profile
    assert isinstance(unknown, Failure)


def test_item_with_title_and_details_keeps_both(tmp_path: Path) -> None:
    row = ItemInput("B1", "Fuzz One", "A loud pedal", _reviews("A warm tone."), 1)
    (text,) = _annotator(tmp_path).write([row]).results
    assert isinstance(text, ItemText)
    assert (text.title, text.title_is_made) == ("Fuzz One", False)
    assert text.profile.startswith("A loud pedal. ")
    assert "warm tone" in text.profile


def test_user_profile_names_what_they_praise_and_have(tmp_path: Path) -> None:
    reviewed = tuple(
        ReviewedItem(review, ItemText("Wah Pedal", "", title_is_made=True))
        for review in _reviews("A warm tone.", "The tone is great. It is easy to use")
    )
    (text,) = _annotator(tmp_path).write([UserInput("u", reviewed, 2)]).results
    assert isinstance(text, UserText)
    assert "tone" in text.profile
    assert "ease of use" in text.profile
    assert text.profile.endswith("Has enjoyed the Wah Pedal.")


def test_pair_names_what_its_review_praises_and_not_what_it_blames(tmp_path: Path) -> None:
    review = Review("u", "i", "The display is dull. A warm tone, and a great switch. Nice knob.")
    row = PairInput("u", "i", review, ItemText("Fuzz One", ""), "train")
    (text,) = _annotator(tmp_path).write([row]).results
    assert isinstance(text, PairText)
    found = [(each.aspect, each.opinion, each.sentiment) for each in text.aspects]
    assert found == [
        ("display", "", "negative"),
        ("tone", "warm", "positive"),
        ("switch", "great", "positive"),
    ]
    assert "warm tone and great switch" in text.explanation
    assert "Fuzz One" in text.explanation
    assert "display" not in text.explanation


@pytest.mark.parametrize(
    "text",
    ["The display came. The display is dull.", "The display is dull. The display came."],
)
def test_pair_that_names_an_aspect_neutrally_too_blames_it(tmp_path: Path, text: str) -> None:
    review = Review("u", "i", f"{text} A warm tone.")
    (found,) = _annotator(tmp_path).write([PairInput("u", "i", review, None, "train")]).results
    assert isinstance(found, PairText)
    assert {each.aspect: each.sentiment for each in found.aspects}["display"] == "negative"


def test_pair_that_praises_and_blames_an_aspect_praises_it(tmp_path: Path) -> None:
    review = Review("u", "i", "The display is dull. But the display is great.")
    (found,) = _annotator(tmp_path).write([PairInput("u", "i", review, None, "train")]).results
    assert isinstance(found, PairText)
    assert [(each.aspect, each.sentiment) for each in found.aspects] == [("display", "positive")]


def test_learned_phrases_are_the_same_in_whatever_order_a_set_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprints = set()
    for names in (("Korg", "Boss", "Fender"), ("Fender", "Korg", "Boss")):
        monkeypatch.setattr(lexicon_module, "proper_names", lambda text, names=names: names)
        folder = tmp_path / names[0]
        _annotator(folder)
        fingerprints.add(lexicon_module.fingerprint_of_phrases(open_location(str(folder))))
    assert len(fingerprints) == 1


def test_pair_whose_title_says_it_already_is_praised_for_something_else(tmp_path: Path) -> None:
    review = Review("u", "i", "A great switch and a warm tone.")
    row = PairInput("u", "i", review, ItemText("Foot Switch", "", True), "train")
    (text,) = _annotator(tmp_path).write([row]).results
    assert isinstance(text, PairText)
    assert "warm tone" in text.explanation
    assert "great switch" not in text.explanation


def test_pair_whose_review_only_blames_keeps_its_aspects_without_an_explanation(
    tmp_path: Path,
) -> None:
    review = Review("u", "i", "The display is dull. The tone came.")
    (text,) = _annotator(tmp_path).write([PairInput("u", "i", review, None, "train")]).results
    assert isinstance(text, PairText)
    assert text.explanation == ""
    assert {each.aspect: each.sentiment for each in text.aspects}["display"] == "negative"


def test_pair_whose_review_speaks_of_nothing_known_is_a_failure(tmp_path: Path) -> None:
    row = PairInput("u", "i", Review("u", "i", "I bought it on Monday."), None, "train")
    (result,) = _annotator(tmp_path).write([row]).results
    assert isinstance(result, Failure)
    assert result.reason == "nothing_praised"


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
