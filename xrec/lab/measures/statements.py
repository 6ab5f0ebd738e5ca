"""The aspects that texts name and the statements that they make, against the pair's own review.

A statement praises an aspect or blames it; what names an aspect without an opinion states nothing.

    precision = mean over the text's statements m of max_w e(w, m)
    recall    = mean over the reference's statements w of max_m e(m, w)

e(w, m) says how far w entails m: 1 for the same aspect and sentiment, or the probability by a
model, which is StEnt of Kabongo and Guigue (arXiv 2512.24366).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec.annotate.phrases.mentions import Reader
from xrec.checks import AspectNames
from xrec.checks.tokens import tokens_of
from xrec.data.dataset import Dataset, HeldOutPair
from xrec.evaluate.text_metrics import names_only
from xrec.lab.measures.measure import Floats, MetricInfo, ScoredTexts

K = 10
SENTIMENTS = ("positive", "negative")
Key = tuple[str, str]
"""An aspect and its sentiment: what makes two statements the same."""
Counts = defaultdict[int | None, Counter[Key]]


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
    """The harmonic mean, 0 if both are 0."""
    total = precision + recall
    return 2 * precision * recall / total if total else 0.0


class Statement(NamedTuple):
    """An aspect, its sentiment, and the words of the opinion, which may be ""."""

    aspect: str
    sentiment: str
    opinion: str = ""

    @property
    def key(self) -> Key:
        """Aspect and sentiment."""
        return self.aspect, self.sentiment


class Statements:
    """The statements of texts and references, and how many training reviews make each one.

    names: how an aspect of the vocabulary is found in texts, by `finder`. of_all: the counts of all
    reviews. of_items, of_users: those of the reviews of the items and users of `pairs`, by index.
    """

    def __init__(self, dataset: Dataset, pairs: Sequence[HeldOutPair]) -> None:
        assert dataset.aspects is not None, "a dataset without aspects has no statements"
        assert dataset.explanation_aspects is not None
        vocabulary = dataset.aspects["aspect"].to_pylist()
        self.finder, self._reader = AspectNames(vocabulary), Reader({})
        self.names = [self.finder.same(aspect) for aspect in vocabulary]
        self.of_all = self._counted(dataset.aspects, "")[None]
        self.of_items = self._counted(dataset.item_aspects, "item_index", pairs)
        self.of_users = self._counted(dataset.user_aspects, "user_index", pairs)
        self._mentions: defaultdict[tuple[int, int], list[Statement]] = defaultdict(list)
        held_out = dataset.explanation_aspects.filter(pc.field("split") != "train")
        for row in held_out.to_pylist():
            each = Statement(self.names[row["aspect_index"]], row["sentiment"], row["opinion"])
            mentions = self._mentions[row["user_index"], row["item_index"]]
            mentions += [] if each.aspect in {other.aspect for other in mentions} else [each]

    def of_text(self, text: str) -> list[Statement]:
        """What the text says of aspects, each once, in order; it praises what it does not blame."""
        said = {each.names[-1]: each for each in self._reader.mentions(text) or ()}
        found = []
        for name in named_aspects(text, self.finder):
            mention = said.get(tokens_of(name).keys[-1])
            is_blamed = mention is not None and mention.sentiment == "negative"
            opinion = "" if mention is None else mention.opinion
            found.append(Statement(name, SENTIMENTS[is_blamed], opinion))
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
                    found[row.get(index)][self.names[row["aspect_index"]], sentiment] += count
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
    rows = np.full((len(texts), len(ASPECT_INFOS)), np.nan)
    for row, pair, text in zip(rows, texts.pairs, texts.texts, strict=True):
        named = named_aspects(text, statements.finder)
        reference = statements.of_reference(pair, ("positive", "neutral"))
        wanted = [each.aspect for each in reference]
        row[0] = len(named)
        if wanted:
            precision, recall, _ = against_reference(named, wanted)
            row[1:] = precision, recall, f1_of(precision, recall), wanted[0] in named
    return dict(zip((info.name for info in ASPECT_INFOS), rows.T, strict=True))


Entails = Callable[[Sequence[tuple[Statement, Statement]]], Floats]
"""How far the first of each two statements entails the second, (N,), 0 to 1."""


def are_same(couples: Sequence[tuple[Statement, Statement]]) -> Floats:
    """1 for statements of the same aspect and sentiment, else 0, (N,)."""
    return np.array([first.key == second.key for first, second in couples], dtype=np.float64)


def matched_infos(model: str | None = None) -> tuple[MetricInfo, ...]:
    """Those of `StatementsMatched`, by a model or by what is the same."""
    kind = "entailed" if model else "statement"
    by = f" by {model.rsplit('/', 1)[-1]}" if model else ""
    return tuple(
        MetricInfo(f"{kind}_{part.lower()}", f"Statements{by}, {part}")
        for part in ("precision", "recall", "F1")
    )


class StatementsMatched:
    """Precision, recall and F1 of a text's statements, as `entails` matches them."""

    def __init__(
        self, statements: Statements, entails: Entails = are_same, model: str | None = None
    ) -> None:
        self._statements, self._entails, self._infos = statements, entails, matched_infos(model)

    def of_pairs(self, texts: ScoredTexts) -> Mapping[str, Floats]:
        """See PairMeasure; NaN where the reference states nothing, 0 where only the text does."""
        sides = [
            (self._statements.of_text(text), self._statements.of_reference(pair))
            for pair, text in zip(texts.pairs, texts.texts, strict=True)
        ]
        couples = [(made, wanted) for side in sides for made in side[0] for wanted in side[1]]
        backward = self._entails([(wanted, made) for made, wanted in couples])
        ends = np.cumsum([len(made) * len(wanted) for made, wanted in sides])[:-1]
        parts = np.split(np.stack([backward, self._entails(couples)]), ends, axis=1)
        rows = [
            _matched(part.reshape(2, len(made), len(wanted)))
            for part, (made, wanted) in zip(parts, sides, strict=True)
        ]
        return dict(zip((info.name for info in self._infos), np.array(rows).T, strict=True))


def _matched(entailed: Floats) -> tuple[float, float, float]:
    """Precision, recall and F1 of M statements beside W wanted; (2, M, W): e(w, m), e(m, w)."""
    _, num_made, num_wanted = entailed.shape
    if not num_wanted or not num_made:
        return (0.0 if num_wanted else np.nan,) * 3
    precision = float(entailed[0].max(axis=1).mean())
    recall = float(entailed[1].max(axis=0).mean())
    return precision, recall, f1_of(precision, recall)


RIGHT_ASPECT_INFO = MetricInfo("aspect_accuracy", "Right aspect")


def right_aspect(pattern: re.Pattern[str], texts: ScoredTexts) -> dict[str, Floats]:
    """Whether each text names the aspect which the user likes most of the item's, alone.

    pattern: of all planted aspects. NaN for a pair without one; see PairMeasure.
    """
    right = [pair.aspect or "" for pair in texts.pairs]
    named = names_only(texts.texts, right, pattern).astype(np.float64)
    return {RIGHT_ASPECT_INFO.name: np.where([bool(aspect) for aspect in right], named, np.nan)}
