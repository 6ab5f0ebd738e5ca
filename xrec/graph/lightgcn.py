"""LightGCN (arXiv 2002.02126): propagation without weights; the result is the mean of the layers.

Each worker computes its block of rows (`xrec.graph.partition`).
"""

from typing import Any

import torch
from torch import Tensor, nn

from xrec.graph.partition import Partition


class LightGCN(nn.Module):
    """E^(l+1) = A E^(l),  E = 1/(L+1) sum_{l=0..L} E^(l),  score(u, i) = <E_u, E_i>.

    A is the symmetric normalized adjacency (`normalized_adjacency`); only E^(0) is learned. This
    worker owns the rows of E^(0), of A, and of each layer that are in its `partition`.

    Shapes: adjacency (n, n + H) sparse CSR -> this worker's rows (n, D) of E, float32. With W > 1
    workers, forward and backward are collective.
    """

    def __init__(
        self,
        embeddings: Tensor,
        num_users: int,
        num_layers: int,
        partition: Partition | None = None,
    ) -> None:
        """Start from this worker's rows `embeddings` (n, D) float32, which must be finite."""
        super().__init__()
        self.partition = partition or Partition.whole(embeddings.shape[0])
        self.num_users = num_users
        self.num_layers = num_layers
        assert len(embeddings) == self.partition.blocks.block_size
        assert embeddings.isfinite().all()
        # One table for users and items: a layer is one product, and Adam has one parameter.
        self.embeddings = nn.Parameter(embeddings)

    def forward(self, adjacency: Tensor) -> Tensor:
        # X + A X + A^2 X = X + A (X + A X): a layer is a fused product and sum, and none is kept.
        layer_sum: Tensor = self.embeddings
        for _ in range(self.num_layers):
            layer_sum = symmetric_product(
                adjacency, layer_sum, self.partition, plus=self.embeddings
            )
        return layer_sum / (self.num_layers + 1)


def random_embeddings(partition: Partition, embedding_dim: int, seed: int) -> Tensor:
    """Return this worker's rows (n, D) float32 of a table drawn from N(0, 0.1^2).

    The table is the same for any number of workers; empty rows are zero.
    """
    return partition.normal_rows(embedding_dim, seed) * 0.1


def symmetric_product(
    adjacency: Tensor, block: Tensor, partition: Partition, plus: Tensor | None = None
) -> Tensor:
    """Return this worker's rows (n, D) of A X + Y, that is, A_w X + `plus`.

    X (W n, D) is the workers' `block`s (n, D) stacked. A_w is `adjacency` (n, n + H), which only
    has the columns of rows that this worker owns or that `partition.halo` gathers.

    The gradient needs neither a transposed matrix nor a sum over workers: with G = dL/d(A X),
    dL/dX = A^T G = A G, because A is symmetric. This worker's rows of it are A_w G, where G is the
    workers' gradients stacked, so backward is the same product as forward. (torch's own gradient
    would transpose A at every step.)
    """
    product: Tensor = _SymmetricProduct.apply(adjacency, block, partition, plus)  # type: ignore[no-untyped-call]
    return product


class _SymmetricProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, adjacency: Tensor, block: Tensor, partition: Partition, plus: Tensor | None
    ) -> Tensor:
        ctx.adjacency, ctx.partition = adjacency, partition
        return partition.product(adjacency, block, plus)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, None, Tensor | None]:
        gradient = grad_outputs[0].contiguous()
        return (
            None,
            ctx.partition.product(ctx.adjacency, gradient),
            None,
            gradient if ctx.needs_input_grad[3] else None,
        )
