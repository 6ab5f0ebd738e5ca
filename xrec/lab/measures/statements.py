"""The aspects that texts name and the statements that they make, against the pair's own review.

A statement praises or criticizes an aspect; a mention without an opinion is not a statement. Two
statements are the same if they have the same aspect and sentiment.

    precision = share of the text's statements that the reference also makes
    recall    = share of the reference's statements that the text also makes
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate import Reader
from xrec.checks import AspectNames
from xrec.checks.tokens import tokens_of
from xrec.data import Dataset, HeldOutPair
from xrec.evaluate.measure import Floats, Measure, Metric

K = 10
SENTIMENTS = ("positive", "negative")


class Statement(NamedTuple):
    """An aspect, and whether it is praised or criticized."""

    aspect: str
    sentiment: str


Counts = defaultdict[int | None, Counter[Statement]]


def named_aspects(text: str, finder: AspectNames) -> list[str]:
    """Return the aspects that the text names, each once, in order."""
    return list(dict.fromkeys(named.name for named in finder.find(text)))


def against_reference(named: Sequence[Hashable], wanted: Collection[Hashable]) -> Floats:
    """Return precision, recall and NDCG@10, (3,), of the aspects or statements `named`, in order.

    All are 0 if nothing is named, and NaN if nothing is wanted.
    """
    if not wanted:
        return np.full(3, np.nan)
    right = np.array([name in wanted for name in named], dtype=np.float64)
    discounts = 1 / np.log2(np.arange(2, K + 2))
    ideal = discounts[: len(wanted)].sum()
    return np.array(
        [
            right.mean() if len(named) else 0,
            right.sum() / len(wanted),
            right[:K] @ discounts[: min(len(named), K)] / ideal,
        ]
    )


def f1_of(precision: float, recall: float) -> float:
    """Return the harmonic mean; 0 if both are 0, NaN if both are NaN."""
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


class Statements:
    """The statements of texts and references, and how many training reviews make each one.

    names: each aspect of the vocabulary as `finder` reports it in texts. of_all: the counts of all
    reviews. of_items, of_users: those of the items and users of `pairs`, by index.
    """

    def __init__(self, dataset: Dataset, pairs: Sequence[HeldOutPair]) -> None:
        assert dataset.aspects is not None, "a dataset without aspects has no statements"
        assert dataset.explanation_aspects is not None
        vocabulary = dataset.aspects["aspect"].to_pylist()
        self.finder, self._reader = AspectNames(vocabulary), Reader()
        self.names = [self.finder.same(aspect) for aspect in vocabulary]
        self.of_all = self._counted(dataset.aspects, "")[None]
        self.of_items = self._counted(dataset.item_aspects, "item_index", pairs)
        self.of_users = self._counted(dataset.user_aspects, "user_index", pairs)
        self._mentions: defaultdict[tuple[int, int], list[Statement]] = defaultdict(list)
        held_out = dataset.explanation_aspects.filter(pc.field("split") != "train")
        for row in held_out.to_pylist():
            made = Statement(self.names[row["aspect_index"]], row["sentiment"])
            mentions = self._mentions[row["user_index"], row["item_index"]]
            mentions += [] if made.aspect in {other.aspect for other in mentions} else [made]

    def of_text(self, text: str) -> list[Statement]:
        """Return the text's statements in order; it praises what it does not criticize."""
        mentions = {mention.names[-1]: mention for mention in self._reader.mentions(text) or ()}
        made = []
        for name in named_aspects(text, self.finder):
            mention = mentions.get(tokens_of(name).keys[-1])
            is_negative = mention is not None and mention.sentiment == "negative"
            made.append(Statement(name, SENTIMENTS[is_negative]))
        return made

    def of_reference(
        self, pair: HeldOutPair, sentiments: Sequence[str] = SENTIMENTS
    ) -> list[Statement]:
        """Return the statements of the pair's own review, in its order."""
        mentions = self._mentions[pair.user_index, pair.item_index]
        return [each for each in mentions if each.sentiment in sentiments]

    def _counted(self, table: pa.Table, index: str, pairs: Sequence[HeldOutPair] = ()) -> Counts:
        """Return how many reviews make each statement, by the column `index`; None is for all."""
        if pairs:
            table = table.filter(pc.field(index).isin([getattr(pair, index) for pair in pairs]))
        found: Counts = defaultdict(Counter)
        for row in table.to_pylist():
            for sentiment in SENTIMENTS:
                if count := row[f"num_{sentiment}"]:
                    made = Statement(self.names[row["aspect_index"]], sentiment)
                    found[row.get(index)][made] += count
        return found


def by_pair(
    pairs: Sequence[HeldOutPair],
    texts: Sequence[str],
    values: Callable[[HeldOutPair, str], Sequence[float]],
) -> list[Floats]:
    """Return the columns (N,) of the values of each pair and its text."""
    rows = [values(pair, text) for pair, text in zip(pairs, texts, strict=True)]
    return list(np.array(rows, dtype=np.float64).T)


ASPECT_METRICS = (
    Metric("aspects_named", "Aspects named, mean", better=""),
    Metric("aspect_precision", "Aspects, precision"),
    Metric("aspect_recall", "Aspects, recall"),
    Metric("aspect_f1", "Aspects, F1"),
    Metric("fmr", "FMR"),
)


def aspects_named(load: Callable[[], Statements], pairs: Sequence[HeldOutPair]) -> Measure:
    """Measure number, precision, recall, F1, and FMR of the aspects that texts name.

    All but the number are NaN if the reference has no aspect. FMR (feature matching ratio, NETE):
    whether the text names the first aspect of its reference. PETER's data have one feature per
    pair, ours several.
    """

    def values(statements: Statements, pair: HeldOutPair, text: str) -> Sequence[float]:
        named = named_aspects(text, statements.finder)
        reference = statements.of_reference(pair, ("positive", "neutral"))
        wanted = [made.aspect for made in reference]
        precision, recall, _ = against_reference(named, wanted)
        fmr = wanted[0] in named if wanted else np.nan
        return len(named), precision, recall, f1_of(precision, recall), fmr

    return _measure(ASPECT_METRICS, load, pairs, values)


STATEMENT_METRICS = tuple(
    Metric(f"statement_{part.lower()}", f"Statements, {part}")
    for part in ("precision", "recall", "F1")
)


def statements_made(load: Callable[[], Statements], pairs: Sequence[HeldOutPair]) -> Measure:
    """Measure precision, recall and F1 of the statements that texts make.

    All are NaN if the reference makes no statement, and 0 if only the reference makes some.
    """

    def values(statements: Statements, pair: HeldOutPair, text: str) -> Sequence[float]:
        wanted = statements.of_reference(pair)
        precision, recall, _ = against_reference(statements.of_text(text), wanted)
        return precision, recall, f1_of(precision, recall)

    return _measure(STATEMENT_METRICS, load, pairs, values)


def _measure(
    metrics: tuple[Metric, ...],
    load: Callable[[], Statements],
    pairs: Sequence[HeldOutPair],
    values: Callable[[Statements, HeldOutPair, str], Sequence[float]],
) -> Measure:
    return Measure(metrics, lambda: lambda texts: by_pair(pairs, texts, partial(values, load())))
