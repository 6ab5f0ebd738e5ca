"""Chooses the next token of each row from its logits.

The random numbers of a text depend on the seed, the prompt and the number of the text, and not on
the batch that it is in.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from xrec.generate.engine import TextParams

_NUM_LIKELIEST = 256
"""A draw looks at so many tokens first; only if it falls beyond them are all of them sorted."""


def draws(prompt: Sequence[int], params: TextParams, number: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), one for each token of text `number` of the prompt.

    The shape is (max_new_tokens,), the type float64.
    """
    key = (params.seed, list(prompt), *([number] if number else []))
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
    return torch.rand(params.max_new_tokens, generator=generator, dtype=torch.float64)


def greedy(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit (R,) of each row of logits (R, V), and its token; of equal ones the first.

    The logit is NaN if any of the row is, and -inf if all are.
    """
    largest = logits.max(dim=-1)
    return largest.values, largest.indices


def sampled(logits: Tensor, uniform: Tensor, temperature: Tensor, top_p: Tensor) -> Tensor:
    """One sampled token (R,) for each row of logits (R, V), by the numbers `uniform` (R,).

    The nucleus is the smallest set of most probable tokens whose probabilities add up to `top_p`
    (R,). Its probabilities are summed from the most probable token on, of equal ones the first; the
    token is the one at which this sum, as a share of the nucleus, passes `uniform`. `uniform`,
    `temperature` and `top_p` are float64, on the device of the logits.
    """
    scaled = logits.float() / temperature[:, None].float()
    weights = torch.exp(scaled - scaled.amax(dim=-1, keepdim=True))
    total = weights.sum(dim=-1, dtype=torch.float64)
    count = min(_NUM_LIKELIEST, weights.shape[1])
    tokens, is_found = _drawn(*_likeliest(weights, count), total, uniform, top_p)
    if count < weights.shape[1] and not bool(is_found.all()):
        rest = (~is_found).nonzero()[:, 0]
        ordered = torch.sort(weights[rest], dim=-1, descending=True, stable=True)
        tokens[rest] = _drawn(*ordered, total[rest], uniform[rest], top_p[rest])[0]
    return tokens


def _likeliest(weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest weights of each row and their tokens; of equal ones the first is first.

    Those that equal the smallest are left out (their weight is 0): there may be more of them.
    """
    found = torch.topk(weights, count, dim=-1, sorted=False)
    tokens, order = found.indices.sort(dim=-1)
    values, by_value = found.values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    if count < weights.shape[1]:
        values = values.masked_fill(values == values[:, -1:], 0)
    return values, tokens.gather(1, by_value)


def _drawn(
    ordered: Tensor, tokens: Tensor, total: Tensor, uniform: Tensor, top_p: Tensor
) -> tuple[Tensor, Tensor]:
    """The token (R,) of each row, and whether it is certain from these weights (R, N) alone.

    `ordered` are the largest weights of each row, `tokens` their ids, and `total` is the sum of all
    weights of the row.
    """
    probabilities = ordered.double() / total[:, None]
    cumulative = probabilities.cumsum(dim=-1)
    in_nucleus = cumulative - probabilities < top_p[:, None]
    is_closed = cumulative[:, -1] >= top_p
    mass = torch.where(is_closed, (probabilities * in_nucleus).sum(dim=-1), 1.0)
    threshold = uniform * mass
    place = torch.searchsorted(cumulative, threshold[:, None], right=True)
    place = torch.minimum(place, in_nucleus.sum(dim=-1, keepdim=True) - 1)
    is_certain = (is_closed | (top_p >= 1)) & (cumulative[:, -1] > threshold)
    return tokens.gather(1, place)[:, 0], is_certain
