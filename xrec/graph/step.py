"""One optimizer step: propagate once, score its batches by micro-batches, propagate back once.

    scored = Scored(batch, objective, first_item=num_users)
    (loss,) = batch_losses(model(adjacency), partition, [scored])
    (loss + l2_weight * layer0_penalty(model, batch, objective)).backward()

A worker scores 1/W of a batch. It reads its own rows and those of others that its part of the
batches needs. The time of an epoch is steps x propagation + interactions x candidates, which is
linear in the number of edges.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xrec.graph.lightgcn import LightGCN
from xrec.graph.loss import Objective
from xrec.graph.partition import Halo, Partition
from xrec.graph.sampling import Batch, MicroBatch


@dataclass(frozen=True)
class Scored:
    """A batch and its loss; item i is node `first_item` + i.

    share: rank and world size, which choose this worker's interactions (`Batch.part`).
    """

    batch: Batch
    objective: Objective
    first_item: int
    share: tuple[int, int] = (0, 1)

    def parts(self) -> Iterator[tuple[MicroBatch, slice, Tensor]]:
        """Yield the worker's micro-batches, which rows it scores, and the nodes that they need.

        The nodes (P + B + M,) int64 are the P users of these rows, then all items and negatives.
        """
        for batch, part in self.batch.part(*self.share):
            items = torch.cat([batch.pos_items, batch.negatives]) + self.first_item
            yield batch, part, torch.cat([batch.users[part], items])


def batch_losses(vectors: Tensor, partition: Partition, scored: Sequence[Scored]) -> list[Tensor]:
    """Return this worker's part of each batch's mean loss, () float32; the parts add up to it.

    vectors (n, D) are this worker's propagated rows. Forward also computes the gradients, one
    micro-batch at a time. Both passes are collective.
    """
    blocks = partition.blocks
    rows = blocks.rows[:0]
    if blocks.num_blocks > 1:
        nodes = [nodes for each in scored for *_, nodes in each.parts()]
        rows = blocks.rows[torch.cat([rows, *nodes])]
    halo = Halo(blocks, partition.rank, rows, vectors.device)
    gathered = halo.gather(vectors)
    return [_BatchLoss.apply(gathered, halo, each) for each in scored]  # type: ignore[no-untyped-call]


def layer0_penalty(model: LightGCN, batch: Batch, objective: Objective) -> Tensor:
    """Return 1/2 mean_b sum_e ||e_b||^2 over the layer-0 embeddings e of the batch, () float32.

    This is the regularization of LightGCN's code (arXiv 2002.02126, eq. 15). The penalties of all
    workers add up to the batch's.
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
    def forward(ctx: Any, gathered: Tensor, halo: Halo, scored: Scored) -> Tensor:
        gradient, total = torch.zeros_like(gathered), gathered.new_zeros(())
        for micro_batch, part, nodes in scored.parts():
            at = halo.find(nodes).to(gathered.device)
            weight = (part.stop - part.start) / len(scored.batch)
            # Only the rows in use are a leaf: the gradient of an indexed table would be a whole
            # table for each micro-batch.
            rows = gathered[at].requires_grad_()
            loss, of_rows = _loss_and_gradient(rows, micro_batch, scored.objective, part, weight)
            gradient.index_add_(0, at, of_rows)
            total += loss
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_outputs[0], None, None


def _loss_and_gradient(
    rows: Tensor, batch: MicroBatch, objective: Objective, part: slice, weight: float
) -> tuple[Tensor, Tensor]:
    """Return `weight` times the loss of a micro-batch's `part`, and its gradient for `rows`.

    rows (P + B + M, D) are the vectors of the nodes that `Scored.parts` yields.
    """
    with torch.enable_grad():
        num_own = part.stop - part.start
        users, items = rows.split([num_own, len(rows) - num_own])
        loss = weight * objective.loss(users, items, batch, part)
        (gradient,) = torch.autograd.grad(loss, rows)
    return loss.detach(), gradient
