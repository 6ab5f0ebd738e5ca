"""The vocabulary of aspects: what annotators call by many names becomes one aspect each.

Names are compared in lower case and, in English, in the singular. Synonyms of the config come
next, and then, with an encoder, a name becomes the most frequent one that is close enough.
"""

import functools
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import regex

from xrec.config.annotate import VocabularyConfig
from xrec.data.english import singular
from xrec.data.language import language_code

_MOST_COMPARED = 20_000
_LEAST_SIMILARITY = 0.85
_BATCH = 256


class Vocabulary:
    """Finds the aspect that a name means.

    merged: aspects that are another one by their vectors (`merged_aspects`).
    is_english: whether the names are English, which has its own normal form.
    """

    def __init__(
        self,
        synonyms: Mapping[str, str],
        merged: Mapping[str, str],
        *,
        is_english: bool,
        drop: Sequence[str] = (),
    ):
        self._normalized = functools.partial(normalized, is_english=is_english)
        self._synonyms = {
            self._normalized(name): self._normalized(other) for name, other in synonyms.items()
        }
        self._dropped = set(map(self._normalized, drop))
        self._merged = merged

    def canonical(self, name: str) -> str | None:
        """The aspect; None if it is dropped, or has no letters."""
        normal = self._normalized(name)
        aspect = self._synonyms.get(normal, normal)
        return self._merged.get(aspect, aspect) if aspect and aspect not in self._dropped else None


def merged_aspects(
    counts: Mapping[str, int], config: VocabularyConfig, *, is_english: bool
) -> dict[str, str]:
    """The aspects that are another one by their vectors, of which `config` has the encoder.

    counts: names, with the number of training reviews that have them, which decides what is merged
        into what.
    """
    assert config.encoder is not None
    synonyms = Vocabulary(config.synonyms, {}, is_english=is_english, drop=config.drop)
    totals: dict[str, int] = {}
    for name, count in counts.items():
        if (aspect := synonyms.canonical(name)) is not None:
            totals[aspect] = totals.get(aspect, 0) + count
    heads = sorted(totals, key=lambda aspect: (-totals[aspect], aspect))
    return _merged(heads, config.encoder) if heads else {}


def _merged(heads: Sequence[str], encoder: str) -> dict[str, str]:
    """For each aspect that is merged, the more frequent one that it becomes.

    The cosine of their sentence vectors must be at least 0.85. Only the 20,000 most frequent
    aspects are compared.
    """
    heads = heads[:_MOST_COMPARED]
    vectors = _vectors(heads, encoder)
    roots: list[int] = []
    merged: dict[str, str] = {}
    for number, aspect in enumerate(heads):
        if roots:
            similarities = vectors[roots] @ vectors[number]
            best = int(np.argmax(similarities))
            if similarities[best] >= _LEAST_SIMILARITY:
                merged[aspect] = heads[roots[best]]
                continue
        roots.append(number)
    return merged


def _vectors(texts: Sequence[str], encoder: str) -> npt.NDArray[np.float32]:
    """The sentence vectors of N texts, (N, H), of unit length."""
    from xrec.evaluate.encoder import load_encoder  # it imports torch

    loaded: Any = load_encoder(encoder)
    parts = [
        loaded.encode(list(texts[start : start + _BATCH])).sentence_vectors.numpy()
        for start in range(0, len(texts), _BATCH)
    ]
    vectors: npt.NDArray[np.float32] = np.concatenate(parts)
    return vectors


# Letters keep their marks (Hindi, Thai, Arabic) and joiners (Persian); marks of anything else go.
_MARKS = regex.compile(
    r"(?<![\p{L}\p{N}\p{M}\u200c\u200d])[\p{M}\u200c\u200d]+"
    r"|[^\p{L}\p{N}\p{M}\u200c\u200d\s'&/+-]"
)
_BLANKS = regex.compile(r"\s+")
_ARTICLES = ("the ", "a ", "an ", "its ", "their ", "his ", "her ", "my ", "this ", "very ")


@lru_cache(2**16)
def normalized(aspect: str, *, is_english: bool = True) -> str:
    """An aspect composed (NFC), in lower case and without marks; "" if it has no letters.

    is_english: whether articles go too, and the last word becomes the singular. Their rules would
    destroy words of other languages: the "s" of "Glas" is none of a plural.
    """
    composed = unicodedata.normalize("NFC", aspect).lower()
    words: str = _BLANKS.sub(" ", _MARKS.sub(" ", composed)).strip(" '-&/+")
    if not is_english:
        return words
    while words.startswith(_ARTICLES):
        words = words.partition(" ")[2]
    before, blank, last = words.rpartition(" ")
    return f"{before}{blank}{singular(last)}"


def names_are_english(settings: Mapping[str, Any]) -> bool:
    """Whether an annotator with these settings names aspects in English.

    settings: of its spec, as they stand in the manifest. The one without a language knows English
    only.
    """
    return language_code(settings.get("language", "English")) == "en"
