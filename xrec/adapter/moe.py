"""Mixture-of-experts adapter: a graph vector x in R^D to T vectors in R^H of the language model, one a token.

    z = ((x - mean) / std) A                     standardized by the table of all x, fixed, to variance own_share; A is I, or turns to principal axes
    y = scale * sum_k g_k(z) W_k (z - b_k)       W_k (T H, D), b_k (D): parametric whitening
    g(z) = softmax(z G + eps * softplus(z N))    eps ~ N(0, 1) in training, 0 otherwise: noisy dense gating

The experts and gating of XRec (arXiv 2406.02377), which takes them from UniSRec (arXiv 2206.05941, equations 2-4).
`mean`, `std` and `scale` (the root mean square of the model's words, as they enter its first layer) are constants: the
first output has the size of a word, whatever the graph and the model.

Of that first output's variance `own_share` is the user's or item's own; the rest, by the first b_k, is common to all. At 1 everybody
starts as another random word. A small share starts as a soft prompt, which a deep model learns fast, and differs where that helps.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

_MIN_NOISE = 1e-2
_MIN_SPREAD = 1e-6  # of the mean: about what rounding leaves of a float32 constant


class MoEAdapter(nn.Module):
    """`num_experts` linear experts with dense gates; input (N, D), output (N, num_tokens * H), the tokens' vectors one after the other."""

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
        self.register_buffer(
            "axes", None if axis_power is None else torch.eye(input_dim)
        )  # without: not in the state
        self.register_buffer("scale", torch.ones(()))
        self.dropout = dropout
        self.gating_noise = gating_noise
        self.axis_power = axis_power
        self.own_share = own_share
        nn.init.normal_(self.weight, std=input_dim**-0.5)
        if own_share < 1:  # at 1 no random number is drawn
            nn.init.normal_(self.bias, std=(1 - own_share) ** 0.5)

    def fit_input(self, vectors: Tensor, output_scale: float) -> None:
        """Set the constants from the table `vectors` (N, D) of all inputs and the size of the model's embeddings.

        Each dimension gets mean 0 and variance `own_share`; with `axis_power` the table's principal axes are weighted instead (`principal_axes`).
        A dimension in which all rows are equal is scaled to sqrt(own_share) and not centred: at 0 it could not take part in the output.
        """
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
        """Graph vectors (N, D) to adapted vectors (N, num_tokens * H)."""
        standardized = self.standardized(vectors).to(self.weight.dtype)
        gates = functional.softmax(self.router_logits(standardized), dim=-1)  # (N, K)
        centered = (
            functional.dropout(standardized, self.dropout, self.training)[:, None] - self.bias
        )  # (N, K, D)
        return self.scale * torch.einsum("nk,nkd,kdh->nh", gates, centered, self.weight)

    def standardized(self, vectors: Tensor) -> Tensor:
        """z (N, D) of graph vectors (N, D)."""
        plain = (vectors - self.mean) / self.std
        return plain if self.axes is None else plain @ self.axes

    def router_logits(self, standardized: Tensor) -> Tensor:
        """Logits of the experts (N, K); noisy in training."""
        logits = standardized @ self.gate
        if not (self.training and self.gating_noise):
            return logits
        return logits + torch.randn_like(logits) * (
            functional.softplus(standardized @ self.noise) + _MIN_NOISE
        )


def principal_axes(centered: Tensor, power: float) -> Tensor:
    """A (D, D) for a table X (N, D) of mean 0: X A has the principal axes as its columns, of standard deviation s_k^power up to one factor.

    With X = U S V^T, A = V S^(power - 1) / c, c such that the elements of X A have variance 1. Power 0 whitens; 1 only turns; from 2 on
    the weak axes, mostly noise where the table has few strong ones, fade. Signs are fixed, so that all workers have the same A.
    """
    values, vectors = torch.linalg.eigh(
        centered.double().T @ centered.double() / len(centered)
    )  # S^2 / N, ascending
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    spread = values.clamp_min(values[-1] * _MIN_SPREAD**2).sqrt() / values[-1].sqrt()
    axes = vectors * spread ** (power - 1)
    scaled: Tensor = axes / (centered.double() @ axes).square().mean().sqrt()
    return scaled.float()
