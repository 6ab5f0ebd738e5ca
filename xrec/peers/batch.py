"""Explained pairs as examples of tokens, and examples as batches of tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from xrec.peers.models.peer import Pairs, PeerBatch


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
