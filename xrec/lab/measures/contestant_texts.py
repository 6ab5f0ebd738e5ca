"""The held-out pairs that are scored, with one contestant's texts.

A pair without a text, because none was written or a rule refused it, counts as an empty text in
every metric. How many have one is the coverage, the first figure of every table.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xrec.data.held_out import HeldOutPair
from xrec.errors import DataError

PairIds = tuple[str, str]
"""user_id and item_id."""
_NUM_NAMED = 3


@dataclass(frozen=True, eq=False)
class ContestantTexts:
    """N held-out pairs and the text of each, "" where there is none."""

    pairs: tuple[HeldOutPair, ...]
    texts: tuple[str, ...]

    @classmethod
    def of(
        cls, pairs: Sequence[HeldOutPair], texts: Mapping[PairIds, str | None]
    ) -> "ContestantTexts":
        """The texts of the pairs; texts of other pairs are passed over.

        Raises DataError if there is no pair to score, or `texts` are of none of the pairs.
        """
        if not pairs:
            raise DataError(
                "no held-out pairs to score: no reference is there; choose another split, or "
                "prepare the dataset with a larger share for it"
            )
        found = [texts.get((pair.user_id, pair.item_id)) for pair in pairs]
        if texts and all(text is None for text in found):
            raise DataError(
                f"{len(texts)} texts, of none of the {len(pairs)} pairs that are scored, such as "
                f"{_named([(pair.user_id, pair.item_id) for pair in pairs])}; give texts of this "
                "dataset and split"
            )
        return cls(tuple(pairs), tuple("" if _is_blank(text) else text or "" for text in found))

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def references(self) -> list[str]:
        """The reference of each pair."""
        return [pair.reference for pair in self.pairs]

    @property
    def users(self) -> list[str]:
        """The user of each pair."""
        return [pair.user_id for pair in self.pairs]

    @cached_property
    def has_text(self) -> NDArray[np.bool_]:
        """(N,) whether there is a text."""
        return np.array([bool(text) for text in self.texts], dtype=np.bool_)

    @property
    def coverage(self) -> float:
        """The share of pairs with a text."""
        return float(self.has_text.mean())

    def of_rows(self, rows: NDArray[np.bool_] | Sequence[int]) -> "ContestantTexts":
        """Some of the pairs: where the mask (N,) is True, or those at these places."""
        chosen = np.arange(len(self))[np.asarray(rows)]
        return ContestantTexts(
            tuple(self.pairs[place] for place in chosen),
            tuple(self.texts[place] for place in chosen),
        )


def check_known(name: str, texts: Collection[PairIds], known: Collection[PairIds]) -> None:
    """Raise DataError if `texts` of the contestant `name` are of pairs that are not `known`.

    known: the explained pairs of the dataset.
    """
    among = set(known)
    unknown = [ids for ids in texts if ids not in among]
    if unknown:
        raise DataError(
            f"contestant {name!r}: {len(unknown)} of {len(texts)} texts are of pairs that have no "
            f"explanation in the dataset, such as {_named(unknown)}; give texts of the dataset's "
            "explained pairs, with its user_id and item_id, and leave the others out"
        )


def _is_blank(text: str | None) -> bool:
    return text is None or not any(map(_shows, text))


def _shows(character: str) -> bool:
    """Whether a reader sees it: no blank, and nothing like a zero-width space."""
    return character.isprintable() and not character.isspace()


def _named(ids: Sequence[PairIds]) -> str:
    return ", ".join(f"({user!r}, {item!r})" for user, item in ids[:_NUM_NAMED])
