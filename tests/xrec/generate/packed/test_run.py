"""Our run gives the tokens of one prompt at a time, whatever arrives or is cancelled meanwhile."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tests.toy import NUM_USERS
from tests.xrec.generate.packed.runs import (
    BEGINNING,
    BYTES_PER_POSITION,
    END,
    GREEDY,
    NUM_NEW,
    V,
    all_by_hand,
    finish,
    greedy_by_hand,
    keep,
    log_likelihoods_by_hand,
    make_model,
    make_prompts,
    make_run,
    texts,
)
from xrec.config.adapter import Injection
from xrec.generate.engine import Completion, LikelihoodParams, Retry, TextParams
from xrec.generate.packed import run as packed_run
from xrec.generate.packed.run import PackedRun

SIZES = pytest.mark.parametrize(
    ("max_rows", "pass_tokens", "num_positions"),
    [(1, 512, 10_000), (3, 7, 10_000), (64, 512, 10_000), (64, 512, 75), (64, 7, 400)],
)


def churned(
    run: PackedRun, prompts: Sequence[list[int]], params: TextParams, rng: random.Random
) -> tuple[dict[tuple[int, int], Completion], list[int]]:
    """The completions of `prompts` and their requests, which arrive while others are abandoned."""
    ended: dict[tuple[int, int], Completion] = {}
    requests: list[int] = []
    cancelled: list[int] = []
    while len(requests) < len(prompts) or not run.is_idle:
        for _ in range(rng.randint(0, 3)):
            if len(requests) < len(prompts):
                requests.append(run.add(prompts[len(requests)], params))
            if rng.random() < 0.3:  # one that is abandoned before its end
                cancelled.append(run.add(rng.choice(prompts), params))
        for request in [request for request in cancelled if rng.random() < 0.4]:
            run.cancel(request)
        assert run.num_rows <= run.max_rows
        keep(ended, run.step())
    return ended, requests


@pytest.mark.parametrize("injection", ["direct", "projected", "none"])
@SIZES
def test_requests_that_arrive_and_leave_at_any_time_get_the_tokens_of_one_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
    injection: Injection,
    max_rows: int,
    pass_tokens: int,
    num_positions: int,
) -> None:
    monkeypatch.setattr(packed_run, "PASS_TOKENS", pass_tokens)
    model, prompts, rng = make_model(injection), make_prompts(), random.Random(max_rows)
    expected = all_by_hand(injection)
    assert len({tuple(ids) for ids in expected}) > 6  # the prompts matter
    run = make_run(model, max_rows=max_rows, key_value_bytes=num_positions * BYTES_PER_POSITION)
    ended, requests = churned(run, prompts, GREEDY, rng)
    assert texts(ended, requests) == expected


def test_each_step_tells_the_tokens_so_far() -> None:
    model, prompts = make_model(), make_prompts()
    run = make_run(model)
    requests = [run.add(prompt, GREEDY) for prompt in prompts]
    told: dict[int, list[list[int]]] = {request: [] for request in requests}
    while not run.is_idle:
        for advance in run.step():
            told[advance.request_id].append(advance.token_ids)
    for text, request in zip(all_by_hand("projected"), requests, strict=True):
        assert told[request][-1] == text
        assert all(text[: len(ids)] == ids for ids in told[request])
        assert [len(ids) for ids in told[request][:-1]] == list(range(1, len(told[request])))


def test_each_request_has_its_own_parameters() -> None:
    model, prompts = make_model(), make_prompts(6)
    short, warm = replace(GREEDY, max_new_tokens=3), replace(GREEDY, temperature=1.5, seed=4)
    cool = replace(GREEDY, temperature=0.5, top_p=0.6, stop_token_ids=(9,))
    params = [GREEDY, short, warm, warm, cool, GREEDY]
    run = make_run(model)
    requests = [run.add(*request) for request in zip(prompts, params, strict=True)]
    ended = finish(run)
    for request, prompt, one in zip(requests, prompts, params, strict=True):
        alone = make_run(model)
        alone.add(prompt, one)
        assert ended[request, 0].token_ids == finish(alone)[0, 0].token_ids
    assert len(ended[requests[1], 0].token_ids) == 3
    assert texts(ended, requests)[0] == all_by_hand("projected")[0]


@pytest.mark.parametrize("injection", ["direct", "projected", "none"])
@SIZES
def test_text_that_is_refused_gives_way_to_that_of_a_request_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
    injection: Injection,
    max_rows: int,
    pass_tokens: int,
    num_positions: int,
) -> None:
    """Whatever arrives or is cancelled meanwhile, and whatever the prompt ends with."""
    monkeypatch.setattr(packed_run, "PASS_TOKENS", pass_tokens)
    model, rng = make_model(injection), random.Random(max_rows)
    prompts, first = make_prompts(), all_by_hand(injection)
    # Some prompts end with a user or an item.
    prompts = [*prompts, *([*prompt[:-1], V + place] for place, prompt in enumerate(prompts[:4]))]
    warm = replace(GREEDY, temperature=1.5, seed=4)
    alone = make_run(model)
    expected = [alone.add(prompt, warm) for prompt in prompts]
    second = finish(alone)
    told: list[list[int]] = []

    def is_refused(completion: Completion) -> bool:
        told.append(completion.token_ids)
        return len(told) % 3 != 0

    params = replace(GREEDY, retry=Retry(is_refused, temperature=1.5, seed=4))
    run = make_run(model, max_rows=max_rows, key_value_bytes=num_positions * BYTES_PER_POSITION)
    ended, requests = churned(run, prompts, params, rng)
    got = texts(ended, requests)
    again = texts(second, expected)
    assert all(text in told for text in first)
    is_second = [mine == other for mine, other in zip(got, again, strict=True)]
    assert is_second.count(True) > len(prompts) // 2
    assert all(mine in told for mine, one in zip(got, is_second, strict=True) if not one)
    assert not run._model.vectors._num_prompts


def test_second_text_is_computed_by_its_own_tokens_alone() -> None:
    prompts = make_prompts()
    costs = []
    for is_refused in (False, True):
        run = make_run(make_model())
        retry = Retry(lambda _, answer=is_refused: answer, temperature=0.0, seed=0)
        requests = [run.add(prompt, replace(GREEDY, retry=retry)) for prompt in prompts]
        assert texts(finish(run), requests) == all_by_hand("projected")
        costs.append(run.report.num_computed_prompt_tokens)
    assert costs[0] == costs[1]


def test_several_texts_have_no_retry() -> None:
    retry = Retry(lambda _: True, temperature=1.0, seed=0)
    with pytest.raises(ValueError, match="num_texts 2 with a retry"):
        TextParams(num_texts=2, temperature=0.7, retry=retry)


def test_stop_tokens_of_a_request_end_its_texts_only() -> None:
    model, prompts = make_model(), make_prompts()
    full = all_by_hand("projected")
    place = next(index for index, ids in enumerate(full) if len(ids) == NUM_NEW)
    stop = full[place][5]
    run = make_run(model)
    requests = [
        run.add(prompt, replace(GREEDY, stop_token_ids=(stop,) if index == place else ()))
        for index, prompt in enumerate(prompts)
    ]
    ended = finish(run)
    cut = full[place][: full[place].index(stop)]
    assert texts(ended, requests) == [
        cut if index == place else ids for index, ids in enumerate(full)
    ]
    assert ended[requests[place], 0].finish_reason == "stop"


def test_cancelled_request_is_computed_no_further() -> None:
    run = make_run(make_model(), max_rows=2)
    requests = [run.add(prompt, GREEDY) for prompt in make_prompts(4)]
    run.step()
    assert (run.num_rows, run.num_waiting) == (2, 2)
    for request in requests:
        run.cancel(request)
    assert run.is_idle
    assert run.step() == []


def test_not_injected_request_gets_the_tokens_of_a_model_without_injection() -> None:
    prompts = make_prompts()
    run = make_run(make_model("projected"))
    # Both have the same prompts, which must not share what the vectors went into.
    requests = [
        [run.add(prompt, replace(GREEDY, is_injected=is_injected)) for prompt in prompts]
        for is_injected in (True, False)
    ]
    ended = finish(run)
    expected = [all_by_hand("projected"), all_by_hand("none")]
    assert [texts(ended, some) for some in requests] == expected
    assert expected[0] != expected[1]


def test_the_model_may_be_used_between_steps() -> None:
    model, prompts = make_model(), make_prompts()
    run = make_run(model)
    requests = [run.add(prompt, GREEDY) for prompt in prompts]
    ended: dict[tuple[int, int], Completion] = {}
    while not run.is_idle:
        keep(ended, run.step())
        with torch.inference_mode():
            model(torch.tensor([prompts[0]]))
    assert texts(ended, requests) == all_by_hand("projected")


@pytest.mark.parametrize(
    ("prompt", "params", "reason"),
    [
        ([], GREEDY, "empty_prompt"),
        ([3, 9999], GREEDY, "token_out_of_range"),
        ([3] * 95, GREEDY, "over_memory_budget"),
        ([3] * 1024, GREEDY, "prompt_too_long"),
        ([3], LikelihoodParams((3, V)), "token_out_of_range"),
        ([3], LikelihoodParams((3,) * 1024), "prompt_too_long"),
        ([3] * 50, LikelihoodParams((3,) * 60), "over_memory_budget"),
    ],
)
def test_request_that_cannot_be_completed_fails_in_the_next_step_and_alone(
    prompt: list[int], params: TextParams | LikelihoodParams, reason: str
) -> None:
    model = make_model()
    run = make_run(model, key_value_bytes=100 * BYTES_PER_POSITION)
    bad, good = run.add(prompt, params), run.add([7, 8, 9], GREEDY)
    refused = run.refusal(prompt, params)
    (failed,) = [advance for advance in run.step() if advance.request_id == bad]
    assert failed.completion is not None
    assert failed.completion.failure == refused
    assert refused is not None
    assert refused.reason == reason
    assert finish(run)[good, 0].token_ids == greedy_by_hand(model, [7, 8, 9])


def test_texts_of_one_prompt_are_those_of_their_numbers_and_the_prompt_is_computed_once() -> None:
    model, prompts = make_model(), make_prompts(6)
    params = replace(GREEDY, temperature=1.2, seed=3, num_texts=4)
    run = make_run(model, passes_per_step=None)
    requests = [run.add(prompt, params) for prompt in prompts]
    ended = finish(run)
    assert len(ended) == 4 * len(prompts)
    for request, prompt in zip(requests, prompts, strict=True):
        several = [ended[request, number].token_ids for number in range(4)]
        assert len({tuple(ids) for ids in several}) == 4
        alone = make_run(model, max_rows=1)
        alone.add(prompt, replace(params, num_texts=1))
        assert several[0] == finish(alone)[0, 0].token_ids
    # Of all texts but the first only the last token of the prompt is computed, or a short rest.
    assert run.report.num_computed_prompt_tokens < sum(map(len, prompts)) + 3 * 16 * len(prompts)
    assert run.report.num_prompt_tokens == 4 * sum(map(len, prompts))


@pytest.mark.parametrize("pass_tokens", [5, 512])
def test_likelihoods_of_a_continuation_are_those_of_one_pass_over_all(
    monkeypatch: pytest.MonkeyPatch, pass_tokens: int
) -> None:
    monkeypatch.setattr(packed_run, "PASS_TOKENS", pass_tokens)
    model, prompts, rng = make_model(), make_prompts(), random.Random(5)
    continuations = [tuple(rng.randrange(V) for _ in range(rng.randint(1, 20))) for _ in prompts]
    run = make_run(model, max_rows=5)
    writing = [run.add(prompt, GREEDY) for prompt in prompts[:4]]  # beside texts being written
    requests = [
        run.add(prompt, LikelihoodParams(continuation))
        for prompt, continuation in zip(prompts, continuations, strict=True)
    ]
    ended = finish(run)
    for request, prompt, continuation in zip(requests, prompts, continuations, strict=True):
        completion = ended[request, 0]
        assert completion.finish_reason == "given"
        assert completion.token_ids == list(continuation)
        assert completion.log_likelihoods == pytest.approx(
            log_likelihoods_by_hand(model, prompt, continuation), abs=1e-4
        )
    assert texts(ended, writing) == all_by_hand("projected")[:4]


def test_prompt_that_comes_alone_shares_the_beginning_of_those_that_came_before() -> None:
    model, prompts = (
        make_model(),
        [prompt for prompt in make_prompts() if prompt[0] == BEGINNING[0]],
    )
    run = make_run(model)
    computed = []
    for prompt in prompts:
        before = run.report.num_computed_prompt_tokens
        request = run.add(prompt, GREEDY)
        assert finish(run)[request, 0].token_ids == greedy_by_hand(model, prompt)
        computed.append(run.report.num_computed_prompt_tokens - before)
    # The first prompt alone, the second with the beginning once more, all later ones without it.
    assert computed[:2] == [len(prompts[0]), len(prompts[1])]
    assert computed[2:] == [len(prompt) - len(BEGINNING) for prompt in prompts[2:]]


def test_prompt_of_a_later_list_finds_the_users_part_while_it_is_at_work() -> None:
    model = make_model()
    user = [*BEGINNING, V, *range(31, 56)]
    prompts = [[*user, item, V + NUM_USERS + item] for item in range(3, 7)]
    run = make_run(model)
    requests = [run.add(prompt, GREEDY) for prompt in prompts[:2]]
    ended: dict[tuple[int, int], Completion] = {}
    keep(ended, run.step())
    before = run.report.num_computed_prompt_tokens
    requests += [run.add(prompt, GREEDY) for prompt in prompts[2:]]
    while not run.is_idle:
        keep(ended, run.step())
    assert run.report.num_computed_prompt_tokens - before == 2 * (len(prompts[0]) - len(user))
    assert texts(ended, requests) == [greedy_by_hand(model, prompt) for prompt in prompts]


def test_vectors_that_change_while_no_request_has_them_are_not_found_again() -> None:
    model = make_model()
    vectors = model.get_input_embeddings()._vectors[0]
    prompts = [[*BEGINNING, V + 1, *range(31, 56), item] for item in (3, 4)]
    run = make_run(model)
    for change in (0.0, 1.5, -2.0):  # the place of a new user of the endpoint is used again
        vectors[1] += change
        requests = [run.add(prompt, GREEDY) for prompt in prompts]
        expected = [greedy_by_hand(model, prompt) for prompt in prompts]
        assert texts(finish(run), requests) == expected


def test_rows_take_what_they_need_and_not_what_the_longest_needs() -> None:
    model = make_model()
    long, short = [3] * 150, [[4 + number, 5, 6] for number in range(20)]
    # Room for the long one and twelve short ones; sized by the longest there would be two rows.
    budget = (192 + 12 * 16) * BYTES_PER_POSITION
    run = make_run(model, key_value_bytes=budget, passes_per_step=None)
    requests = [run.add(prompt, GREEDY) for prompt in [long, *short]]
    ended = finish(run)
    assert run.report.max_rows == 13
    assert texts(ended, requests) == [greedy_by_hand(model, prompt) for prompt in [long, *short]]
    assert run.report.key_value_bytes <= budget == run.key_value_bytes


def test_keys_and_values_are_allocated_once_for_all_that_comes() -> None:
    run = make_run(make_model())
    arenas = set()
    for prompt in make_prompts():
        run.add(prompt, GREEDY)
        finish(run)
        assert run._memory is not None
        arenas.add(run._memory.slots.arena.tensor.data_ptr())
    assert len(arenas) == 1


def test_output_that_is_no_number_fails_its_request_alone_and_leaves_nothing_in_memory() -> None:
    model = make_model("none")
    model.model.embed_tokens.token_embedding.weight.data[60] = torch.nan
    good = [[7, 8, 9, number] for number in range(3, 9)]
    run = make_run(model, max_rows=3)
    requests = [run.add(prompt, GREEDY) for prompt in [good[0], [5] * 30 + [60, 5], *good]]
    ended = finish(run)
    failed = ended[requests[1], 0]
    assert failed.failure is not None
    assert failed.failure.reason == "invalid_logits"
    weighed = run.add([60, 5], LikelihoodParams((5, 6)))
    found = finish(run)[weighed, 0]
    assert (found.finish_reason, found.failure) == ("failed", failed.failure)
    del requests[1]
    assert texts(ended, requests) == [greedy_by_hand(model, prompt) for prompt in [good[0], *good]]
    assert run._memory is not None
    assert bool(run._memory.slots.arena.tensor.isfinite().all())


def test_report_of_a_run_is_taken_once() -> None:
    run = make_run(make_model())
    run.add([7, 8, 9], GREEDY)
    finish(run)
    report = run.take_report()
    assert (report.num_prompts, report.num_prompt_tokens, report.max_rows) == (1, 3, 1)
    assert (run.report.num_prompts, run.report.num_decode_steps) == (0, 0)


def test_params_out_of_range_are_refused() -> None:
    for values in (
        {"max_new_tokens": 0},
        {"num_texts": 0},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"num_texts": 2},  # all the same
    ):
        with pytest.raises(ValueError, match=r"expected|the same"):
            TextParams(**values)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one token"):
        LikelihoodParams(())
    assert END not in greedy_by_hand(make_model(), [7, 8, 9])
