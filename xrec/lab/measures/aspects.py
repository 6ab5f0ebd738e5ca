"""The aspects that texts name, beside those that the pair's own review speaks of.

The vocabulary is the dataset's; a text names an aspect if `AspectNames` finds it. The reference are
the aspects of the held-out pair's review that it does not speak ill of.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from xrec.checks import AspectNames
from xrec.data.dataset import Dataset
from xrec.evaluate.text_metrics import aspect_pattern, names_only
from xrec.lab.measures.measure import Floats, MetricInfo, ScoredTexts

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
        MetricInfo("aspects_named", "Aspects named, mean"),
        MetricInfo("aspect_precision", "Aspects, precision"),
        MetricInfo("aspect_recall", "Aspects, recall"),
        MetricInfo("aspect_f1", "Aspects, F1"),
        MetricInfo("fmr", "FMR"),
    )

    def __init__(self, dataset: Dataset) -> None:
        if dataset.aspects is None or dataset.explanation_aspects is None:
            raise ValueError("the dataset has no tables of aspects")
        vocabulary = dataset.aspects["aspect"].to_pylist()
        self._finder = AspectNames(vocabulary)
        self._wanted: dict[tuple[int, int], list[str]] = {}
        for row in dataset.explanation_aspects.to_pylist():
            if row["split"] != "train" and row["sentiment"] != "negative":
                name = self._finder.same(vocabulary[row["aspect_index"]])
                wanted = self._wanted.setdefault((row["user_index"], row["item_index"]), [])
                wanted += [] if name in wanted else [name]

    def of_pairs(self, texts: ScoredTexts) -> Mapping[str, Floats]:
        """See PairMeasure; all but the number are NaN where the reference has no aspect."""
        rows = np.full((len(texts), len(self.infos)), np.nan)
        for row, (pair, text) in enumerate(zip(texts.pairs, texts.texts, strict=True)):
            named = named_aspects(text, self._finder)
            wanted = self._wanted.get((pair.user_index, pair.item_index), [])
            rows[row, 0] = len(named)
            if wanted:
                precision, recall, _ = against_reference(named, wanted)
                total = precision + recall
                f1 = 2 * precision * recall / total if total else 0.0
                rows[row, 1:] = precision, recall, f1, wanted[0] in named
        return dict(zip((info.name for info in self.infos), rows.T, strict=True))


class RightAspect:
    """The share of texts that name the aspect which the user likes most of the item's, alone."""

    infos = (MetricInfo("aspect_accuracy", "Right aspect"),)

    def __init__(self, dataset: Dataset) -> None:
        assert dataset.planted is not None, "a dataset without planted aspects has no right ones"
        self._pattern = aspect_pattern(dataset.planted["aspect"].unique().to_pylist())

    def of_pairs(self, texts: ScoredTexts) -> Mapping[str, Floats]:
        """NaN for a pair without a planted aspect."""
        right = [pair.aspect or "" for pair in texts.pairs]
        named = names_only(texts.texts, right, self._pattern).astype(np.float64)
        return {"aspect_accuracy": np.where([bool(aspect) for aspect in right], named, np.nan)}
