"""Choose the next token of each request from its logits, and compute likelihoods of given tokens.

The random numbers of a text depend on the seed and the prompt, not on the rest of the batch.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from xrec.errors import Failure
from xrec.generate.builtin.requests import Request
from xrec.generate.engine import NOT_A_NUMBER, TextParams, TokenMask

_NUM_LIKELIEST = 256
"""Number of tokens among which sampling searches first; only if that fails, all are sorted."""
_LOGITS_AT_ONCE = 64  # rows that are converted to float32 at a time

_NOTHING_ALLOWED = Failure("no_token_allowed", "the mask of the text allows no next token")


def next_tokens(requests: Sequence[Request], logits: Tensor) -> list[int | Failure]:
    """Return the next token of each request from its logits (R, V), or why it has none.

    Masks and banned tokens change the logits in place.
    """
    broken = apply_masks(logits, [request.mask for request in requests])
    for row, request in zip(logits, requests, strict=True):
        if request.text_params.banned:
            row[sorted(request.text_params.banned)] = -torch.inf
    largest, likeliest = (values.tolist() for values in logits.max(dim=-1))  # the first of equals
    tokens: list[int | Failure] = [
        token if logit > -math.inf else NOT_A_NUMBER if math.isnan(logit) else _NOTHING_ALLOWED
        for logit, token in zip(largest, likeliest, strict=True)
    ]
    for index, failure in broken.items():
        tokens[index] = failure
    indices = [
        index
        for index, (request, token) in enumerate(zip(requests, tokens, strict=True))
        if request.text_params.temperature and not isinstance(token, Failure)
    ]
    if indices:
        drawn = _sampled(
            [requests[index] for index in indices],
            logits[indices] if len(indices) < len(requests) else logits,
        )
        for index, token in zip(indices, drawn, strict=True):
            tokens[index] = token
    return tokens


def log_likelihoods(logits: Tensor, targets: Sequence[int]) -> list[float]:
    """Return the log-likelihood of each target from its logits (T, V), in nats, in float32."""
    values: list[float] = []
    for part, wanted in zip(
        logits.split(_LOGITS_AT_ONCE),
        torch.tensor(targets, device=logits.device).split(_LOGITS_AT_ONCE),
        strict=True,
    ):
        chosen = torch.log_softmax(part.float(), dim=-1).gather(1, wanted[:, None])
        values += chosen[:, 0].tolist()
    return values


def apply_masks(logits: Tensor, masks: Sequence[TokenMask | None]) -> dict[int, Failure]:
    """Set the logits (R, V) of tokens that a row's mask forbids to -inf, in place.

    Return the failures of masks that raise an error, by row.
    """
    broken: dict[int, Failure] = {}
    vocabulary = logits.shape[1]
    bitmask = torch.zeros(-(-vocabulary // 32), dtype=torch.int32)
    for index, (row, mask) in enumerate(zip(logits, masks, strict=True)):
        try:
            is_masked = mask is not None and mask.fill(bitmask)
        except Exception as error:  # noqa: BLE001  the caller's code; only this text fails
            broken[index], is_masked = mask_failure(error), False
        if is_masked:
            octets = (~bitmask).numpy().astype("<i4", copy=False).view(np.uint8)
            refused = np.unpackbits(octets, bitorder="little").view(np.bool_)[:vocabulary]
            row.masked_fill_(torch.from_numpy(refused).to(row.device), -torch.inf)
    return broken


def mask_failure(error: Exception) -> Failure:
    """Return the failure of a text whose mask raised `error`."""
    return Failure("no_token_allowed", f"the mask of the text raised {error!r}")


def _sampled(requests: Sequence[Request], logits: Tensor) -> list[int]:
    rows = []
    for request in requests:
        params = request.text_params
        request.uniform = request.uniform or draws(request.prompt, params).tolist()
        rows.append((request.uniform[len(request.generated)], params.temperature, params.top_p))
    numbers = torch.tensor(rows, dtype=torch.float64).to(logits.device)
    tokens: list[int] = sampled(logits, *numbers.unbind(1)).tolist()
    return tokens


def draws(prompt: Sequence[int], params: TextParams) -> Tensor:
    """Return uniform numbers in [0, 1), one per token of the text: (max_new_tokens,) float64."""
    digest = hashlib.blake2b(repr((params.seed, list(prompt))).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
    return torch.rand(params.max_new_tokens, generator=generator, dtype=torch.float64)


def sampled(logits: Tensor, uniform: Tensor, temperature: Tensor, top_p: Tensor) -> Tensor:
    """Sample one token (R,) for each row of logits (R, V), using the numbers `uniform` (R,).

    The nucleus is the smallest set of most probable tokens whose probabilities add up to `top_p`
    (R,). Its probabilities are accumulated in descending order, with ties in order of ID. The
    sampled token is the one at which the sum, as a share of the nucleus, exceeds `uniform`.
    `uniform`, `temperature` and `top_p` are float64, on the device of the logits.
    """
    scaled = logits.float() / temperature[:, None].float()
    weights = torch.exp(scaled - scaled.amax(dim=-1, keepdim=True))
    total = weights.sum(dim=-1, dtype=torch.float64)
    count = min(_NUM_LIKELIEST, weights.shape[1])
    tokens, is_certain = _drawn(*_likeliest(weights, count), total, uniform, top_p)
    if count < weights.shape[1] and not bool(is_certain.all()):
        rest = (~is_certain).nonzero()[:, 0]
        ordered = torch.sort(weights[rest], dim=-1, descending=True, stable=True)
        tokens[rest] = _drawn(*ordered, total[rest], uniform[rest], top_p[rest])[0]
    return tokens


def _likeliest(weights: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest weights of each row and their tokens, with ties in order of ID.

    Weights equal to the smallest one are set to 0, because more tokens may have the same weight.
    """
    largest = torch.topk(weights, count, dim=-1, sorted=False)
    tokens, order = largest.indices.sort(dim=-1)
    values, by_value = largest.values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    if count < weights.shape[1]:
        values = values.masked_fill(values == values[:, -1:], 0)
    return values, tokens.gather(1, by_value)


def _drawn(
    ordered: Tensor, tokens: Tensor, total: Tensor, uniform: Tensor, top_p: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the token (R,) of each row, and whether these weights (R, N) suffice to know it.

    `ordered` are the largest weights of each row, `tokens` their IDs, and `total` is the sum of all
    weights of the row.
    """
    probabilities = ordered.double() / total[:, None]
    cumulative = probabilities.cumsum(dim=-1)
    in_nucleus = cumulative - probabilities < top_p[:, None]
    is_closed = cumulative[:, -1] >= top_p
    mass = torch.where(is_closed, (probabilities * in_nucleus).sum(dim=-1), 1.0)
    threshold = uniform * mass
    rank = torch.searchsorted(cumulative, threshold[:, None], right=True)
    rank = torch.minimum(rank, in_nucleus.sum(dim=-1, keepdim=True) - 1)
    is_certain = (is_closed | (top_p >= 1)) & (cumulative[:, -1] > threshold)
    return tokens.gather(1, rank)[:, 0], is_certain
