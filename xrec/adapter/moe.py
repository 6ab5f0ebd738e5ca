"""Mixture-of-experts adapter: from a graph vector x in R^D to T vectors in R^H, one per token.

    z = ((x - mean) / std) A                     standardization; A is I or principal axes
    y = scale * sum_k g_k(z) W_k (z - b_k)       W_k (T H, D), b_k (D): parametric whitening
    g(z) = softmax(z G + eps * softplus(z N))    noisy gating; eps ~ N(0, 1) in training, else 0

Experts and gating are those of XRec (arXiv 2406.02377), which took them from UniSRec
(arXiv 2206.05941, equations 2-4).

`mean`, `std`, A, and `scale` are constants, set once by `fit_input`. `scale` is the root mean
square of the language model's word vectors as they enter its first layer. So before training, when
each of the K gates is 1 / K, the output has the size of a word divided by the square root of K, for
any graph and model.

`own_share` is the share of the initial output's variance that differs between users (or items). The
rest comes from the initial b_k and is the same for all. With `own_share` 1 every user starts as a
different random word. With a small share all start as nearly the same soft prompt, which a deep
model learns quickly, and training makes them differ where that lowers the loss.

A row x of zeros is a user or item without known interactions. Its z is 0, like that of the mean
vector, so all of them have the same tokens, and only their texts differ.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

_MIN_NOISE = 1e-2
# Relative to the mean: about the spread of equal float32 numbers after rounding.
_MIN_SPREAD = 1e-6


class MoEAdapter(nn.Module):
    """`num_experts` linear experts with dense gates.

    The input is (N, D). The output is (N, num_tokens * H), the concatenated vectors of all tokens.
    """

    mean: Tensor
    std: Tensor
    axes: Tensor | None
    scale: Tensor

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        num_experts: int,
        *,
        dropout: float = 0.0,
        gating_noise: bool = True,
        axis_power: float | None = None,
        own_share: float = 1.0,
        num_tokens: int = 1,
    ):
        super().__init__()
        self.output_dim = output_dim
        self.num_tokens = num_tokens
        self.weight = nn.Parameter(torch.empty(num_experts, input_dim, num_tokens * output_dim))
        self.bias = nn.Parameter(torch.zeros(num_experts, input_dim))
        self.gate = nn.Parameter(torch.zeros(input_dim, num_experts))
        self.noise = nn.Parameter(torch.zeros(input_dim, num_experts))
        self.register_buffer("mean", torch.zeros(input_dim))
        self.register_buffer("std", torch.ones(input_dim))
        # A buffer that is None has no entry in the state dict.
        self.register_buffer("axes", None if axis_power is None else torch.eye(input_dim))
        self.register_buffer("scale", torch.ones(()))
        self.dropout = dropout
        self.gating_noise = gating_noise
        self.axis_power = axis_power
        self.own_share = own_share
        nn.init.normal_(self.weight, std=input_dim**-0.5)
        # With own_share 1 the bias stays zero. Drawing it would change all later random numbers.
        if own_share < 1:
            nn.init.normal_(self.bias, std=(1 - own_share) ** 0.5)

    def fit_input(self, vectors: Tensor, output_scale: float) -> None:
        """Set the constants from the table `vectors` (N, D) of all inputs, except zero rows.

        `output_scale` is the size of the model's words (`embedding_scale`). Each dimension of z
        gets mean 0 and variance `own_share`; with `axis_power`, the principal axes of the table are
        weighted instead (`principal_axes`). A constant dimension is scaled to sqrt(own_share) but
        not centered, because it would have no influence at zero.
        """
        known = _is_known(vectors)
        vectors = vectors[known] if known.any() else vectors
        std, mean = torch.std_mean(vectors.float(), dim=0, correction=0)
        is_constant = std <= _MIN_SPREAD * mean.abs()
        self.scale.fill_(output_scale)
        own_scale = self.own_share**0.5
        if self.axis_power is not None and self.axes is not None and not is_constant.all():
            self.mean.copy_(mean)
            self.std.fill_(1.0)
            self.axes.copy_(own_scale * principal_axes(vectors - mean, self.axis_power))
            return
        self.mean.copy_(torch.where(is_constant, 0.0, mean))
        self.std.copy_(torch.where(is_constant, torch.where(mean == 0, 1.0, mean), std) / own_scale)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the adapted vectors (N, num_tokens * H) of graph vectors (N, D)."""
        standardized = self.standardized(vectors).to(self.weight.dtype)
        gates = functional.softmax(self.router_logits(standardized), dim=-1)  # (N, K)
        kept = functional.dropout(standardized, self.dropout, self.training)
        centered = kept[:, None] - self.bias  # (N, K, D)
        return self.scale * torch.einsum("nk,nkd,kdh->nh", gates, centered, self.weight)

    def standardized(self, vectors: Tensor) -> Tensor:
        """Return the standardized z (N, D) of graph vectors (N, D)."""
        plain = (vectors - self.mean) / self.std
        z = plain if self.axes is None else plain @ self.axes
        return torch.where(_is_known(vectors)[:, None], z, 0.0)

    def router_logits(self, standardized: Tensor) -> Tensor:
        """Return the logits of the experts (N, K), with noise in training."""
        logits = standardized @ self.gate
        if not (self.training and self.gating_noise):
            return logits
        return logits + torch.randn_like(logits) * (
            functional.softplus(standardized @ self.noise) + _MIN_NOISE
        )


def _is_known(vectors: Tensor) -> Tensor:
    """Return which rows of (N, D) are not all zeros, (N,) bool."""
    return (vectors != 0).any(dim=-1)


def principal_axes(centered: Tensor, power: float) -> Tensor:
    """Return the matrix A (D, D) that rotates a table X (N, D) of mean 0 to its principal axes.

    With X = U S V^T, A = V S^(power - 1) / c. Column k of X A has a standard deviation proportional
    to s_k^power, and c makes the variance of the elements of X A 1. Power 0 makes all axes equally
    strong (whitening), 1 only rotates, and from 2 on weak axes become weaker; in a table with few
    strong axes the weak ones are mostly noise. Signs are fixed, so all workers compute the same A.
    """
    covariance = centered.double().T @ centered.double() / len(centered)
    values, vectors = torch.linalg.eigh(covariance)  # s_k^2 / N, ascending
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    spread = values.clamp_min(values[-1] * _MIN_SPREAD**2).sqrt() / values[-1].sqrt()
    axes = vectors * spread ** (power - 1)
    scaled: Tensor = axes / (centered.double() @ axes).square().mean().sqrt()
    return scaled.float()
