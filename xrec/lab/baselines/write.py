"""Writing with a trained baseline: greedy, many pairs together."""

from collections.abc import Collection

import torch
from torch import Tensor

from xrec.lab.baselines.models.model import Pairs, Writer


@torch.inference_mode()
def write_greedily(
    model: Writer,
    pairs: Pairs,
    *,
    end_ids: Collection[int],
    never_written: Collection[int],
    max_tokens: int,
) -> list[list[int]]:
    """The likeliest next token, again and again, for each of B pairs.

    A text ends with one of `end_ids`, which stands at its end, or after `max_tokens` without one.
    Tokens in `never_written` are passed over. A text does not depend on the pairs beside it.
    """
    device = pairs.users.device
    ends = torch.tensor(list(end_ids), device=device)
    barred = torch.tensor(list(never_written), dtype=torch.int64, device=device)
    step = model.first(pairs)
    written: list[Tensor] = []
    ended = torch.zeros(len(pairs), dtype=torch.bool, device=device)
    for place in range(max_tokens + 1):  # the end is one more
        if place:
            step = model.next(step, written[-1])
        token_ids = step.logits.index_fill(1, barred, -torch.inf).argmax(dim=1)
        written.append(token_ids)
        ended |= torch.isin(token_ids, ends)
        if bool(ended.all()):
            break
    rows = torch.stack(written, dim=1).tolist()  # (B, T)
    return [_cut(row, set(end_ids), max_tokens) for row in rows]


def _cut(row: list[int], end_ids: set[int], max_tokens: int) -> list[int]:
    """A row up to its first end, or its first `max_tokens` tokens."""
    for place, token_id in enumerate(row):
        if token_id in end_ids:
            return row[: place + 1]
    return row[:max_tokens]
