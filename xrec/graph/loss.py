"""LightGCN's ranking losses (pairwise and softmax), and the negatives they need."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from xrec.graph.sampling import MicroBatch, NegativeSampler


def bpr_loss(pos_scores: Tensor, neg_scores: Tensor) -> Tensor:
    """Return mean_b -ln sigmoid(s(u, i) - s(u, j)) (arXiv 1205.2618, section 4.1).

    i is a positive item of the user u, j a negative one.
    Shapes: pos_scores (B,), neg_scores (B,) -> () float32.
    """
    return F.softplus(neg_scores - pos_scores).mean()


def sampled_softmax_loss(
    users: Tensor,
    pos_items: Tensor,
    candidates: Tensor,
    is_own_item: Tensor,
    log_expected_counts: Tensor,
    temperature: float,
) -> Tensor:
    """Return mean_b -s(u,i)/t + ln(exp(s(u,i)/t) + sum_c exp(s(u,c)/t - ln q_c)).

    s(u, c) = <u, c>, and t is the temperature. This is the softmax over all items, with its sum
    estimated from the candidates c. A candidate has the weight 1/q_c, where q_c is its expected
    count among the candidates (`expected_counts`). A row's own positive item is excluded from its
    candidates. Rows are independent, so the loss of a batch is the mean of its parts' losses
    weighted by size.

    Sources: Bengio & Senecal 2008 (sampled softmax); Yi et al., RecSys 2019 (the correction for
    in-batch candidates, which favor popular items); Wu et al., arXiv 2201.02327 (the loss for
    recommendation).

    Shapes: users (B, D), pos_items (B, D), candidates (C, D), is_own_item (B, C) bool,
    log_expected_counts (C,) -> () float32.
    """
    loss: Tensor = _SampledSoftmax.apply(
        users / temperature, pos_items, candidates, is_own_item, log_expected_counts
    )  # type: ignore[no-untyped-call]
    return loss


class _SampledSoftmax(torch.autograd.Function):
    """The loss with its own gradient, because training spends most of its time here.

    It changes one matrix (B, C) in place; autograd makes five passes over such matrices.
    """

    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        pos_items: Tensor,
        candidates: Tensor,
        is_own_item: Tensor,
        log_expected_counts: Tensor,
    ) -> Tensor:
        pos = (users * pos_items).sum(dim=1)
        logits = torch.addmm(-log_expected_counts, users, candidates.T).masked_fill_(
            is_own_item, -torch.inf
        )
        largest = torch.maximum(pos, logits.amax(dim=1))
        weights, own_weight = logits.sub_(largest.unsqueeze(1)).exp_(), (pos - largest).exp()
        total = weights.sum(dim=1) + own_weight
        ctx.save_for_backward(users, pos_items, candidates, weights, 1 / total, own_weight)
        return (total.log() + largest - pos).mean()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """d/ds(u,c) is the probability of c; d/ds(u,i) is the probability of i, minus 1."""
        users, pos_items, candidates, weights, inverse_total, own_weight = ctx.saved_tensors
        row = grad_outputs[0] / len(users)
        of_candidate = (row * inverse_total).unsqueeze(1)
        of_pos = (row * (own_weight * inverse_total - 1)).unsqueeze(1)
        for_users = of_candidate * (weights @ candidates) + of_pos * pos_items
        return for_users, of_pos * users, weights.T @ (of_candidate * users), None, None


def expected_counts(
    popularity: Tensor, num_in_batch: int, num_uniform: int, num_items: int
) -> Tensor:
    """Return q_c = B p_c + M / I, (C,) float32, the expected count of each item as a candidate.

    B is `num_in_batch`, the positive items of a batch; M is `num_uniform`, the uniform draws from
    I = `num_items` items; p_c is `popularity` (C,), an item's share of all interactions. This is
    the mixed sampling of Yang et al. (WWW 2020 companion).
    """
    return num_in_batch * popularity + num_uniform / num_items


class Objective(Protocol):
    """A loss and its negatives."""

    def negatives(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """Draw negative items (M,) int64 for a micro-batch with `users` (B,) int64."""

    def loss(self, users: Tensor, items: Tensor, batch: MicroBatch, part: slice) -> Tensor:
        """Return the mean loss, (), of the rows `part` of a micro-batch of B interactions.

        users (P, D) are the vectors of these rows' users; items (B + M, D) are those of all
        positive items, then of all negatives.
        """

    def regularized_items(self, batch: MicroBatch) -> Tensor:
        """Return the items (K,) int64 whose layer-0 embeddings are regularized, with repeats."""

    def vectors(self, encoded: Tensor) -> Tensor:
        """Return rows (n, D) whose dot products rank, given rows of the encoder's vectors."""


@dataclass(frozen=True)
class BPR:
    """Bayesian personalized ranking: each interaction has its own negative item."""

    sampler: NegativeSampler

    def negatives(self, users: Tensor, generator: torch.Generator) -> Tensor:
        return self.sampler.sample(users, generator)

    def loss(self, users: Tensor, items: Tensor, batch: MicroBatch, part: slice) -> Tensor:
        pos, neg = items.split(len(batch))
        return bpr_loss((users * pos[part]).sum(dim=1), (users * neg[part]).sum(dim=1))

    def regularized_items(self, batch: MicroBatch) -> Tensor:
        return torch.cat([batch.pos_items, batch.negatives])

    def vectors(self, encoded: Tensor) -> Tensor:
        return encoded


class SampledSoftmax:
    """Sampled softmax over cosines.

    The interactions of a micro-batch share `num_negatives` uniformly drawn items, and each other's
    positive items, as negatives.
    """

    def __init__(
        self, edges: Tensor, num_items: int, *, temperature: float, num_negatives: int
    ) -> None:
        """Count the popularity of items in the training interactions `edges` (2, E) int64."""
        self._popularity = torch.bincount(edges[1], minlength=num_items).float() / edges.shape[1]
        self._num_items = num_items
        self._temperature = temperature
        self._num_negatives = num_negatives

    def negatives(self, users: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randint(self._num_items, (self._num_negatives,), generator=generator)

    def loss(self, users: Tensor, items: Tensor, batch: MicroBatch, part: slice) -> Tensor:
        users, items = F.normalize(users, dim=1), F.normalize(items, dim=1)
        candidates = torch.cat([batch.pos_items, batch.negatives])
        counts = expected_counts(
            self._popularity[candidates], len(batch), self._num_negatives, self._num_items
        )
        candidates = candidates.to(users.device)  # before they are compared pairwise
        is_own = candidates[: len(batch)][part].unsqueeze(1) == candidates
        return sampled_softmax_loss(
            users,
            items[: len(batch)][part],
            items,
            is_own,
            counts.log().to(users.device),
            self._temperature,
        )

    def regularized_items(self, batch: MicroBatch) -> Tensor:
        return batch.pos_items

    def vectors(self, encoded: Tensor) -> Tensor:
        return F.normalize(encoded, dim=1)
