"""The batches of an epoch and their negatives: fresh each epoch, and the same for any number of workers.

An epoch is so many optimizer steps; a step's batch is scored in micro-batches, each with its own negatives.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch_geometric.utils.sparse import index2ptr

from xrec.errors import DataError


class NegativeSampler:
    """Draws items uniformly from those that a user has not interacted with; exact, without trial and error.

    With a user's positives p_0 < p_1 < ..., the r-th other item (from 0) is r + #{k: p_k - k <= r}. All users' p_k - k,
    shifted by user * num_items, are one sorted array, so the count is one binary search a draw.
    """

    def __init__(self, edges: Tensor, num_users: int, num_items: int) -> None:
        """`edges` (2, E) int64: the known positives. Raises DataError if a user has interacted with every item."""
        keys = torch.unique(edges[0] * num_items + edges[1])
        users, items = keys // num_items, keys % num_items
        self._num_items = num_items
        self._first = index2ptr(users, num_users)
        self._num_others = num_items - self._first.diff()
        if bool((self._num_others == 0).any()):
            user = int((self._num_others == 0).nonzero()[0])
            raise DataError(
                f"user_index {user} has interacted with all {num_items} items: there is no negative item; leave that user out"
            )
        self._gaps = users * num_items + items - (torch.arange(len(keys)) - self._first[users])

    def sample(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """One negative item (B,) int64 for each of `users` (B,) int64."""
        draws = (
            torch.rand(len(users), generator=generator, dtype=torch.float64)
            * self._num_others[users]
        ).long()
        before = (
            torch.searchsorted(self._gaps, users * self._num_items + draws, right=True)
            - self._first[users]
        )
        negatives: Tensor = draws + before
        return negatives


DrawNegatives = Callable[[Tensor, torch.Generator], Tensor]
"""Negative items of a micro-batch for its users (B,) int64: (M,) int64."""


@dataclass(frozen=True)
class MicroBatch:
    """Interactions that are scored together: users (B,), pos_items (B,), negatives (M,), int64 each."""

    users: Tensor
    pos_items: Tensor
    negatives: Tensor

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Batch:
    """What one optimizer step sees."""

    micro_batches: tuple[MicroBatch, ...]

    def __len__(self) -> int:
        """Its interactions."""
        return sum(map(len, self.micro_batches))


def epoch_batches(
    edges: Tensor,
    draw_negatives: DrawNegatives,
    *,
    steps_per_epoch: int,
    micro_batch_size: int,
    seed: int,
    epoch: int,
) -> Iterator[Batch]:
    """All E interactions of `edges` (2, E) int64 in the epoch's own order, as batches of equal size (to one interaction).

    Depends on the arguments only: every worker sees the same batches and takes its rows of each micro-batch. There are
    `steps_per_epoch` batches, or E if that is fewer.
    """
    order = torch.randperm(edges.shape[1], generator=_generator(seed, epoch))
    for step, chosen in enumerate(order.tensor_split(min(steps_per_epoch, len(order)))):
        columns = edges[:, chosen].split(micro_batch_size, dim=1)
        yield Batch(
            tuple(
                _micro_batch(column, draw_negatives, _generator(seed, epoch, step, number))
                for number, column in enumerate(columns)
            )
        )


def _micro_batch(
    edges: Tensor, draw_negatives: DrawNegatives, generator: torch.Generator
) -> MicroBatch:
    users, pos_items = edges
    return MicroBatch(users, pos_items, draw_negatives(users, generator))


def _generator(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
