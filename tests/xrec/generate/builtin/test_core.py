"""Our core gives the tokens of one prompt at a time, whatever arrives or is cancelled meanwhile.

Prompts are grouped by what they begin with.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from tests.xrec.generate.cores import (
    BYTES_PER_POSITION,
    GREEDY,
    V,
    all_by_hand,
    finish,
    greedy_by_hand,
    keep,
    make_core,
    make_model,
    texts,
)
from xrec.generate.builtin.engine import BuiltinCore
from xrec.generate.engine import Completion, LikelihoodParams, TextParams

KEPT = replace(GREEDY, keeps_prompt=True)


def churned(
    core: BuiltinCore,
    prompts: Sequence[list[int]],
    again: Callable[[list[int]], TextParams | None],
    rng: random.Random,
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the first and last text of each prompt; prompts arrive while others are canceled.

    `again` is asked how the text after one is drawn, some steps after it has ended.
    """
    firsts: dict[int, list[int]] = {}
    ended: dict[int, Completion] = {}
    waiting: list[int] = []  # texts that have ended, and that nobody has looked at
    requests: list[int] = []
    cancelled: list[int] = []
    while len(requests) < len(prompts) or waiting or not core.is_idle:
        for _ in range(rng.randint(0, 3)):
            if len(requests) < len(prompts):
                requests.append(core.add(prompts[len(requests)], KEPT))
            if rng.random() < 0.3:  # one that is abandoned before its end
                cancelled.append(core.add(rng.choice(prompts), KEPT))
        for request in [request for request in cancelled if rng.random() < 0.4]:
            core.cancel(request)
        for request in [request for request in waiting if rng.random() < 0.4]:
            waiting.remove(request)
            place, text = requests.index(request), ended[request].token_ids
            firsts.setdefault(place, text)
            if (params := again(text)) is not None:
                requests[place] = core.add(prompts[place], params, after=request)
            else:
                core.cancel(request)
        assert core.num_rows <= core.max_rows
        before = set(ended)
        keep(ended, core.step())
        waiting += [request for request in ended if request not in before and request in requests]
    for request in cancelled:
        core.cancel(request)
    return [firsts[place] for place in range(len(prompts))], texts(ended, requests)


_SIZES = [(1, 512, 10_000), (3, 7, 10_000), (64, 512, 10_000), (64, 512, 75), (64, 7, 400)]
_FAST = [("projected", _SIZES[1]), ("projected", _SIZES[3]), ("none", _SIZES[4])]
_ALL = list(product(("projected", "direct", "none"), _SIZES))


@pytest.mark.parametrize(
    ("injection", "sizes"),
    [one if one in _FAST else pytest.param(*one, marks=pytest.mark.slow) for one in _ALL],
)
def test_requests_that_come_and_go_get_the_texts_that_they_get_alone(injection, sizes):
    """The second text of a request whose first one is refused is that of a separate request."""
    max_rows, pass_tokens, num_positions = sizes
    prompts, firsts = all_by_hand(injection)
    assert len({tuple(ids) for ids in firsts}) > 6  # the prompts matter
    model, rng = make_model(injection), random.Random(max_rows)
    alone = make_core(model)
    warm = replace(GREEDY, temperature=1.5, seed=4)
    asked = [alone.add(prompt, warm) for prompt in prompts]
    seconds = texts(finish(alone), asked)
    refused = [ids for place, ids in enumerate(firsts) if place % 3]

    kv_cache_bytes = num_positions * BYTES_PER_POSITION
    core = make_core(
        model, max_rows=max_rows, kv_cache_bytes=kv_cache_bytes, pass_tokens=pass_tokens
    )
    first, last = churned(core, prompts, lambda ids: warm if ids in refused else None, rng)
    assert first == firsts
    assert last == [
        second if first in refused else first for first, second in zip(firsts, seconds, strict=True)
    ]
    assert not core._model.vectors._num_prompts


@pytest.mark.parametrize(
    ("num_own", "num_new", "pass_tokens"),
    [(4, 12, 512), (60, 1, 64)],
    ids=["more rows than slots", "more prompts than fit into a pass"],
)
def test_texts_end_in_the_order_of_their_requests(num_own, num_new, pass_tokens):
    """A new prompt of the first user arrives for each that ends, so its prefix is always in use."""
    core = make_core(make_model("none"), stop=(), max_rows=8, pass_tokens=pass_tokens)
    rng = random.Random(0)
    user, other, params = [*range(20)], [*range(20, 40)], TextParams(max_new_tokens=num_new)
    came: dict[int, int] = {}
    ended: dict[int, int] = {}

    def add(profile: list[int], count: int, step: int) -> None:
        for _ in range(count):
            came[core.add([*profile, *rng.choices(range(V), k=num_own)], params)] = step

    add(user, 12, 0)
    for step in range(1, 120):
        ending = [one.request_id for one in core.step() if one.completion is not None]
        ended |= dict.fromkeys(ending, step)
        add(other, 4 if step == 2 else 0, step)
        add(user, len(ending), step)
    assert len(ended) > 60
    assert all(one in ended for one in range(40))
    assert max(ended[one] - came[one] for one in range(40)) <= 24


def test_kept_prompts_give_way_to_waiting_requests():
    """The caller that keeps them may be waiting for these requests."""
    prompts, expected = all_by_hand("projected")
    core = make_core(make_model(), max_rows=2)
    kept = [core.add(prompt, KEPT) for prompt in prompts[:2]]
    finish(core)
    requests = [core.add(prompt, GREEDY) for prompt in prompts[2:]]
    assert texts(finish(core), requests) == expected[2:]
    again = [core.add(prompt, GREEDY, after) for prompt, after in zip(prompts, kept, strict=False)]
    assert texts(finish(core), again) == expected[:2]


def fail(*_: Any) -> bool:
    raise RuntimeError("no grammar")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"fill": fail}, "no grammar"),
        ({"accept": fail}, "no grammar"),
        ({"fill": lambda allowed: allowed.zero_() is not None}, ""),
    ],
    ids=["fill", "accept", "dead end"],
)
def test_mask_that_raises_an_error_or_leaves_no_token_fails_only_its_text(broken, message):
    mask = SimpleNamespace(**{"fill": lambda _: False, "accept": lambda _: None, **broken})
    prompts, expected = all_by_hand("projected")
    core = make_core(make_model(), max_rows=4)
    requests = [core.add(prompt, GREEDY) for prompt in prompts]
    core.step()
    with pytest.raises(RuntimeError, match="no grammar"):
        core.add(prompts[0], replace(GREEDY, constraint=fail))
    bad = core.add(prompts[0], replace(GREEDY, constraint=lambda: mask))
    ended = finish(core)
    assert ended[bad].failure.reason == "no_token_allowed"
    assert message in ended[bad].failure.message
    assert (ended[bad].finish_reason, ended[bad].token_ids) == ("failed", [])
    assert texts(ended, requests) == expected
    assert core.num_rows == 0


@pytest.mark.parametrize(
    ("part", "num_passes"),
    [("layer", 0), ("layer", 2), ("layer", 8), ("adapter", 0)],
    ids=["in a prompt", "in a later prompt", "in a text", "in an adapter"],
)
def test_step_that_raises_an_error_leaves_the_core_as_new(part, num_passes):
    prompts, expected = all_by_hand("projected")
    model = make_model()
    core, passes = make_core(model, max_rows=4), iter(range(100))
    embedding = model.get_input_embeddings()
    broken = {"layer": model.model.layers[1], "adapter": embedding.item_adapter}[part]

    def fail(*_: Any) -> None:
        if next(passes) >= num_passes:
            raise ZeroDivisionError

    for prompt in prompts:
        core.add(prompt, GREEDY)
    handle = broken.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        finish(core)
    handle.remove()
    assert (core.is_idle, core.num_rows) == (True, 0)
    assert not core._model.vectors._num_prompts
    requests = [core.add(prompt, GREEDY) for prompt in prompts]
    assert texts(finish(core), requests) == expected


def test_memory_is_used_as_needed_and_only_a_request_beyond_it_fails():
    model = make_model()
    long, short = [3] * 150, [[4 + number, 5, 6] for number in range(20)]
    # Room for the long one and twelve short ones; sized by the longest there would be two rows.
    budget = (192 + 12 * 16) * BYTES_PER_POSITION
    core = make_core(model, kv_cache_bytes=budget, passes_per_step=None)
    requests = [core.add(prompt, GREEDY) for prompt in [long, *short]]
    over = [core.add([3] * 375, GREEDY), core.add([3] * 200, LikelihoodParams((3,) * 200))]
    ended: dict[int, Completion] = {}
    keep(ended, core.step())
    assert core.num_rows == 13
    ended |= finish(core)
    assert texts(ended, requests) == [greedy_by_hand(model, prompt) for prompt in [long, *short]]
    failures = [ended[request].failure for request in over]
    assert [failure.reason for failure in failures] == ["over_memory_budget"] * 2
    assert "takes 98,816 bytes, more than the 98,304 of" in failures[0].message
    assert "200 new ones" in failures[1].message
