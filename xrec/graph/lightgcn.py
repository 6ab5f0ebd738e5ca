"""LightGCN (arXiv 2002.02126): propagation without weights, the layers' mean as the vectors."""

from typing import Any

import torch
from torch import Tensor, nn


class LightGCN(nn.Module):
    """E^(l+1) = A E^(l),  E = 1/(L+1) sum_{l=0..L} E^(l),  score(u, i) = <E_u, E_i>.

    A is the symmetric normalized adjacency (`normalized_adjacency`); only E^(0) is learned, drawn from N(0, 0.1^2).

    Shapes: adjacency (N, N) sparse CSR -> users (num_users, D), items (num_items, D), float32; N = num_users + num_items.
    """

    def __init__(self, num_users: int, num_items: int, embedding_dim: int, num_layers: int) -> None:
        super().__init__()
        self.num_users = num_users
        self.num_layers = num_layers
        # One table, users first: one product a layer moves both, and the optimizer sees one parameter.
        self.embeddings = nn.Parameter(torch.empty(num_users + num_items, embedding_dim).normal_(std=0.1))

    def forward(self, adjacency: Tensor) -> tuple[Tensor, Tensor]:
        layer: Tensor = self.embeddings
        total: Tensor = self.embeddings
        for _ in range(self.num_layers):
            layer = symmetric_product(adjacency, layer)
            total = total + layer
        mean = total / (self.num_layers + 1)
        return mean[: self.num_users], mean[self.num_users :]


def symmetric_product(adjacency: Tensor, x: Tensor) -> Tensor:
    """`adjacency` @ `x` (N, D) for a symmetric sparse CSR matrix (N, N) that needs no gradient.

    The gradient of x is A^T g = A g: the same product; torch's own backward would transpose A at every step.
    """
    product: Tensor = _SymmetricProduct.apply(adjacency, x)  # type: ignore[no-untyped-call]
    return product


class _SymmetricProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, adjacency: Tensor, x: Tensor) -> Tensor:
        ctx.adjacency = adjacency
        return adjacency @ x

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor]:
        return None, ctx.adjacency @ grad_outputs[0].contiguous()
