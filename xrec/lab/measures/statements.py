"""The aspects that texts name and the statements that they make, against the pair's own review.

A statement praises an aspect or blames it; what names an aspect without an opinion states nothing.

    precision = share of the text's statements that the reference makes too
    recall    = share of the reference's statements that the text makes too

Two statements are the same if they are of the same aspect and sentiment.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate import Reader
from xrec.checks import AspectNames
from xrec.checks.tokens import tokens_of
from xrec.data import Dataset, HeldOutPair
from xrec.evaluate.text_metrics import names_only
from xrec.lab.measures.measure import Floats, MetricInfo, ScoredTexts, by_pair

K = 10
SENTIMENTS = ("positive", "negative")


class Statement(NamedTuple):
    """An aspect, and whether it is praised or blamed."""

    aspect: str
    sentiment: str


Counts = defaultdict[int | None, Counter[Statement]]


def named_aspects(text: str, finder: AspectNames) -> list[str]:
    """The aspects that the text names, each once, in order."""
    return list(dict.fromkeys(named.name for named in finder.find(text)))


def against_reference(named: Sequence[Hashable], wanted: Collection[Hashable]) -> Floats:
    """Precision, recall and NDCG@10, (3,), of the aspects or statements `named`, in their order.

    All are 0 if nothing is named, and NaN if the reference names nothing that could be found.
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
    """The harmonic mean, 0 if both are 0, NaN if both are."""
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


class Statements:
    """The statements of texts and references, and how many training reviews make each one.

    names: how an aspect of the vocabulary is found in texts, by `finder`. of_all: the counts of all
    reviews. of_items, of_users: those of the reviews of the items and users of `pairs`, by index.
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
            each = Statement(self.names[row["aspect_index"]], row["sentiment"])
            mentions = self._mentions[row["user_index"], row["item_index"]]
            mentions += [] if each.aspect in {other.aspect for other in mentions} else [each]

    def of_text(self, text: str) -> list[Statement]:
        """What the text says of aspects, each once, in order; it praises what it does not blame."""
        said = {each.names[-1]: each for each in self._reader.mentions(text) or ()}
        found = []
        for name in named_aspects(text, self.finder):
            mention = said.get(tokens_of(name).keys[-1])
            is_blamed = mention is not None and mention.sentiment == "negative"
            found.append(Statement(name, SENTIMENTS[is_blamed]))
        return found

    def of_reference(
        self, pair: HeldOutPair, sentiments: Sequence[str] = SENTIMENTS
    ) -> list[Statement]:
        """What the pair's own review says of aspects, in its order."""
        mentions = self._mentions[pair.user_index, pair.item_index]
        return [each for each in mentions if each.sentiment in sentiments]

    def _counted(self, table: pa.Table, index: str, pairs: Sequence[HeldOutPair] = ()) -> Counts:
        """How many reviews make each statement, by the column `index`, or all by None."""
        if pairs:
            table = table.filter(pc.field(index).isin([getattr(pair, index) for pair in pairs]))
        found: Counts = defaultdict(Counter)
        for row in table.to_pylist():
            for sentiment in SENTIMENTS:
                if count := row[f"num_{sentiment}"]:
                    made = Statement(self.names[row["aspect_index"]], sentiment)
                    found[row.get(index)][made] += count
        return found


ASPECT_INFOS = (
    MetricInfo("aspects_named", "Aspects named, mean"),
    MetricInfo("aspect_precision", "Aspects, precision"),
    MetricInfo("aspect_recall", "Aspects, recall"),
    MetricInfo("aspect_f1", "Aspects, F1"),
    MetricInfo("fmr", "FMR"),
)


def aspects_named(statements: Statements, texts: ScoredTexts) -> dict[str, Floats]:
    """Number, precision, recall, F1, and FMR of the aspects that texts name; see PairMeasure.

    All but the number are NaN where the reference has no aspect. FMR (feature matching ratio,
    NETE): whether the text names the first aspect of its reference. PETER's data have one feature a
    pair, ours several.
    """

    def values(pair: HeldOutPair, text: str) -> Sequence[float]:
        named = named_aspects(text, statements.finder)
        reference = statements.of_reference(pair, ("positive", "neutral"))
        wanted = [each.aspect for each in reference]
        precision, recall, _ = against_reference(named, wanted)
        fmr = wanted[0] in named if wanted else np.nan
        return len(named), precision, recall, f1_of(precision, recall), fmr

    return by_pair(texts, ASPECT_INFOS, values)


STATEMENT_INFOS = tuple(
    MetricInfo(f"statement_{part.lower()}", f"Statements, {part}")
    for part in ("precision", "recall", "F1")
)


def statements_made(statements: Statements, texts: ScoredTexts) -> dict[str, Floats]:
    """Precision, recall and F1 of the statements that texts make; see PairMeasure.

    All are NaN where the reference states nothing, and 0 where only the reference does.
    """

    def values(pair: HeldOutPair, text: str) -> Sequence[float]:
        wanted = statements.of_reference(pair)
        precision, recall, _ = against_reference(statements.of_text(text), wanted)
        return precision, recall, f1_of(precision, recall)

    return by_pair(texts, STATEMENT_INFOS, values)


RIGHT_ASPECT_INFO = MetricInfo("aspect_accuracy", "Right aspect")


def right_aspect(pattern: re.Pattern[str], texts: ScoredTexts) -> dict[str, Floats]:
    """Whether each text names the aspect which the user likes most of the item's, alone.

    pattern: of all planted aspects. NaN for a pair without one; see PairMeasure.
    """
    right = [pair.aspect or "" for pair in texts.pairs]
    named = names_only(texts.texts, right, pattern).astype(np.float64)
    return {RIGHT_ASPECT_INFO.name: np.where([bool(aspect) for aspect in right], named, np.nan)}
