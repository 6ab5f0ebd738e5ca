"""Aspects that are learned, and the texts that name them, as a reader would have them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.world.here import map_here
from tests.xrec.annotate.language_model.rows import item_row, pair_row
from xrec.annotate.annotator import Annotator, ItemText, PairText, Review, ReviewedItem, UserInput
from xrec.annotate.phrases import phrases_spec
from xrec.annotate.phrases.annotator import OTHER_LANGUAGE
from xrec.annotate.phrases.lexicon import fingerprint_of_phrases, read_lexicon
from xrec.annotate.phrases.sentences import explanation, item_profile
from xrec.config.annotate import PhrasesAnnotator, VocabularyConfig
from xrec.schemas import REVIEWS
from xrec.storage import open_location

_TEXTS = (
    "This pedal has a warm tone. The switch is sturdy. It is durable.",
    "I like this pedal for its great tone, and the bright display is lovely. My brother is great.",
    "This pedal is comfortable to use. My brother likes the tone, and the switch is fine.",
    "The display of this pedal is bad. This Dunlop pedal is good. Great durability, my brother.",
    "The tone is lovely, and the display is great, and the switch is warm and zingy. I play in a "
    "band in a great room.",
)


def _learned(folder: Path, vocabulary: VocabularyConfig | None = None) -> Annotator:
    rows = [
        {"user_id": "u", "item_id": f"i{number}", "review": text, "summary": "", "split": "train"}
        for number, text in enumerate(_TEXTS * 5)
    ]
    config = PhrasesAnnotator(kind="phrases", min_reviews=3)
    spec = phrases_spec(config, vocabulary or VocabularyConfig())
    output = open_location(str(folder))
    with pytest.MonkeyPatch.context() as patch:  # no Ray
        patch.setattr("xrec.bulk.work.pool.map_in_processes", map_here)
        spec.learn(pa.Table.from_pylist(rows, schema=REVIEWS), output)
    return spec.make(output)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("learned")


@pytest.fixture(scope="module")
def annotator(folder):
    return _learned(folder)


def _item(annotator: Annotator, *texts: str, **more: str) -> Any:
    (text,) = annotator.write([item_row(*texts, **more)]).results
    return text


def _pair(annotator: Annotator, text: str, item: ItemText | None = None) -> Any:
    (found,) = annotator.write([pair_row(text, item=item)]).results
    return found


@pytest.mark.usefixtures("annotator")
def test_learned_aspects_are_judged_parts_and_no_names_of_the_item(folder):
    lexicon = read_lexicon(open_location(str(folder)))
    assert set(lexicon.aspects) == {"tone", "display", "switch", "durability"}
    assert lexicon.items == {"pedal": ("this pedal", 1.0)}
    assert lexicon.valences == {"zingy": pytest.approx(0.4)}  # "warm and zingy"


def test_own_words_are_added_and_dropped(tmp_path):
    _learned(tmp_path, VocabularyConfig(add=("great room",), drop=("switches",)))
    lexicon = read_lexicon(open_location(str(tmp_path)))
    assert set(lexicon.aspects) == {"great room", "tone", "display", "durability"}


def test_texts_that_were_learned_from_are_not_parsed_again(annotator, folder, monkeypatch):
    texts = [_pair(annotator, text) for text in _TEXTS]
    spec = phrases_spec(PhrasesAnnotator(kind="phrases"), VocabularyConfig())
    again = spec.make(open_location(str(folder)))
    monkeypatch.setattr("xrec.annotate.phrases.mentions.parse", iter)
    assert [_pair(again, text) for text in _TEXTS] == texts
    with pytest.raises(AttributeError):
        _pair(again, "The tone of another pedal is lovely.")


@pytest.mark.usefixtures("annotator")
def test_learning_twice_gives_the_same(folder, tmp_path):
    _learned(tmp_path)
    one, other = (fingerprint_of_phrases(open_location(str(each))) for each in (folder, tmp_path))
    assert one == other


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
        (["It is durable.", "Works great."], ("durability",), "tone"),
        (["I found this site helpful. It is durable.", "Works great."], ("durability",), "site"),
        (["The tone is warm.", *["It came on Monday."] * 20], ("",), "tone"),  # few praise it
    ],
)
def test_item_without_title_is_called_what_all_items_are(annotator, texts, said, unsaid):
    text = _item(annotator, *texts)
    assert (text.title, text.title_is_made) == ("this pedal", True)
    assert any(phrase in text.profile for phrase in said)
    assert unsaid not in text.profile


def test_item_with_title_and_details_keeps_both(annotator):
    text = _item(annotator, "A warm tone.", title="Fuzz One", details="A loud pedal")
    assert (text.title, text.title_is_made) == ("Fuzz One", False)
    assert text.profile.startswith("A loud pedal. ")
    assert "warm tone" in text.profile


def test_user_profile_names_what_they_praise_and_have(annotator):
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
        ("The display is bad. The display came.", {"display": "negative"}, ""),
        ("The display is bad. But the display is great.", {"display": "positive"}, "great display"),
        ("The display is bad. The tone came.", {"display": "negative", "tone": "neutral"}, ""),
    ],
)
def test_pair_names_what_its_review_praises_alone(annotator, text, sentiments, explained):
    found = _pair(annotator, text, ItemText("Fuzz One", ""))
    assert {each.aspect: each.sentiment for each in found.aspects} == sentiments
    assert explained in found.explanation
    assert bool(found.explanation) == bool(explained)
    blamed = {name for name, sentiment in sentiments.items() if sentiment != "positive"}
    assert blamed.isdisjoint(found.explanation.split())
    assert ("Fuzz One" in found.explanation) == bool(explained)


def test_pair_whose_title_says_it_already_is_praised_for_something_else(annotator):
    text = _pair(annotator, "A great switch and a warm tone.", ItemText("Foot Switch", "", True))
    assert [each.opinion for each in text.aspects] == ["great", "warm"]
    assert "warm tone" in text.explanation
    assert "great switch" not in text.explanation


def test_review_that_speaks_of_nothing_known_gives_no_reason(annotator):
    assert _pair(annotator, "Bought on Monday.") == PairText("", ())
    assert _item(annotator, "Bought on Monday.").profile == ""


def test_review_in_another_language_is_not_read_and_counted(annotator):
    german = "Der tone von diesem Pedal ist sehr gut und ich habe lange danach gesucht."
    written = annotator.write([pair_row(german)])
    assert written.results == [PairText("", ())]
    assert written.costs == {OTHER_LANGUAGE: 1}


@pytest.mark.parametrize("title", ["these strings", "Alesis Headphones", "this bass"])
def test_explanation_is_grammatical_whatever_the_number_of_the_title(title):
    texts = {explanation(f"u{number}", "i", title, ["warm tone"]) for number in range(60)}
    assert len(texts) == 7
    for text in texts:
        assert title in text or title[0].upper() + title[1:] in text
        assert text[0].isupper()
        assert text.endswith(".")
        assert {"its", "their", "it", "they"}.isdisjoint(text.lower().split())


def test_explanation_of_an_item_without_a_title_does_not_show_its_id():
    texts = {explanation(f"u{number}", "B00X", "", ["tone"]) for number in range(60)}
    assert all("this item" in text.lower() and "B00X" not in text for text in texts)


def test_item_profile_of_long_details_without_blanks_has_their_beginning():
    details = "\u97f3\u8d28\u5f88\u597d\u3002" * 100
    assert item_profile("i", details, [], []) == f"{details[:300]} \u2026"
    assert item_profile("i", "ab " * 200, [], []) == f"{('ab ' * 100).strip()} \u2026"
