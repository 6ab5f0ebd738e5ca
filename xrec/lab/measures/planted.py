"""Whether a text names the right aspect, where the right one is known: in the generated sample."""

from collections.abc import Mapping

import numpy as np

from xrec.data.dataset import Dataset
from xrec.evaluate.text_metrics import aspect_pattern, names_only
from xrec.lab.measures.contestant_texts import ContestantTexts
from xrec.lab.measures.measure import Floats, MetricInfo


class RightAspect:
    """The share of texts that name the aspect which the user likes most of the item's, alone."""

    infos = (
        MetricInfo(
            "aspect_accuracy",
            "Right aspect",
            "higher",
            "Share of texts that name the planted aspect which the user likes most of the item's, "
            "and no other.",
        ),
    )

    def __init__(self, dataset: Dataset) -> None:
        assert dataset.planted is not None, "a dataset without planted aspects has no right ones"
        self._pattern = aspect_pattern(dataset.planted["aspect"].unique().to_pylist())

    def of_pairs(self, texts: ContestantTexts) -> Mapping[str, Floats]:
        """NaN for a pair without a planted aspect."""
        right = [pair.aspect or "" for pair in texts.pairs]
        named = names_only(texts.texts, right, self._pattern).astype(np.float64)
        return {"aspect_accuracy": np.where([bool(aspect) for aspect in right], named, np.nan)}
