"""What is known of a text before it is chosen, as numbers."""

import math
from typing import Final

from xrec.checks import Checker
from xrec.data.sentences import words
from xrec.llm.prompt import PairTexts

FEATURES: Final = (
    "likelihood",
    "personal_likelihood",
    "aspects_named",
    "first_aspect_named",
    "supported_words",
    "log_words",
    "repeated_words",
)
"""The features, in their order.

likelihood: mean log-likelihood of the text's tokens with the user's own vector, nats a token.
personal_likelihood: that less the same with another user's vector.
aspects_named: of the chosen aspects, the share that the text names, each weighted by
    1 / log2(1 + rank). first_aspect_named: 1 if it names the first one, else 0.
supported_words: the share of its longer words that stand in the prompt's texts and aspects.
log_words: natural logarithm of its number of words.
repeated_words: the share of its words that repeat an earlier one.
"""

_LETTERS_OF_A_LONGER_WORD = 4


def features_of(
    text: str, texts: PairTexts, checker: Checker, own: float, other: float
) -> tuple[float, ...]:
    """The features of `text` about the pair `texts`.

    `own` and `other` are its mean log-likelihoods with the user's and with another user's vector.
    """
    evidence = checker.evidence(text, texts)
    found = [word.casefold() for word in words(text)]
    weights = [1 / math.log2(2 + place) for place in range(len(evidence))]
    named = sum(weight for weight, one in zip(weights, evidence, strict=True) if one.is_named)
    return (
        own,
        own - other,
        named / sum(weights) if weights else 0.0,
        float(bool(evidence) and evidence[0].is_named),
        _supported(found, texts),
        math.log(max(len(found), 1)),
        1 - len(set(found)) / len(found) if found else 0.0,
    )


def _supported(found: list[str], texts: PairTexts) -> float:
    said = " ".join(
        [
            texts.user_profile,
            texts.item_title,
            texts.item_profile,
            *(chosen.aspect for chosen in texts.aspects),
        ]
    )
    known = {word.casefold() for word in words(said)}
    longer = {word for word in found if len(word) >= _LETTERS_OF_A_LONGER_WORD}
    return len(longer & known) / len(longer) if longer else 0.0
