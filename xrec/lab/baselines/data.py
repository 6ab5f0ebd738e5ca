"""What peers are trained on: explained pairs as examples of tokens.

Only training explanations, those that were drawn, give the vocabulary and the longest text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa

from xrec.config.baselines import PeerConfig
from xrec.data.dataset import Dataset
from xrec.data.drawn import drawn_explanations
from xrec.errors import DataError
from xrec.lab.baselines.aspects import AspectNames, Names, aspect_ids, aspect_names
from xrec.lab.baselines.batch import PeerExample, example
from xrec.lab.baselines.language_model import LanguageModelTokens, language_model_folder
from xrec.lab.baselines.models.peer import Ratings
from xrec.lab.baselines.words import Words
from xrec.storage import location_of

_MOST_RATINGS = 1_000
_SHARE_THAT_FITS = 0.99


class Codec(Protocol):
    """The tokens of a peer's texts."""

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
class PeerData:
    """All that the training reads.

    `max_words` is the longest text, in tokens without the end. `ratings` is the scale of the
    training pairs' ratings, None if there are none.
    """

    train: list[PeerExample]
    validation: list[PeerExample]
    codec: Codec
    max_words: int
    num_users: int
    num_items: int
    num_aspect_words: int = 0
    ratings: Ratings | None = None


def build_peer_data(config: PeerConfig, dataset: Dataset) -> PeerData:
    """The examples of the drawn pairs; raises DataError without training or validation pairs."""
    training = config.training
    train = drawn_explanations(dataset, dataset.explained_pairs("train"), training.max_pairs)
    validation = drawn_explanations(
        dataset, dataset.explained_pairs("validation"), training.max_validation_pairs
    )
    _check_some(train, validation)
    names = aspect_names(
        config.kind, dataset, location_of(config, "aspects"), config.peter.num_aspects
    )
    of_train, of_validation = _names(names, train), _names(names, validation)
    words = Words.of(
        train["explanation"].to_pylist(),
        config.max_vocabulary,
        [name for of_pair in of_train for name in of_pair],
    )
    aspects = [
        [aspect_ids(words, of_pair, config.num_aspect_words) for of_pair in of_split]
        for of_split in (of_train, of_validation)
    ]
    codec: Codec = (
        LanguageModelTokens(language_model_folder(config)) if config.kind == "pepler" else words
    )
    encoded = [codec.encode(text) for text in train["explanation"].to_pylist()]
    max_words = config.max_words or length_that_fits([len(ids) for ids in encoded])
    rated = _ratings(dataset)
    if config.kind == "pepler" and config.pepler.recommendation is not None and not rated:
        raise DataError(
            f"pepler.recommendation = {config.pepler.recommendation!r} needs ratings, and the "
            "dataset has none: add a column rating to the explanations, or leave it out"
        )
    examples = _examples(train, aspects[0], codec, max_words, rated)
    return PeerData(
        examples,
        _examples(validation, aspects[1], codec, max_words, rated),
        codec,
        max_words,
        dataset.num_users,
        dataset.num_items,
        config.num_aspect_words,
        _scale([each.rating for each in examples]),
    )


def _ratings(dataset: Dataset) -> dict[tuple[int, int], float]:
    """The ratings of training pairs, by their indices."""
    if dataset.ratings is None:
        return {}
    users, items, ratings = (column.to_pylist() for column in dataset.ratings.columns)
    return dict(zip(zip(users, items, strict=True), ratings, strict=True))


def _scale(ratings: Sequence[float]) -> Ratings | None:
    """Whole numbers around all ratings that are known; None if none is.

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
            "explanation; a peer needs one of each at least: prepare a dataset that has "
            "explanations, with a share for validation (splits.validation)"
        )


def length_that_fits(lengths: Sequence[int]) -> int:
    """The least length that 99 % of the texts do not exceed, 1 at least."""
    return max(1, int(np.quantile(lengths, _SHARE_THAT_FITS, method="inverted_cdf")))


def _names(names: AspectNames, explanations: pa.Table) -> list[Names]:
    pairs = (explanations[name].to_pylist() for name in ("user_index", "item_index"))
    return names.of(*pairs)


def _examples(
    explanations: pa.Table,
    aspects: Sequence[tuple[int, ...]],
    codec: Codec,
    max_words: int,
    rated: Mapping[tuple[int, int], float],
) -> list[PeerExample]:
    rows = explanations.select(["user_index", "item_index", "explanation"]).to_pylist()
    end = codec.end_ids[0]
    return [
        replace(
            example(user, item, codec.encode(row["explanation"]), max_words, end),
            aspect_ids=of_pair,
            rating=rated.get((user, item), math.nan),
        )
        for row, of_pair in zip(rows, aspects, strict=True)
        for user, item in [(row["user_index"], row["item_index"])]
    ]
