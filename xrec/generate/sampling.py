"""The next token of each row from its logits. A row's draws depend on the seed and its prompt, never on the batch it is in."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from xrec.config.llm import DecodingConfig


def draws(prompt: Sequence[int], decoding: DecodingConfig) -> Tensor:
    """Uniform numbers in [0, 1), (max_new_tokens,) float64, one for each token of a prompt's text."""
    digest = hashlib.blake2b(repr((decoding.seed, list(prompt))).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
    return torch.rand(decoding.max_new_tokens, generator=generator, dtype=torch.float64)


def greedy(logits: Tensor) -> Tensor:
    """(R, V) -> (R,), the first of the largest."""
    return logits.max(dim=-1).indices


def sampled(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """(R, V), (R,) -> (R,): the token at which the cumulative probability of the nucleus, most probable first, passes `uniform`.

    The nucleus is the fewest tokens whose probabilities add up to `top_p`.
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
