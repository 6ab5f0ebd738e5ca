"""What LightGCN is trained with: pairwise and softmax ranking losses, each a mean over its rows, and L2 regularization."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Similarity = Literal["cosine", "dot"]


def bpr_loss(pos_scores: Tensor, neg_scores: Tensor) -> Tensor:
    """mean_b -ln sigmoid(s(u, i) - s(u, j)), i a positive item of u, j a negative one (arXiv 1205.2618, eq. in section 4.1).

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
    """mean_b -s(u,i)/t + ln(exp(s(u,i)/t) + sum_c exp(s(u,c)/t - ln q_c)),  s(u, c) = <u, c>, t the temperature.

    The softmax over all items, its sum estimated from the candidates c: each weighs 1/q_c, q_c how often c is expected
    among them (`expected_counts`). A row's own positive is left out of its candidates. Sampled softmax: Bengio & Senecal
    2008; the correction for in-batch candidates, which come by popularity: Yi et al., RecSys 2019; for recommendation:
    Wu et al. (arXiv 2201.02327). Rows are independent: the mean over a batch is the mean of its parts, weighted by size.

    Shapes: users (B, D), pos_items (B, D), candidates (C, D), is_own_item (B, C) bool, log_expected_counts (C,) -> () float32.
    """
    loss: Tensor = _SampledSoftmax.apply(
        users / temperature, pos_items, candidates, is_own_item, log_expected_counts
    )  # type: ignore[no-untyped-call]
    return loss


class _SampledSoftmax(torch.autograd.Function):
    """Written out, because it is where training spends its time: one matrix (B, C), changed in place, where autograd passes over five."""

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
        """d/ds(u,c) = probability of c; d/ds(u,i) = probability of i, less 1."""
        users, pos_items, candidates, weights, inverse_total, own_weight = ctx.saved_tensors
        row = grad_outputs[0] / len(users)
        of_candidate = (row * inverse_total).unsqueeze(1)
        of_pos = (row * (own_weight * inverse_total - 1)).unsqueeze(1)
        for_users = of_candidate * (weights @ candidates) + of_pos * pos_items
        return for_users, of_pos * users, weights.T @ (of_candidate * users), None, None


def expected_counts(
    popularity: Tensor, num_in_batch: int, num_uniform: int, num_items: int
) -> Tensor:
    """q_c = B p_c + M / I: how often an item is expected among B positives of a batch and M uniform draws from I items.

    The mixed sampling of Yang et al. (WWW 2020 companion). `popularity` (C,): p_c, an item's share of all interactions.
    """
    return num_in_batch * popularity + num_uniform / num_items


def scoring_vectors(vectors: Tensor, similarity: Similarity) -> Tensor:
    """Vectors (N, D) whose dot product is the similarity: of length 1 for cosine, as they are for dot. A zero vector stays zero."""
    return F.normalize(vectors, dim=1) if similarity == "cosine" else vectors


def l2_penalty(embeddings: Tensor, counts: Tensor, batch_size: int) -> Tensor:
    """1/2 mean_b sum_e ||e_b||^2 over the layer-0 embeddings e of a batch's users and items, row by row of the table.

    The regularization of LightGCN's own code (arXiv 2002.02126, eq. 15). `counts` (n,): how often the batch has each row of
    `embeddings` (n, D); `batch_size`: its interactions. -> () float32.
    """
    return 0.5 * (counts * embeddings.square().sum(dim=1)).sum() / batch_size
