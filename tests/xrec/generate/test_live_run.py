"""The live run gives the default engine's tokens, whatever arrives or is cancelled meanwhile."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.toy import NUM_ITEMS, NUM_USERS, attach_toy, toy_model
from xrec.config.adapter import Injection
from xrec.config.llm import DecodingConfig
from xrec.errors import ModelError
from xrec.generate import live_run
from xrec.generate.engine import Completion
from xrec.generate.live_run import LiveRun
from xrec.generate.packed_model import PackedModel
from xrec.generate.transformers_engine import TransformersEngine

V, END, NUM_NEW = 64, 2, 12
GREEDY = DecodingConfig(max_new_tokens=NUM_NEW)
BEGINNING = [11, 12, 13, 14, 15, 16, 17, 18]
BYTES_PER_POSITION = 2 * 2 * 2 * 8 * 4


def make_prompts(count: int = 12) -> list[list[int]]:
    """Prompts of 4 to 40 tokens, most of which begin with BEGINNING.

    All but the last, which is text only, have a user and an item.
    """
    rng = random.Random(0)
    prompts = []
    for number in range(count - 1):
        texts = [[rng.randrange(3, V) for _ in range(rng.randint(1, 14))] for _ in range(3)]
        pair = [
            *texts[0],
            V + rng.randrange(NUM_USERS),
            *texts[1],
            V + NUM_USERS + rng.randrange(NUM_ITEMS),
            *texts[2],
        ]
        prompts.append(pair if number % 4 == 3 else [*BEGINNING, *pair])
    return [*prompts, [*BEGINNING, 7, 8, 9]]


def make_model(injection: Injection = "projected") -> LlamaForCausalLM:
    model = toy_model()
    attach_toy(model, injection)
    return model


def make_run(model: LlamaForCausalLM, **settings: Any) -> LiveRun:
    values = {"max_rows": 64, "key_value_bytes": 2**24, "max_positions": 100, **settings}
    return LiveRun(
        PackedModel(model), BEGINNING, [END], lambda ids: " ".join(map(str, ids)), **values
    )


def closed(
    model: LlamaForCausalLM, prompts: Sequence[Sequence[int]], decoding: DecodingConfig = GREEDY
) -> list[Completion]:
    engine = TransformersEngine(
        model, [END], max_rows=64, key_value_bytes=2**24, decode=lambda ids: " ".join(map(str, ids))
    )
    return sorted(engine.generate(prompts, decoding), key=lambda completion: completion.index)


def finish(run: LiveRun) -> dict[int, Completion]:
    """Step until the run is idle; returns the completions by request id."""
    ended: dict[int, Completion] = {}
    while not run.is_idle:
        for advance in run.step():
            if advance.completion is not None:
                ended[advance.request_id] = advance.completion
    return ended


@pytest.mark.parametrize("injection", ["direct", "projected", "none"])
@pytest.mark.parametrize("max_rows", [1, 3, 64])
@pytest.mark.parametrize("chunk_tokens", [7, 512])
def test_requests_that_arrive_and_leave_at_any_time_get_the_tokens_of_the_closed_list(
    monkeypatch: pytest.MonkeyPatch, injection: Injection, max_rows: int, chunk_tokens: int
) -> None:
    monkeypatch.setattr(live_run, "_CHUNK_TOKENS", chunk_tokens)
    model, prompts, rng = make_model(injection), make_prompts(), random.Random(max_rows)
    expected = {
        index: completion.token_ids for index, completion in enumerate(closed(model, prompts))
    }
    assert len({tuple(ids) for ids in expected.values()}) > 6  # the prompts matter
    run, ended, number_of, cancelled = (
        make_run(model, max_rows=max_rows),
        dict[int, Completion](),
        dict[int, int](),
        set[int](),
    )
    left = [*range(len(prompts))]
    while left or not run.is_idle:
        for _ in range(rng.randint(0, 3)):
            if left:
                number = left.pop(0)
                number_of[run.add(prompts[number], GREEDY)] = number
            if rng.random() < 0.3:  # one that is abandoned before its end
                request = run.add(rng.choice(prompts), GREEDY)
                cancelled.add(request)
        for request in [request for request in cancelled if rng.random() < 0.4]:
            run.cancel(request)
        for advance in run.step():
            if advance.completion is not None:
                ended[advance.request_id] = advance.completion
    assert {
        number_of[request]: completion.token_ids
        for request, completion in ended.items()
        if request in number_of
    } == expected


def test_each_step_tells_the_tokens_so_far() -> None:
    model, prompts = make_model(), make_prompts()
    run = make_run(model)
    requests = [run.add(prompt, GREEDY) for prompt in prompts]
    told: dict[int, list[list[int]]] = {request: [] for request in requests}
    while not run.is_idle:
        for advance in run.step():
            told[advance.request_id].append(advance.token_ids)
    for completion, request in zip(closed(model, prompts), requests, strict=True):
        assert told[request][-1] == completion.token_ids
        assert all(completion.token_ids[: len(ids)] == ids for ids in told[request])
        assert [len(ids) for ids in told[request][:-1]] == list(range(1, len(told[request])))


def test_each_request_has_its_own_decoding() -> None:
    model, prompts = make_model(), make_prompts(6)
    short, warm = (
        DecodingConfig(max_new_tokens=3),
        DecodingConfig(max_new_tokens=NUM_NEW, temperature=1.5, seed=4),
    )
    decodings = [GREEDY, short, warm, warm, short, GREEDY]
    run = make_run(model)
    requests = [
        run.add(prompt, decoding) for prompt, decoding in zip(prompts, decodings, strict=True)
    ]
    ended = finish(run)
    for request, prompt, decoding in zip(requests, prompts, decodings, strict=True):
        (alone,) = closed(model, [prompt], decoding)
        assert (ended[request].token_ids, ended[request].finish_reason) == (
            alone.token_ids,
            alone.finish_reason,
        )


def test_cancelled_request_is_computed_no_further() -> None:
    run = make_run(make_model(), max_rows=2)
    requests = [run.add(prompt, GREEDY) for prompt in make_prompts(4)]
    run.step()
    assert (run.num_rows, run.num_waiting) == (2, 2)
    for request in requests:
        run.cancel(request)
    assert run.is_idle
    assert run.step() == []


def test_memory_is_bounded_by_the_budget_and_a_row_that_cannot_be_is_refused() -> None:
    budget = 350 * BYTES_PER_POSITION
    run = make_run(make_model(), key_value_bytes=budget)
    assert run.num_slots == 3
    assert run.key_value_bytes <= budget
    with pytest.raises(ModelError, match=r"raise it, or lower decoding\.max_new_tokens"):
        make_run(make_model(), key_value_bytes=90 * BYTES_PER_POSITION)


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ([], "empty_prompt"),
        ([3, 9999], "token_out_of_range"),
        ([3] * 95, "over_memory_budget"),
        ([3] * 1024, "prompt_too_long"),
    ],
)
def test_prompt_that_cannot_be_completed_is_refused_with_its_reason(
    prompt: list[int], reason: str
) -> None:
    run = make_run(make_model())
    failure = run.refusal(prompt, GREEDY)
    assert failure is not None
    assert failure.reason == reason
    with pytest.raises(ValueError, match=r"."):
        run.add(prompt, GREEDY)
    assert run.is_idle


def test_not_injected_request_gets_the_tokens_of_a_model_without_injection() -> None:
    model, prompts = make_model("projected"), make_prompts()
    run = make_run(model)
    requests = [
        run.add(prompt, GREEDY, is_injected=number % 2 == 0)
        for number, prompt in enumerate(prompts)
    ]
    ended = finish(run)
    with_injection, without = closed(model, prompts), closed(make_model("none"), prompts)
    expected = [
        (with_injection if number % 2 == 0 else without)[number].token_ids
        for number in range(len(prompts))
    ]
    assert [ended[request].token_ids for request in requests] == expected
    assert [one.token_ids for one in with_injection] != [one.token_ids for one in without]


def test_closed_list_over_the_same_model_does_not_disturb_what_is_at_work() -> None:
    model, prompts = make_model(), make_prompts()
    run = make_run(model)
    requests = [run.add(prompt, GREEDY) for prompt in prompts]
    run.step()
    with torch.inference_mode():
        model(torch.tensor([prompts[0]]))
    expected = closed(model, prompts)
    ended = finish(run)
    assert [ended[request].token_ids for request in requests] == [
        completion.token_ids for completion in expected
    ]
