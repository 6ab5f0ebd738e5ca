"""What is known of a text, against counts by hand."""

import math

import pytest

from xrec.checks import Checker
from xrec.data.evidence import AspectEvidence
from xrec.generate.candidates import FEATURES, features_of
from xrec.llm.prompt import PairTexts

CHECKER = Checker(["late hours", "tea", "garden"])
TEXTS = PairTexts(
    "Likes quiet walks.",
    "Luna",
    "A cafe with a garden.",
    aspects=(AspectEvidence("late hours", 3, 7, 1, 2), AspectEvidence("tea", 2, 7, 0, 2)),
)


def found(text: str, texts: PairTexts = TEXTS) -> dict[str, float]:
    values = features_of(text, texts, CHECKER, -1.0, -1.5)
    return dict(zip(FEATURES, values, strict=True))


def test_likelihoods_are_that_of_the_user_and_its_lead_over_another() -> None:
    features = found("Tea.")
    assert (features["likelihood"], features["personal_likelihood"]) == (-1.0, 0.5)


@pytest.mark.parametrize(
    ("text", "share", "is_first"),
    [
        ("You will like the tea.", (1 / math.log2(3)) / (1 + 1 / math.log2(3)), 0.0),
        ("You will like the late hours.", 1 / (1 + 1 / math.log2(3)), 1.0),
        ("Late hours, and tea.", 1.0, 1.0),
        ("You will like the garden.", 0.0, 0.0),
    ],
)
def test_aspects_count_by_their_rank(text: str, share: float, is_first: float) -> None:
    features = found(text)
    assert features["aspects_named"] == pytest.approx(share)
    assert features["first_aspect_named"] == is_first


def test_words_are_supported_by_texts_and_aspects() -> None:
    features = found("Quiet garden, late hours, marvellous views")
    assert features["supported_words"] == pytest.approx(4 / 6)
    assert features["log_words"] == pytest.approx(math.log(6))


def test_repeated_words_are_counted_once() -> None:
    assert found("tea, tea, tea and more")["repeated_words"] == pytest.approx(2 / 5)


def test_text_without_a_word_and_pair_without_aspects_have_numbers_too() -> None:
    assert all(map(math.isfinite, found("...").values()))
    assert found("tea", PairTexts("", "", ""))["aspects_named"] == 0
