"""Compares two engines on the same prompts: completions are equal, a near tie, or different."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import torch

from xrec.adapter.pairs import Pair
from xrec.config.decoding import DecodingConfig
from xrec.data.dataset import held_out_pairs
from xrec.generate.explainer import Explainer
from xrec.generate.shared_engine import SharedEngine


@dataclass(frozen=True)
class Parity:
    """Counts of completions; `largest_gap` is the largest difference of logits where two differ."""

    num_prompts: int
    equal: int
    near_ties: int
    mismatches: int
    largest_gap: float


def make_prompts(explainer: Explainer, num_users: int, items_per_user: int) -> list[list[int]]:
    """Return the prompts of the first users that have a held-out test pair.

    Each user comes with the items of the next such pairs.
    """
    held_out = held_out_pairs(explainer.dataset, "test")
    users = list(dict.fromkeys(pair.user_index for pair in held_out))[:num_users]
    items = cycle(dict.fromkeys(pair.item_index for pair in held_out))
    return [
        explainer.pairs.prompt(Pair(user, item))
        for user in users
        for item in islice(items, items_per_user)
    ]


def completions(
    engine: SharedEngine, prompts: Sequence[list[int]], decoding: DecodingConfig
) -> list[list[int]]:
    """Return the generated ids of each prompt."""
    by_index = {
        completion.index: completion.token_ids for completion in engine.generate(prompts, decoding)
    }
    return [by_index[index] for index in range(len(prompts))]


def compare(
    explainer: Explainer,
    stop_token_ids: Sequence[int],
    prompts: Sequence[list[int]],
    expected: Sequence[list[int]],
    seen: Sequence[list[int]],
    near_tie: float,
) -> Parity:
    """Compare by `explainer.model`: one pass over the prompt and what two completions share."""
    gaps = [
        _gap(explainer, stop_token_ids, prompt, *both)
        for prompt, *both in zip(prompts, expected, seen, strict=True)
        if both[0] != both[1]
    ]
    return Parity(
        num_prompts=len(prompts),
        equal=len(prompts) - len(gaps),
        near_ties=sum(gap <= near_tie for gap in gaps),
        mismatches=sum(gap > near_tie for gap in gaps),
        largest_gap=max(gaps, default=0.0),
    )


@torch.inference_mode()
def _gap(
    explainer: Explainer,
    stop_token_ids: Sequence[int],
    prompt: list[int],
    expected: list[int],
    seen: list[int],
) -> float:
    """Return the difference of the logits of the two tokens where the completions first differ.

    Where a completion ends there, its token is the likeliest end token.
    """
    assert explainer.model is not None
    pairs = enumerate(zip(expected, seen, strict=False))
    position = next(
        (at for at, (one, other) in pairs if one != other), min(len(expected), len(seen))
    )
    logits = (
        explainer.model(torch.tensor([[*prompt, *expected[:position]]]), use_cache=False)
        .logits[0, -1]
        .float()
    )
    one, other = (
        float(logits[ids[position : position + 1] or list(stop_token_ids)].max())
        for ids in (expected, seen)
    )
    return abs(one - other)
