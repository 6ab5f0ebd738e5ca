"""Explained pairs as examples of tokens, and examples as batches of tensors."""

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from xrec.lab.baselines.models.model import Pairs, TextBatch

ExampleT = TypeVar("ExampleT", bound=Sized)
_RATIO, _FEWEST = 1.3, 8


@dataclass(frozen=True)
class TextExample:
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

    def __len__(self) -> int:
        return len(self.token_ids)


def example(
    pair: tuple[int, int], words: Sequence[int], max_words: int, end_id: int, **more: Any
) -> TextExample:
    """The example of a text, with its end token, or cut and without one if it is too long.

    pair: the indices of user and item. more: further fields of TextExample.
    """
    end = (end_id,) if len(words) <= max_words else ()
    kept = tuple(words[:max_words])
    return TextExample(*pair, (*kept, *end), len(kept), **more)


def collate(examples: Sequence[TextExample]) -> TextBatch:
    """The examples as a batch; B is at least 1. Texts are padded with zeros."""
    lengths = torch.tensor([len(each) for each in examples])
    return TextBatch(
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


def of_similar_length(examples: Sequence[ExampleT], most: int) -> Iterator[list[ExampleT]]:
    """All examples, `most` at a time or fewer, so that little of a batch is padding.

    What has eight rows takes no more that are 1.3 times as long as its shortest one: on a CPU that
    is 1.3 to 1.5 times as fast as what is cut anywhere.
    """
    batch: list[ExampleT] = []
    for each in sorted(examples, key=len):
        is_longer = bool(batch) and len(each) > _RATIO * len(batch[0])
        if len(batch) == most or (is_longer and len(batch) >= _FEWEST):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def _padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """(B, T) int64, with zeros behind shorter rows."""
    padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    for row, ids in zip(padded, rows, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
    return padded
