"""The batches of an epoch and their negative items.

Both are drawn anew for each epoch, and are the same for any number of workers. An epoch has
`steps_per_epoch` optimizer steps. The batch of a step is scored in micro-batches, each with its own
negatives.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch_geometric.utils.sparse import index2ptr

from xrec.errors import DataError


class NegativeSampler:
    """Draws items uniformly from those that a user has not interacted with, without rejection.

    With a user's positives p_0 < p_1 < ..., the r-th other item, counted from 0, is
    r + #{k: p_k - k <= r}. The p_k - k of all users, shifted by user * num_items, form one sorted
    array, so each draw needs one binary search.
    """

    def __init__(self, edges: Tensor, num_users: int, num_items: int) -> None:
        """Sort `edges` (2, E) int64, the known positives.

        Raises DataError if a user has interacted with every item.
        """
        keys = torch.unique(edges[0] * num_items + edges[1])
        users, items = keys // num_items, keys % num_items
        self._num_items = num_items
        self._first = index2ptr(users, num_users)
        self._num_others = num_items - self._first.diff()
        if bool((self._num_others == 0).any()):
            user = int((self._num_others == 0).nonzero()[0])
            raise DataError(
                f"user_index {user} has interacted with all {num_items} items: "
                "there is no negative item; leave that user out"
            )
        self._gaps = users * num_items + items - (torch.arange(len(keys)) - self._first[users])

    def sample(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """Return one negative item for each of `users`, (B,) int64 each."""
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
"""Draws the negative items (M,) int64 of a micro-batch from its users (B,) int64."""


@dataclass(frozen=True)
class MicroBatch:
    """Interactions that are scored together: users (B,), pos_items (B,), negatives (M,), int64."""

    users: Tensor
    pos_items: Tensor
    negatives: Tensor

    def __len__(self) -> int:
        return len(self.users)


@dataclass(frozen=True)
class Batch:
    """The interactions of one optimizer step."""

    micro_batches: tuple[MicroBatch, ...]

    def __len__(self) -> int:
        """Return the number of its interactions."""
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
    """Yield all E interactions of `edges` (2, E) int64 in the epoch's own order, as batches.

    There are `steps_per_epoch` batches, or E if that is fewer; their sizes differ by at most one.
    They depend on the arguments only, so every worker gets the same batches and takes its own rows
    of each micro-batch.
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
