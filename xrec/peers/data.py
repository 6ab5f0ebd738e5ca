"""What peers are trained on: explained pairs as examples of tokens.

Only training explanations, those that were drawn, give the vocabulary and the longest text.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch

from xrec.config.peers import PeerConfig
from xrec.data.dataset import Dataset
from xrec.data.drawn import drawn_explanations
from xrec.errors import DataError
from xrec.peers.aspects import AspectNames, Names, aspect_ids, aspect_names
from xrec.peers.models.peer import Pairs, PeerBatch, Ratings
from xrec.peers.words import Words
from xrec.storage import location_of

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
class PeerExample:
    """An explained pair: its indices, and the tokens of its text.

    The end token is the last one, unless the text was cut; `num_words` does not count it. The
    rating is NaN where none is known.
    """

    user_index: int
    item_index: int
    token_ids: tuple[int, ...]
    num_words: int
    aspect_ids: tuple[int, ...] = ()
    rating: float = float("nan")


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
    codec = Words.of(
        train["explanation"].to_pylist(),
        config.max_vocabulary,
        [name for of_pair in of_train for name in of_pair],
    )
    aspects = [
        [aspect_ids(codec, of_pair, config.num_aspect_words) for of_pair in of_split]
        for of_split in (of_train, of_validation)
    ]
    encoded = [codec.encode(text) for text in train["explanation"].to_pylist()]
    max_words = config.max_words or length_that_fits([len(ids) for ids in encoded])
    rated = _ratings(dataset)
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
    """Whole numbers around all ratings that are known; None if none is."""
    known = [rating for rating in ratings if not math.isnan(rating)]
    return Ratings(math.floor(min(known)), math.ceil(max(known))) if known else None


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


def example(
    user_index: int, item_index: int, words: Sequence[int], max_words: int, end_id: int
) -> PeerExample:
    """The example of a text, with its end token, or cut and without one if it is too long."""
    end = (end_id,) if len(words) <= max_words else ()
    kept = tuple(words[:max_words])
    return PeerExample(user_index, item_index, (*kept, *end), len(kept))


def collate(examples: Sequence[PeerExample]) -> PeerBatch:
    """The examples as a batch; B is at least 1. Texts are padded with zeros."""
    lengths = torch.tensor([len(each.token_ids) for each in examples])
    return PeerBatch(
        collate_pairs(
            [each.user_index for each in examples],
            [each.item_index for each in examples],
            [each.aspect_ids for each in examples],
        ),
        _padded([each.token_ids for each in examples]),
        lengths,
        torch.tensor([each.num_words for each in examples]),
        torch.tensor([each.rating for each in examples], dtype=torch.float32),
    )


def collate_pairs(
    users: Sequence[int], items: Sequence[int], aspects: Sequence[Sequence[int]]
) -> Pairs:
    """Pairs without texts; the aspects of all have one length."""
    return Pairs(
        torch.tensor(users, dtype=torch.int64),
        torch.tensor(items, dtype=torch.int64),
        _padded(aspects),
    )


def _padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """(B, T) int64, with zeros behind shorter rows."""
    padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return padded
