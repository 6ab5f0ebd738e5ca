"""The batches of an epoch and their negative items, the same for any number of workers.

Both are drawn for each epoch, which has `steps_per_epoch` optimizer steps. A step's batch is scored
in micro-batches, each with its own negatives.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xrec.errors import DataError
from xrec.storage import Allocate, delete_mapped, filled_arrays


class NegativeSampler:
    """Draws items uniformly from those a user has not interacted with, without rejection.

    With a user's positives p_0 < p_1 < ..., the r-th other item, counted from 0, is
    r + #{k: p_k - k <= r}. The p_k - k are ascending, so a draw is one binary search.
    """

    def __init__(self, edges: Tensor, num_users: int, num_items: int) -> None:
        """Take the positives `edges` (2, E) int64, sorted and distinct, without copying them.

        Raises DataError if a user has interacted with every item.
        """
        self._items = edges[1]
        self._first = torch.searchsorted(edges[0].contiguous(), torch.arange(num_users + 1))
        self._num_others = num_items - self._first.diff()
        if bool((self._num_others == 0).any()):
            user = int((self._num_others == 0).nonzero()[0])
            raise DataError(
                f"user_index {user} has interacted with all {num_items} items, so it has no "
                "negative item; remove this user",
                code="no_negative_item",
                key="user_index",
                saw=user,
            )

    def sample(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """Return one negative item for each of `users`, (B,) int64 each."""
        draws = (
            torch.rand(len(users), generator=generator, dtype=torch.float64)
            * self._num_others[users]
        ).long()
        first, stop = self._first[users], self._first[users + 1]
        low, high = torch.zeros_like(users), stop - first
        for _ in range(int(high.max()).bit_length()):
            middle = (low + high) // 2
            gaps = self._items[torch.minimum(first + middle, stop - 1)] - middle
            is_after = (low < high) & (gaps <= draws)
            low, high = low.where(~is_after, middle + 1), high.where(is_after, middle)
        negatives: Tensor = draws + low
        return negatives


DrawNegatives = Callable[[Tensor, torch.Generator], Tensor]
"""Draws the negative items (M,) int64 of a micro-batch from its users (B,) int64."""


@dataclass(frozen=True)
class MicroBatch:
    """Interactions scored together: users (B,), pos_items (B,), negatives (M,), int64."""

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
        """Return the number of interactions."""
        return sum(map(len, self.micro_batches))

    def part(self, rank: int, world_size: int) -> Iterator[tuple[MicroBatch, slice]]:
        """Yield the micro-batches with rows that worker `rank` scores, and which rows these are.

        A worker scores consecutive interactions of the batch; numbers differ by at most one.
        """
        first, stop = (len(self) * each // world_size for each in (rank, rank + 1))
        for micro_batch in self.micro_batches:
            rows = slice(max(first, 0), min(stop, len(micro_batch)))
            if rows.start < rows.stop:
                yield micro_batch, rows
            first, stop = first - len(micro_batch), stop - len(micro_batch)


def epoch_batches(
    edges: Tensor,
    draw_negatives: DrawNegatives,
    *,
    steps_per_epoch: int,
    micro_batch_size: int,
    seed: int,
    epoch: int,
    name: str | None = None,
) -> Iterator[Batch]:
    """Yield all E interactions of `edges` (2, E) int64 in the epoch's order, as batches.

    There are `steps_per_epoch` batches, but at most E; their sizes differ by at most one. They
    depend only on the arguments, so every worker gets the same batches and scores its own part
    of each. With `name`, of the edges, the order is in a temporary file of this node.
    """
    path = name and f"{name}-{seed}-{epoch}.order"

    def fill(allocate: Allocate) -> None:
        order = torch.from_numpy(allocate("order", edges.shape[1:], np.int64))
        torch.randperm(len(order), generator=_generator(seed, epoch), out=order)

    order = torch.from_numpy(filled_arrays(path, fill)["order"])
    for step, chosen in enumerate(order.tensor_split(min(steps_per_epoch, len(order)))):
        columns = edges[:, chosen].split(micro_batch_size, dim=1)
        yield Batch(
            tuple(
                _micro_batch(column, draw_negatives, _generator(seed, epoch, step, number))
                for number, column in enumerate(columns)
            )
        )
    if path:  # every worker has opened it, because steps are collective
        delete_mapped(path)


def _micro_batch(
    edges: Tensor, draw_negatives: DrawNegatives, generator: torch.Generator
) -> MicroBatch:
    users, pos_items = edges
    return MicroBatch(users, pos_items, draw_negatives(users, generator))


def _generator(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
