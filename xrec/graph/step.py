"""One optimizer step in plain torch.

It propagates once, scores the batch micro-batch by micro-batch, and propagates back once:

    users, items = model(adjacency)
    loss = batch_loss(users, items, batch, objective, rank=rank, world_size=world_size)
    (loss + l2_weight * layer0_penalty(model, batch, objective)).backward()

Memory holds the tables and one micro-batch with its candidates. The time of an epoch is
steps x propagation + interactions x candidates, which is linear in the number of edges.
"""

from typing import Any

import torch
from torch import Tensor

from xrec.graph.lightgcn import LightGCN
from xrec.graph.loss import Objective
from xrec.graph.sampling import Batch, MicroBatch


def batch_loss(
    users: Tensor,
    items: Tensor,
    batch: Batch,
    objective: Objective,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Tensor:
    """Return this worker's part of the batch's mean loss, () float32.

    The parts of all workers add up to the loss that a single worker would have. users (U, D) and
    items (I, D) are the propagated tables. Worker `rank` scores its rows of every micro-batch
    against all candidates of that micro-batch. Forward also computes the gradient, micro-batch by
    micro-batch; backward returns it.
    """
    loss: Tensor = _BatchLoss.apply(users, items, batch, objective, rank, world_size)  # type: ignore[no-untyped-call]
    return loss


def layer0_penalty(model: LightGCN, batch: Batch, objective: Objective) -> Tensor:
    """Return 1/2 mean_b sum_e ||e_b||^2 over the layer-0 embeddings e of the batch, () float32.

    This is the regularization of LightGCN's own code (arXiv 2002.02126, eq. 15). The penalties of
    the workers of a partition add up to that of the batch. A worker that holds all rows returns the
    whole penalty.
    """
    num_nodes = model.partition.blocks.num_nodes
    users = [micro_batch.users for micro_batch in batch.micro_batches]
    items = [
        objective.regularized_items(micro_batch) + model.num_users
        for micro_batch in batch.micro_batches
    ]
    counts = torch.bincount(torch.cat(users + items), minlength=num_nodes).float().unsqueeze(1)
    own = model.partition.own_rows(counts).squeeze(1).to(model.embeddings.device)
    penalty: Tensor = 0.5 * (own * model.embeddings.square().sum(dim=1)).sum() / len(batch)
    return penalty


class _BatchLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        items: Tensor,
        batch: Batch,
        objective: Objective,
        rank: int,
        world_size: int,
    ) -> Tensor:
        gradients = torch.zeros_like(users), torch.zeros_like(items)
        total = users.new_zeros(())
        for micro_batch in batch.micro_batches:
            part = _part(len(micro_batch), rank, world_size)
            if part.start < part.stop:
                weight = (part.stop - part.start) / len(batch)
                total += _add_gradients(
                    users, items, gradients, micro_batch, objective, part, weight
                )
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        for_users, for_items = ctx.saved_tensors
        return for_users * grad_outputs[0], for_items * grad_outputs[0], None, None, None, None


def _add_gradients(
    users: Tensor,
    items: Tensor,
    gradients: tuple[Tensor, Tensor],
    batch: MicroBatch,
    objective: Objective,
    part: slice,
    weight: float,
) -> Tensor:
    """Return `weight` times the loss of the rows `part`, and add its gradient to `gradients`.

    `gradients` are tables of the shapes of `users` and `items`. Only the rows in use become leaves,
    because torch's gradient of an indexed table would be a whole table for each micro-batch.
    """
    user_ids = batch.users[part].to(users.device)
    item_ids = torch.cat([batch.pos_items, batch.negatives]).to(items.device)
    user_rows, item_rows = users[user_ids].requires_grad_(), items[item_ids].requires_grad_()
    with torch.enable_grad():
        loss = weight * objective.loss(user_rows, item_rows, batch, part)
        of_users, of_items = torch.autograd.grad(loss, (user_rows, item_rows))
    gradients[0].index_add_(0, user_ids, of_users)
    gradients[1].index_add_(0, item_ids, of_items)
    return loss.detach()


def _part(size: int, rank: int, world_size: int) -> slice:
    """Return the rows of worker `rank`. They are consecutive; sizes differ by one at most."""
    return slice(size * rank // world_size, size * (rank + 1) // world_size)
