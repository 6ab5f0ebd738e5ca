"""One optimizer step in plain torch: propagate once, score the batch micro-batch by micro-batch, propagate back once.

    users, items = model(adjacency)
    loss = batch_loss(users, items, batch, objective, rank=rank, world_size=world_size)
    (loss + l2_weight * layer0_penalty(model, batch, objective)).backward()

Memory is that of the tables and of one micro-batch with its candidates. An epoch costs steps x propagation + interactions x
candidates: linear in the edges.
"""

from typing import Any

import torch
from torch import Tensor

from xrec.graph.lightgcn import LightGCN
from xrec.graph.loss import l2_penalty
from xrec.graph.objective import Objective
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
    """This worker's part of the batch's mean loss, () float32: summed over the workers it is the loss of one worker alone.

    users (U, D), items (I, D): the propagated tables. Worker `rank` scores its rows of every micro-batch against all of the
    micro-batch's candidates. The gradient is computed on the way, micro-batch by micro-batch, and handed on in backward.
    """
    loss: Tensor = _BatchLoss.apply(users, items, batch, objective, rank, world_size)  # type: ignore[no-untyped-call]
    return loss


def layer0_penalty(model: LightGCN, batch: Batch, objective: Objective) -> Tensor:
    """`l2_penalty` of the batch, () float32, over this worker's rows of the layer-0 embeddings.

    Summed over the workers of a partition it is that of the batch; a worker that holds all rows has all of it.
    """
    num_nodes = model.partition.blocks.num_nodes
    users = [micro_batch.users for micro_batch in batch.micro_batches]
    items = [
        objective.regularized_items(micro_batch) + model.num_users
        for micro_batch in batch.micro_batches
    ]
    counts = torch.bincount(torch.cat(users + items), minlength=num_nodes).float().unsqueeze(1)
    return l2_penalty(
        model.embeddings,
        model.partition.own_rows(counts).squeeze(1).to(model.embeddings.device),
        len(batch),
    )


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
    """`weight` times the loss of the rows `part`; adds its gradient to `gradients`, tables like `users` and `items`.

    Only the rows at hand become leaves: torch's gradient of an indexed table is a whole table, for each micro-batch.
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
    """Rows of worker `rank`: consecutive, of sizes that differ by one at most."""
    return slice(size * rank // world_size, size * (rank + 1) // world_size)
