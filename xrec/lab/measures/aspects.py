"""The aspects that texts name, beside those that the pair's own review speaks of.

The vocabulary is the dataset's; a text names an aspect if `AspectNames` finds it. The reference are
the aspects of the held-out pair's review that it does not speak ill of.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from xrec.checks import AspectNames
from xrec.data.dataset import Dataset
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measure import Floats, MetricInfo

K = 10


def named_aspects(text: str, finder: AspectNames) -> list[str]:
    """The aspects that the text names, each once, in order."""
    return list(dict.fromkeys(named.name for named in finder.find(text)))


def against_reference(named: Sequence[str], wanted: Sequence[str]) -> Floats:
    """Precision, recall and NDCG@10, (3,), of the aspects `named`, the first one first.

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


class AspectsNamed:
    """Number, precision, recall, F1, and FMR of the aspects that texts name.

    FMR (feature matching ratio, NETE): whether the text names the first aspect of its reference.
    PETER's data have one feature a pair, ours several. Raises ValueError for a dataset without
    tables of aspects.
    """

    infos = (
        MetricInfo(
            "aspects_named", "Aspects named, mean", None, "Of the dataset's vocabulary, each once."
        ),
        MetricInfo(
            "aspect_precision",
            "Aspects, precision",
            "higher",
            "Share of the named aspects that the pair's own review speaks of; 0 if none is named.",
        ),
        MetricInfo(
            "aspect_recall",
            "Aspects, recall",
            "higher",
            "Share of the aspects of the pair's own review that the text names.",
        ),
        MetricInfo(
            "aspect_f1",
            "Aspects, F1",
            "higher",
            "Of the two, pair by pair; then the mean.",
        ),
        MetricInfo(
            "fmr",
            "FMR",
            "higher",
            "Feature matching ratio: share of texts that name the first aspect of their reference.",
        ),
    )

    def __init__(self, dataset: Dataset) -> None:
        if dataset.aspects is None or dataset.explanation_aspects is None:
            raise ValueError("the dataset has no tables of aspects")
        self.vocabulary: list[str] = dataset.aspects["aspect"].to_pylist()
        self._finder = AspectNames(self.vocabulary)
        self._wanted: dict[tuple[int, int], list[str]] = {}
        for row in dataset.explanation_aspects.to_pylist():
            if row["split"] != "train" and row["sentiment"] != "negative":
                name = self._finder.same(self.vocabulary[row["aspect_index"]])
                wanted = self._wanted.setdefault((row["user_index"], row["item_index"]), [])
                wanted += [] if name in wanted else [name]

    def named(self, texts: Sequence[str]) -> list[list[str]]:
        """The aspects that each text names, each once, in order."""
        return [named_aspects(text, self._finder) for text in texts]

    def of_pairs(self, texts: ContestantTexts) -> Mapping[str, Floats]:
        """See PairMeasure; all but the number are NaN where the reference has no aspect."""
        columns = ("aspects_named", "aspect_precision", "aspect_recall", "aspect_f1", "fmr")
        rows = np.full((len(texts), len(columns)), np.nan)
        for row, (pair, named) in enumerate(zip(texts.pairs, self.named(texts.texts), strict=True)):
            wanted = self._wanted.get((pair.user_index, pair.item_index), [])
            rows[row, 0] = len(named)
            if wanted:
                precision, recall, _ = against_reference(named, wanted)
                total = precision + recall
                f1 = 2 * precision * recall / total if total else 0.0
                rows[row, 1:] = precision, recall, f1, wanted[0] in named
        return dict(zip(columns, rows.T, strict=True))
