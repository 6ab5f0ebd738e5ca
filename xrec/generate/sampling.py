"""Chooses the next token of each row from its logits.

The random numbers of a row depend on the seed and its prompt, and not on the batch it is in.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from xrec.config.llm import DecodingConfig


def draws(prompt: Sequence[int], decoding: DecodingConfig) -> Tensor:
    """Uniform numbers in [0, 1), one for each token of the prompt's text.

    The shape is (max_new_tokens,), the type float64.
    """
    digest = hashlib.blake2b(repr((decoding.seed, list(prompt))).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
    return torch.rand(decoding.max_new_tokens, generator=generator, dtype=torch.float64)


def greedy(logits: Tensor) -> Tensor:
    """The most probable token (R,) of each row of logits (R, V); of equal ones the first."""
    return logits.max(dim=-1).indices


def sampled(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """One sampled token (R,) for each row of logits (R, V), by the numbers `uniform` (R,).

    The nucleus is the smallest set of most probable tokens whose probabilities add up to `top_p`.
    Its probabilities are summed from the most probable token on; the token is the one at which
    this sum, as a share of the nucleus, passes `uniform`.
    """
    ordered, tokens = torch.sort(
        torch.softmax(logits.double() / temperature, dim=-1), dim=-1, descending=True, stable=True
    )
    cumulative = ordered.cumsum(dim=-1)
    in_nucleus = cumulative - ordered < top_p
    total = (ordered * in_nucleus).sum(dim=-1, keepdim=True)
    place = torch.searchsorted(cumulative, uniform[:, None].to(cumulative) * total, right=True)
    last = in_nucleus.sum(dim=-1, keepdim=True) - 1
    return tokens.gather(1, torch.minimum(place, last))[:, 0]
