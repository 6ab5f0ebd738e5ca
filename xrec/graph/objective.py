"""What training minimizes: an object that draws a micro-batch's negatives and computes its loss."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from xrec.graph.loss import (
    Similarity,
    bpr_loss,
    expected_counts,
    sampled_softmax_loss,
    scoring_vectors,
)
from xrec.graph.sampling import MicroBatch, NegativeSampler


class Objective(Protocol):
    """A loss and its negatives."""

    def negatives(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """Draw negative items (M,) int64 for a micro-batch with `users` (B,) int64."""

    def loss(self, users: Tensor, items: Tensor, batch: MicroBatch, part: slice) -> Tensor:
        """Return the mean loss, (), of the rows `part` of a micro-batch of B interactions.

        users (P, D) are the vectors of these rows' users. items (B + M, D) are the vectors of all
        positive items of the micro-batch, then of all its negatives.
        """

    def regularized_items(self, batch: MicroBatch) -> Tensor:
        """Return the items (K,) int64 whose layer-0 embeddings are regularized.

        An item that the micro-batch has several times is returned several times.
        """

    def vectors(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return users (U, D), items (I, D) whose dot product ranks, from the encoder's vectors."""


@dataclass(frozen=True)
class BPR:
    """Bayesian personalized ranking: each interaction has one negative item of its own."""

    sampler: NegativeSampler

    def negatives(self, users: Tensor, generator: torch.Generator) -> Tensor:
        return self.sampler.sample(users, generator)

    def loss(self, users: Tensor, items: Tensor, batch: MicroBatch, part: slice) -> Tensor:
        pos, neg = items.split(len(batch))
        return bpr_loss((users * pos[part]).sum(dim=1), (users * neg[part]).sum(dim=1))

    def regularized_items(self, batch: MicroBatch) -> Tensor:
        return torch.cat([batch.pos_items, batch.negatives])

    def vectors(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        return users, items


class SampledSoftmax:
    """Sampled softmax: all interactions of a micro-batch share `num_negatives` uniform items.

    With `in_batch_negatives` the positive items of the others are negatives too.
    """

    def __init__(
        self,
        edges: Tensor,
        num_items: int,
        *,
        temperature: float,
        similarity: Similarity,
        num_negatives: int,
        in_batch_negatives: bool,
    ) -> None:
        """Count the items' popularity in `edges` (2, E) int64, the training interactions."""
        self._popularity = torch.bincount(edges[1], minlength=num_items).float() / edges.shape[1]
        self._num_items = num_items
        self._temperature = temperature
        self._similarity: Similarity = similarity
        self._num_negatives = num_negatives
        self._in_batch_negatives = in_batch_negatives

    def negatives(self, users: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randint(self._num_items, (self._num_negatives,), generator=generator)

    def loss(self, users: Tensor, items: Tensor, batch: MicroBatch, part: slice) -> Tensor:
        users, items = (
            scoring_vectors(users, self._similarity),
            scoring_vectors(items, self._similarity),
        )
        num_in_batch = len(batch) if self._in_batch_negatives else 0
        first = len(batch) - num_in_batch
        candidates = torch.cat([batch.pos_items, batch.negatives])[first:]
        counts = expected_counts(
            self._popularity[candidates], num_in_batch, self._num_negatives, self._num_items
        )
        is_own = (batch.pos_items[part].unsqueeze(1) == candidates).to(users.device)
        return sampled_softmax_loss(
            users,
            items[: len(batch)][part],
            items[first:],
            is_own,
            counts.log().to(users.device),
            self._temperature,
        )

    def regularized_items(self, batch: MicroBatch) -> Tensor:
        return batch.pos_items

    def vectors(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        return scoring_vectors(users, self._similarity), scoring_vectors(items, self._similarity)
