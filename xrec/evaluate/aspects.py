"""Which planted aspects a text names: on the sample, whether the user's vector reaches the text.

A text is right if, of all known aspects, it names exactly one, and that is the one which the user
likes most among the item's. A text that names several, be the right one first among them, is wrong:
listing all would always be right.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


def aspect_pattern(aspects: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds the phrases in any case and spacing, as whole words.

    If one phrase holds another, the longer one is found. Raises ValueError if there is no phrase.
    """
    phrases = sorted(
        {_canonical(aspect) for aspect in aspects}, key=lambda phrase: (-len(phrase), phrase)
    )
    if not phrases or not all(phrases):
        raise ValueError(f"expected one or more phrases, none of them empty, saw {phrases}")
    alternatives = "|".join(r"\s+".join(map(re.escape, phrase.split(" "))) for phrase in phrases)
    return re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)", re.IGNORECASE)


def named_aspects(text: str, pattern: re.Pattern[str]) -> set[str]:
    """The distinct aspects that `text` names, in canonical form (lower case, single spaces)."""
    return {_canonical(match) for match in pattern.findall(text)}


def names_only(
    texts: Sequence[str], right: Sequence[str], pattern: re.Pattern[str]
) -> NDArray[np.bool_]:
    """(N,) True where the text names the right aspect and no other."""
    return np.array(
        [
            named_aspects(text, pattern) == {_canonical(aspect)}
            for text, aspect in zip(texts, right, strict=True)
        ],
        dtype=np.bool_,
    )


def names_none_beside(
    texts: Sequence[str], aspects: Sequence[Sequence[str]], pattern: re.Pattern[str]
) -> NDArray[np.bool_]:
    """(N,) True if the text names no aspect beside those of its item, or none at all."""
    return np.array(
        [
            named_aspects(text, pattern) <= {_canonical(aspect) for aspect in of_item}
            for text, of_item in zip(texts, aspects, strict=True)
        ],
        dtype=np.bool_,
    )


def chance_level(aspects: Sequence[Sequence[str]]) -> float:
    """The accuracy of naming one of the item's aspects at random: the mean of 1 / their number."""
    if not aspects or not all(aspects):
        raise ValueError("expected one or more pairs, each with one aspect or more")
    return float(np.mean([1 / len(set(of_item)) for of_item in aspects]))


def _canonical(phrase: str) -> str:
    return " ".join(phrase.lower().split())
