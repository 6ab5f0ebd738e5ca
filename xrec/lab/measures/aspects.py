"""What texts name, against what they should; in the generated sample, the right aspect."""

from collections.abc import Collection, Hashable, Mapping, Sequence

import numpy as np

from xrec.checks import AspectNames
from xrec.data.dataset import Dataset
from xrec.evaluate.text_metrics import aspect_pattern, names_only
from xrec.lab.measures.measure import Floats, MetricInfo, ScoredTexts

K = 10


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
