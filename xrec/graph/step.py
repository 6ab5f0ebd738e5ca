"""One optimizer step: propagate once, score the batch by micro-batches, propagate back once.

    loss = batch_loss(model(adjacency), partition, batch, objective, first_item=num_users)
    (loss + l2_weight * layer0_penalty(model, batch, objective)).backward()

A worker scores 1/W of the batch. If rows are partitioned, it holds its own and those that its part
of the batch needs. The time of an epoch is steps x propagation + interactions x candidates,
which is linear in the number of edges.
"""

from typing import Any

import torch
from torch import Tensor

from xrec.graph.lightgcn import LightGCN
from xrec.graph.loss import Objective
from xrec.graph.partition import Borrowed, Partition
from xrec.graph.sampling import Batch, MicroBatch


def batch_loss(
    vectors: Tensor,
    partition: Partition,
    batch: Batch,
    objective: Objective,
    *,
    first_item: int,
    share: tuple[int, int] = (0, 1),
) -> Tensor:
    """Return this worker's part of the batch's mean loss, () float32; the parts add up to it.

    vectors (n, D) are this worker's propagated rows; item i is node `first_item` + i. `share` is
    rank and world size, and chooses this worker's interactions (`Batch.part`). Forward also
    computes the gradient, one micro-batch at a time, and is collective if the rows are partitioned;
    backward returns it.
    """
    loss: Tensor = _BatchLoss.apply(vectors, partition, batch, objective, first_item, share)  # type: ignore[no-untyped-call]
    return loss


def layer0_penalty(model: LightGCN, batch: Batch, objective: Objective) -> Tensor:
    """Return 1/2 mean_b sum_e ||e_b||^2 over the layer-0 embeddings e of the batch, () float32.

    This is the regularization of LightGCN's code (arXiv 2002.02126, eq. 15). If the rows are
    partitioned, the workers' penalties add up to that of the batch; otherwise each returns all of
    it.
    """
    users = [micro_batch.users for micro_batch in batch.micro_batches]
    items = [
        objective.regularized_items(micro_batch) + model.num_users
        for micro_batch in batch.micro_batches
    ]
    _, rows = model.partition.find(torch.cat(users + items))
    own = torch.bincount(rows, minlength=len(model.embeddings)).to(model.embeddings)
    penalty: Tensor = 0.5 * (own * model.embeddings.square().sum(dim=1)).sum() / len(batch)
    return penalty


class _BatchLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        partition: Partition,
        batch: Batch,
        objective: Objective,
        first_item: int,
        share: tuple[int, int],
    ) -> Tensor:
        own = list(batch.part(*share))
        nodes = [_nodes(*of_batch, first_item) for of_batch in own]
        borrowed = Borrowed(partition, vectors, torch.cat([*nodes, torch.empty(0).long()]))
        gradient, total = torch.zeros_like(borrowed.rows), vectors.new_zeros(())
        for (micro_batch, part), of_batch in zip(own, nodes, strict=True):
            at, weight = borrowed.find(of_batch), (part.stop - part.start) / len(batch)
            # Only the rows in use are a leaf: the gradient of an indexed table would be a whole
            # table for each micro-batch.
            rows = borrowed.rows[at].requires_grad_()
            loss, of_rows = _loss_and_gradient(rows, micro_batch, objective, part, weight)
            gradient.index_add_(0, at, of_rows)
            total += loss
        gradient = borrowed.give_back(gradient)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, *tuple[None, ...]]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None, None, None, None


def _nodes(batch: MicroBatch, part: slice, first_item: int) -> Tensor:
    """Return the nodes of a micro-batch's users in `part`, then of all its items and negatives."""
    return torch.cat(
        [batch.users[part], torch.cat([batch.pos_items, batch.negatives]) + first_item]
    )


def _loss_and_gradient(
    rows: Tensor, batch: MicroBatch, objective: Objective, part: slice, weight: float
) -> tuple[Tensor, Tensor]:
    """Return `weight` times the loss of a micro-batch's `part`, and its gradient for `rows`.

    rows (P + K, D) are the vectors of `_nodes`.
    """
    with torch.enable_grad():
        num_own = part.stop - part.start
        users, items = rows.split([num_own, len(rows) - num_own])
        loss = weight * objective.loss(users, items, batch, part)
        (gradient,) = torch.autograd.grad(loss, rows)
    return loss.detach(), gradient
