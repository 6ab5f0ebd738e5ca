"""Texts to train a language model on: stated taste and item profile decide the explanation."""

from collections import Counter

from xrec.config.data import SampleSource
from xrec.sample import ASPECTS, generate_language_examples, generate_town

EXAMPLES = generate_language_examples(2000, seed=0)


def _in_order(text: str) -> list[str]:
    """The aspects that stand in the text, in the order of the text."""
    return sorted((aspect for aspect in ASPECTS if aspect in text.lower()), key=text.lower().index)


def test_language_examples_explanation_names_the_first_stated_aspect_of_the_item():
    num_without, named = 0, Counter[str]()
    for example in EXAMPLES:
        stated, offered = _in_order(example.user_profile), _in_order(example.item_profile)
        assert 1 <= len(stated) <= 3
        assert len(offered) == 4
        liked = [aspect for aspect in stated if aspect in offered]
        assert _in_order(example.explanation) == [(liked or offered)[0]]
        num_without += not liked
        named[(liked or offered)[0]] += 1
        assert example.item_title in example.explanation
    assert 0.15 < num_without / len(EXAMPLES) < 0.4
    assert set(named) == set(ASPECTS)
    assert max(named.values()) < 1.5 * min(named.values())


def test_generate_language_examples_use_the_towns_words():
    town = generate_town(SampleSource(kind="sample"))
    known = {word for e in EXAMPLES for text in vars(e).values() for word in text.split()}
    texts = [*town.user_profiles, *town.item_profiles, *town.explanations]
    assert {word for text in texts for word in text.split()} <= known
