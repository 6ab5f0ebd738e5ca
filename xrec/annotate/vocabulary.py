"""The vocabulary of aspects: what annotators call by many names becomes one aspect each.

Names are compared in lower case and, in English, in the singular. Synonyms of the config come
next, and then, with an encoder, a name becomes the most frequent one that is close enough.
"""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from xrec.annotate.normalize import normalized
from xrec.bulk import Outcome, RowFormat
from xrec.config.annotate import VocabularyConfig

_MOST_COMPARED = 20_000
_BATCH = 256
_VERSION = 2  # of the normal form; names of another one are not carried


def normal_synonyms(
    synonyms: Mapping[str, str | None], *, is_english: bool
) -> dict[str, str | None]:
    """The synonyms of a config with all names in their normal form."""
    normal = functools.partial(normalized, is_english=is_english)
    return {
        normal(name): None if other is None else normal(other) for name, other in synonyms.items()
    }


def renamed(name: str, synonyms: Mapping[str, str | None], *, is_english: bool) -> str | None:
    """The normal form of a name, or what it is a synonym of; None if it is left out.

    A name without letters is left out. synonyms: see `normal_synonyms`.
    """
    aspect = normalized(name, is_english=is_english)
    return synonyms.get(aspect, aspect) or None


class AspectTask:
    """Finds the aspect of the vocabulary for each of some names (a ChunkTask of xrec.bulk).

    counts: the names with the number of training reviews that have them, which decides what is
        merged into what.
    is_english: whether the names are English, which has its own normal form.
    """

    row_errors: tuple[type[Exception], ...] = ()

    def __init__(
        self,
        counts: Mapping[str, int],
        config: VocabularyConfig,
        format: RowFormat,
        *,
        is_english: bool = True,
    ):
        self._is_english = is_english
        self._synonyms = normal_synonyms(config.synonyms, is_english=is_english)
        self._format = format
        self._merged = {} if config.encoder is None else _merged(self._heads(counts), config)
        synonyms = sorted(map(repr, self._synonyms.items()))
        settings = f"{_VERSION}{is_english}{synonyms}{sorted(self._merged.items())}"
        self._settings = hashlib.blake2b(settings.encode(), digest_size=8).hexdigest()

    def canonical(self, name: str) -> str | None:
        """The aspect of the vocabulary that `name` means; None if it is left out."""
        aspect = self._renamed(name)
        return None if aspect is None else self._merged.get(aspect, aspect)

    def do(self, rows: pa.Table) -> Outcome:
        """The aspects of some names; those that the synonyms leave out are failed rows."""
        found = [(name, self.canonical(name)) for name in rows["aspect"].to_pylist()]
        ok = [
            {"aspect": name, "canonical": aspect, "content_key": self._settings}
            for name, aspect in found
            if aspect
        ]
        left_out = pa.table({"aspect": pa.array([name for name, aspect in found if not aspect])})
        message = "the synonyms leave it out, or it has no letters"
        return Outcome(
            pa.Table.from_pylist(ok, schema=self._format.ok_schema),
            self.fail(left_out.cast(self._format.key_schema), "left_out", message),
        )

    def fail(self, rows: pa.Table, reason: str, message: str) -> pa.Table:
        """The names as failed rows."""
        texts = {"reason": reason, "message": message, "reply": ""}
        repeated = {name: pa.repeat(text, rows.num_rows) for name, text in texts.items()}
        return pa.table({"aspect": rows["aspect"], **repeated})

    def is_still_good(self, earlier: pa.Table) -> pa.Array:
        """Whether names are merged as they were."""
        return pa.array([key == self._settings for key in earlier["content_key"].to_pylist()])

    def _renamed(self, name: str) -> str | None:
        return renamed(name, self._synonyms, is_english=self._is_english)

    def _heads(self, counts: Mapping[str, int]) -> list[str]:
        """The aspects by the number of reviews, the most frequent first."""
        totals: dict[str, int] = {}
        for name, count in counts.items():
            if (aspect := self._renamed(name)) is not None:
                totals[aspect] = totals.get(aspect, 0) + count
        return sorted(totals, key=lambda aspect: (-totals[aspect], aspect))


def _merged(heads: Sequence[str], config: VocabularyConfig) -> dict[str, str]:
    """For each aspect that is merged, the more frequent one that it becomes.

    The cosine of their sentence vectors must be at least `config.min_similarity`. Only the 20,000
    most frequent aspects are compared.
    """
    heads = heads[:_MOST_COMPARED]
    vectors = _vectors(heads, str(config.encoder))
    roots: list[int] = []
    merged: dict[str, str] = {}
    for number, aspect in enumerate(heads):
        if roots:
            similarities = vectors[roots] @ vectors[number]
            best = int(np.argmax(similarities))
            if similarities[best] >= config.min_similarity:
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
