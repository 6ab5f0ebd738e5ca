"""What baselines are trained on: explained pairs as examples.

Only training explanations, those that were drawn, give the vocabulary and the longest text.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from xrec.data.dataset import Dataset
from xrec.data.splits import drawn_explanations
from xrec.errors import DataError
from xrec.lab.baselines.aspects import ChosenAspects, aspect_ids, read_aspects
from xrec.lab.baselines.baseline import Baseline
from xrec.lab.baselines.batch import TextExample, collate, example
from xrec.lab.baselines.language_model import LanguageModelTokens, language_model_folder
from xrec.lab.baselines.models.model import Batch, Ratings
from xrec.lab.baselines.prompts import collate_prompts, prompt_examples
from xrec.lab.baselines.words import Words

MAX_VOCABULARY = 20_000
"""How many words a model knows, the most frequent ones; others are read as unknown."""
_MOST_RATINGS = 1_000
_SHARE_THAT_FITS = 0.99


class Codec(Protocol):
    """The tokens of a baseline's texts."""

    def __len__(self) -> int: ...

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Any of these ends a text; the first one stands at the end of training texts."""
        ...

    @property
    def never_written(self) -> tuple[int, ...]:
        """Tokens that no text has."""
        ...

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without an end."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of tokens that were written."""
        ...


@dataclass(frozen=True)
class BaselineData:
    """All that the training reads; `collate` makes a batch of some of the examples.

    codec: None of lora, whose prompts and texts are those of ours. `max_words` is the longest text,
    in tokens without the end. `ratings` is the scale of the training pairs' ratings, None if there
    are none.
    """

    train: Sequence[Any]
    validation: Sequence[Any]
    num_users: int
    num_items: int
    codec: Codec | None
    max_words: int
    ratings: Ratings | None = None
    collate: Callable[[Sequence[Any]], Batch] = collate

    @property
    def num_tokens(self) -> int:
        """How many tokens the model knows; 0 of lora."""
        return 0 if self.codec is None else len(self.codec)


def build_data(baseline: Baseline, dataset: Dataset) -> BaselineData:
    """The examples of the drawn pairs; raises DataError without training or validation pairs."""
    train = drawn_explanations(dataset, dataset.explained_pairs("train"), baseline.max_pairs)
    validation = drawn_explanations(
        dataset, dataset.explained_pairs("validation"), baseline.recipe.max_validation_pairs
    )
    _check_some(train, validation)
    sizes = (dataset.num_users, dataset.num_items)
    if baseline.kind == "lora":
        learned, held_out = prompt_examples(baseline, dataset, train, validation)
        return BaselineData(learned, held_out, *sizes, None, 0, collate=collate_prompts)
    aspects = read_aspects(baseline, dataset)
    of_train, of_validation = (_names(aspects, each) for each in (train, validation))
    words = Words.of(
        train["explanation"].to_pylist(),
        MAX_VOCABULARY,
        [name for of_pair in of_train or () for name in of_pair],
    )
    codec: Codec = (
        LanguageModelTokens(language_model_folder(baseline)) if baseline.kind == "pepler" else words
    )
    encoded = [codec.encode(text) for text in train["explanation"].to_pylist()]
    max_words = length_that_fits([len(ids) for ids in encoded])
    rated = _ratings(dataset)

    def examples(table: pa.Table, named: list[tuple[str, ...]] | None) -> list[TextExample]:
        ids = None if named is None else [aspect_ids(words, each) for each in named]
        return _examples(table, ids, codec, max_words, rated)

    made = examples(train, of_train)
    scale = rating_scale([each.rating for each in made])
    return BaselineData(made, examples(validation, of_validation), *sizes, codec, max_words, scale)


def _ratings(dataset: Dataset) -> dict[tuple[int, int], float]:
    """The ratings of training pairs, by their indices."""
    if dataset.ratings is None:
        return {}
    users, items, ratings = (column.to_pylist() for column in dataset.ratings.columns)
    return dict(zip(zip(users, items, strict=True), ratings, strict=True))


def rating_scale(ratings: Sequence[float]) -> Ratings | None:
    """Whole numbers around all ratings that are known (not NaN); None if none is.

    Raises DataError for a scale of so many numbers that no model should tell them apart.
    """
    known = [rating for rating in ratings if not math.isnan(rating)]
    if not known:
        return None
    scale = Ratings(math.floor(min(known)), math.ceil(max(known)))
    if scale.count > _MOST_RATINGS:
        raise DataError(
            f"ratings of {min(known):g} to {max(known):g} are {scale.count:,} whole numbers; "
            f"expected a scale of at most {_MOST_RATINGS:,}: mend the ratings that are off it"
        )
    return scale


def _check_some(train: pa.Table, validation: pa.Table) -> None:
    if not train.num_rows or not validation.num_rows:
        raise DataError(
            f"{train.num_rows} training and {validation.num_rows} validation pairs with an "
            "explanation; a baseline needs one of each at least: prepare a dataset that has "
            "explanations, with a share for validation (splits.validation)"
        )


def length_that_fits(lengths: Sequence[int]) -> int:
    """The least length that 99 % of the texts do not exceed, 1 at least."""
    return max(1, int(np.quantile(lengths, _SHARE_THAT_FITS, method="inverted_cdf")))


def _names(aspects: ChosenAspects | None, explanations: pa.Table) -> list[tuple[str, ...]] | None:
    if aspects is None:
        return None
    return aspects.of(*(explanations[name].to_pylist() for name in ("user_index", "item_index")))


def _examples(
    explanations: pa.Table,
    aspects: Sequence[tuple[int, ...]] | None,
    codec: Codec,
    max_words: int,
    rated: Mapping[tuple[int, int], float],
) -> list[TextExample]:
    rows = explanations.select(["user_index", "item_index", "explanation"]).to_pylist()
    return [
        example(
            (row["user_index"], row["item_index"]),
            codec.encode(row["explanation"]),
            max_words,
            codec.end_ids[0],
            aspect_ids=() if aspects is None else aspects[place],
            rating=rated.get((row["user_index"], row["item_index"]), math.nan),
        )
        for place, row in enumerate(rows)
    ]
