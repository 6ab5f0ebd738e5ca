"""The pairs with a reference, what contestants wrote for them, and what is measured of a text.

A contestant's texts are a backfill's explanations, or a file of JSON lines such as
/data/yelp/peer_texts.jsonl#xrec, where the word after # is the column of the texts.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import Values
from xrec.backfill import read
from xrec.checks import AspectNames
from xrec.config import Split
from xrec.data import Dataset, HeldOutPair, held_out_pairs
from xrec.errors import DataError
from xrec.lab.measures.specificity import SPECIFICITY_METRICS, Specificity, TfIdf
from xrec.lab.measures.statements import against_reference, named_aspects

Indices = NDArray[np.int64]
Texts = tuple[str | None, ...]
"""A text of each pair, (N,); None where there is none."""
MATCHED, NDCG_GAIN = "2 x 2 within the item", "NDCG@10, own minus crossed"
NUM_ASPECTS, PRECISION, RECALL, NDCG = "aspects named", "precision", "recall", "NDCG@10"
_IDS = (("user_id", "item_id"), ("uid", "iid"))


@dataclass(frozen=True, eq=False)
class Pairs:
    """N explained pairs of a dataset, and the titles and profiles of their items, each (N,)."""

    pairs: tuple[HeldOutPair, ...]
    titles: tuple[str, ...]
    profiles: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset, splits: Sequence[Split]) -> "Pairs":
        """Return the explained pairs of the splits; raises DataError for fewer than two."""
        whichever: Any = held_out_pairs  # of training pairs too
        pairs = tuple(pair for split in splits for pair in whichever(dataset, split))
        if len(pairs) < 2:
            raise DataError(
                f"{len(pairs)} explained pairs in {', '.join(splits)}; expected two or more",
                code="too_few_pairs",
                saw=len(pairs),
            )
        items = dataset.items.take([pair.item_index for pair in pairs])
        return cls(pairs, tuple(items["title"].to_pylist()), tuple(items["profile"].to_pylist()))

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def references(self) -> Texts:
        """The reference of each pair."""
        return tuple(pair.reference for pair in self.pairs)

    @property
    def descriptions(self) -> Texts:
        """Title and profile of each pair's item."""
        both = zip(self.titles, self.profiles, strict=True)
        return tuple(f"{title}. {profile}" for title, profile in both)

    @property
    def users(self) -> list[str]:
        """The user of each pair."""
        return [pair.user_id for pair in self.pairs]

    @cached_property
    def couples(self) -> Indices:
        """All two pairs of one item, (C, 2); each is there once."""
        rows: dict[int, list[int]] = {}
        for row, pair in enumerate(self.pairs):
            rows.setdefault(pair.item_index, []).append(row)
        found = [couple for of_item in rows.values() for couple in combinations(of_item, 2)]
        return np.array(found, dtype=np.int64).reshape(-1, 2)

    def items_of(self, couples: Indices) -> list[str]:
        """The item of each couple."""
        return [self.pairs[first].item_id for first, _ in couples]


def read_texts(source: str, pairs: Pairs) -> Texts:
    """The texts of the pairs at `source`, a URI of explanations or FILE.jsonl#COLUMN.

    Raises DataError if none of the pairs has a text there, or a line lacks an id or the column.
    """
    path, _, column = source.partition("#")
    rows = _json_lines(Path(path), column) if path.endswith(".jsonl") else _explanations(source)
    texts = {(user, item): text for user, item, text in rows}
    found = tuple(texts.get((pair.user_id, pair.item_id)) for pair in pairs.pairs)
    if not any(text is not None for text in found):
        raise DataError(
            f"{source}: {len(texts)} texts, of none of the {len(pairs)} explained pairs; give "
            "texts of this dataset and of these splits",
            code="no_text_of_a_pair",
            key=source,
            saw=len(texts),
        )
    return found


def _explanations(uri: str) -> Iterator[tuple[str, str, str]]:
    for row in read(uri).to_table(columns=["user_id", "item_id", "explanation"]).to_pylist():
        yield row["user_id"], row["item_id"], row["explanation"]


def _json_lines(path: Path, column: str) -> Iterator[tuple[str, str, str]]:
    with path.open(encoding="utf-8") as lines:
        for number, row in enumerate(map(json.loads, lines), start=1):
            ids = next((names for names in _IDS if all(name in row for name in names)), None)
            name = column or "text"
            if ids is None or name not in row:
                raise DataError(
                    f"{path}, line {number}: columns {', '.join(row)}; expected user_id and "
                    f"item_id, or uid and iid, and {name} (name another one by FILE.jsonl#COLUMN)",
                    code="missing_column",
                    key="item_id" if ids is None else name,
                    saw=[*row],
                )
            if row[name] is not None:
                yield str(row[ids[0]]), str(row[ids[1]]), row[name]


class Yardstick:
    """Measures texts by the references of `pairs`; aspects only if there is a finder of them."""

    def __init__(self, pairs: Pairs, finder: AspectNames | None):
        self._pairs, self._finder = pairs, finder
        self._specificity = Specificity(pairs.pairs, pairs.titles)
        self._tf_idf = TfIdf([pair.reference for pair in pairs.pairs])
        self._wanted = [named_aspects(pair.reference, finder) for pair in pairs.pairs if finder]

    def of_pairs(self, texts: Texts) -> dict[str, Values]:
        """The figures of each text, (N,), NaN where there is none."""
        found = self._specificity.columns([text or "" for text in texts])
        labels = [metric.label for metric in SPECIFICITY_METRICS]
        is_there = np.array([text is not None for text in texts])
        return {
            **{
                label: np.where(is_there, column, np.nan)
                for label, column in zip(labels, found, strict=True)
            },
            **self._aspects(texts),
        }

    def _aspects(self, texts: Texts) -> dict[str, Values]:
        if self._finder is None:
            return {}
        rows = np.full((len(texts), 4), np.nan)
        for row, text, wanted in zip(rows, texts, self._wanted, strict=True):
            if text is not None:
                named = named_aspects(text, self._finder)
                row[:] = [len(named), *against_reference(named, wanted)]
        return dict(zip((NUM_ASPECTS, PRECISION, RECALL, NDCG), rows.T, strict=True))

    def of_couples(self, texts: Texts) -> dict[str, Values]:
        """The figures of each couple, (C,), NaN where one has no text.

        Own is each text with its own reference, crossed with that of the other user of the item:
        whether the own ones are nearer together, and how much better they name its aspects.
        """
        nearness = self._tf_idf.similarities(
            [text or "" for text in texts], [pair.reference for pair in self._pairs.pairs]
        )
        nearness[[text is None for text in texts]] = np.nan
        found = {MATCHED: matched(nearness, self._pairs.couples)}
        if self._finder is None:
            return found
        named = [None if text is None else named_aspects(text, self._finder) for text in texts]

        def ndcg(row: int, other: int) -> float:
            of_row = named[row]
            return np.nan if of_row is None else against_reference(of_row, self._wanted[other])[2]

        gains = [
            (ndcg(a, a) + ndcg(b, b) - ndcg(a, b) - ndcg(b, a)) / 2 for a, b in self._pairs.couples
        ]
        return {**found, NDCG_GAIN: np.array(gains, dtype=np.float64)}


def matched(similarities: Values, couples: Indices) -> Values:
    """1 for each couple whose texts are matched to the right references, (C,); ties 0.5.

    Right is the match with the larger sum of similarities (N, N), of texts with references.
    """
    first, second = couples.T
    own = similarities[first, first] + similarities[second, second]
    crossed = similarities[first, second] + similarities[second, first]
    right = (own > crossed) + 0.5 * (own == crossed)
    return np.where(np.isnan(own + crossed), np.nan, right)
