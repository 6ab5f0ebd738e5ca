"""The next token of each row, and the likelihoods of tokens that are given, from logits."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from xrec.generate.engine import Failure, TextParams
from xrec.generate.packed.sampling import draws, greedy, sampled
from xrec.generate.packed.sequences import Row
from xrec.generate.packed.token_masks import apply_masks

_LOGITS_AT_ONCE = 64

NOT_A_NUMBER = Failure(
    "invalid_logits", "the model's output is not a number; use a dtype with more range"
)
_NOTHING_ALLOWED = Failure("no_token_allowed", "the mask of the text allows no token to follow it")


def next_tokens(rows: Sequence[Row], logits: Tensor) -> list[int | Failure]:
    """The next token of each row by its logits (R, V), or why it has none.

    The logits are changed where a row has a mask.
    """
    apply_masks(logits, [row.mask for row in rows])
    largest, likeliest = (values.tolist() for values in greedy(logits))
    tokens: list[int | Failure] = [
        token if logit > -math.inf else _failure(logit)
        for logit, token in zip(largest, likeliest, strict=True)
    ]
    places = [
        place
        for place, (row, token) in enumerate(zip(rows, tokens, strict=True))
        if _params(row).temperature and not isinstance(token, Failure)
    ]
    if places:
        drawn = _sampled(
            [rows[place] for place in places],
            logits[places] if len(places) < len(rows) else logits,
        )
        for place, token in zip(places, drawn, strict=True):
            tokens[place] = token
    return tokens


def log_likelihoods(logits: Tensor, targets: Sequence[int]) -> list[float]:
    """The log-likelihood in nats of each target by its logits (T, V); in float32, by the part."""
    values: list[float] = []
    for part, wanted in zip(
        logits.split(_LOGITS_AT_ONCE),
        torch.tensor(targets, device=logits.device).split(_LOGITS_AT_ONCE),
        strict=True,
    ):
        chosen = torch.log_softmax(part.float(), dim=-1).gather(1, wanted[:, None])
        values += chosen[:, 0].tolist()
    return values


def _sampled(rows: Sequence[Row], logits: Tensor) -> list[int]:
    numbers = torch.tensor(
        [(_uniform(row), _params(row).temperature, _params(row).top_p) for row in rows],
        dtype=torch.float64,
    ).to(logits.device)
    tokens: list[int] = sampled(logits, *numbers.unbind(1)).tolist()
    return tokens


def _uniform(row: Row) -> float:
    if row.uniform is None:
        row.uniform = draws(row.request.prompt, _params(row), row.number).tolist()
    return row.uniform[len(row.generated)]


def _params(row: Row) -> TextParams:
    assert isinstance(row.params, TextParams)
    return row.params


def _failure(logit: float) -> Failure:
    """Why a row has no next token, by its largest logit."""
    return NOT_A_NUMBER if math.isnan(logit) else _NOTHING_ALLOWED
