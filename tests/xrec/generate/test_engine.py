"""What every engine's core does: streams, further texts, likelihoods, failures, cancelling.

Each test runs on the built-in core, and on vLLM's where vLLM is installed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.world.models import NUM_ITEMS, NUM_USERS, toy_tokenizer
from tests.xrec.generate.cores import finish, greedy_by_hand, keep, log_likelihoods_by_hand, texts
from tests.xrec.generate.vllm.vllm_town import (
    V,
    attached,
    make_adapter,
    make_engine,
    make_graph,
    make_model,
    make_prompts,
    need_vllm_cpu,
)
from xrec.generate.builtin.engine import BuiltinCore
from xrec.generate.builtin.model import PackedModel
from xrec.generate.engine import Advance, Completion, LikelihoodParams, RequestParams, TextParams
from xrec.generate.shared_engine import SharedEngine

NUM_NEW = 12
GREEDY = TextParams(max_new_tokens=NUM_NEW)
END = toy_tokenizer().eos_token_id
Requests = Sequence[tuple[Sequence[int], RequestParams]]


@dataclass(frozen=True)
class Town:
    """An engine with `projected` injection, and the model that transformers runs.

    users: the vectors of users that the model reads, and the built-in engine.
    unsupported: parameters that the engine refuses.
    """

    engine: Any
    model: Any
    users: Tensor
    unsupported: list[TextParams] = field(default_factory=list)
    prompts: list[list[int]] = field(default_factory=lambda: make_prompts(50))
    expected: dict[Any, list[int]] = field(default_factory=dict)

    @property
    def core(self) -> Any:
        return self.engine.core

    def by_hand(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Return the greedy text of each prompt; it is computed once for the same vectors."""
        keys = [(self.users.numpy().tobytes(), tuple(prompt)) for prompt in prompts]
        for key, prompt in zip(keys, prompts, strict=True):
            if key not in self.expected:
                self.expected[key] = greedy_by_hand(self.model, prompt, NUM_NEW, [END])
        return [self.expected[key] for key in keys]

    def complete(self, requests: Requests) -> list[Completion]:
        ids = [self.core.add(*request) for request in requests]
        completions = finish(self.core)
        return [completions[request_id] for request_id in ids]


@pytest.fixture(scope="module", params=["builtin", "vllm"])
def town(request, tmp_path_factory):
    """Passes of the built-in core are so short that prompts and continuations take several."""
    folder = tmp_path_factory.mktemp(request.param)
    graph = make_graph(folder / "graph")
    model = attached(make_model("qwen2"), make_adapter("projected", graph), graph)
    if request.param == "vllm":
        need_vllm_cpu()
        engine = make_engine(folder, "qwen2", "projected", graph, is_streaming=True)
        no_mask = TextParams(constraint=lambda: pytest.fail("a mask"))
        yield Town(engine, model, graph.users, [no_mask, TextParams(temperature=2.5)])
        engine.close()
    else:
        settings = {"max_rows": 16, "kv_cache_bytes": 2**27, "passes_per_step": 1}
        core = BuiltinCore(PackedModel(model), [END], pass_tokens=24, **settings)
        yield Town(SharedEngine(core), model, graph.users)


def test_core_gives_the_tokens_of_transformers_while_others_come_and_go(town):
    def params(index: int) -> TextParams:
        return TextParams(max_new_tokens=3 + index % 10)  # so that they do not end together

    ended: dict[int, Completion] = {}
    requests: list[int] = []
    num_at_work = []
    for start in range(0, 50, 10):
        for index in range(start, start + 10):
            requests.append(town.core.add(town.prompts[index], params(index)))
        # The next chunk enters when half of the texts at work have ended.
        while len(ended) < start + 5:
            keep(ended, town.core.step())
        num_at_work.append(town.core.num_rows)
    ended |= finish(town.core)
    assert texts(ended, requests) == [
        text[: params(index).max_new_tokens]
        for index, text in enumerate(town.by_hand(town.prompts))
    ]
    assert min(num_at_work) > 0
    assert town.core.num_rows == 0


def test_core_further_text_of_a_prompt_is_that_of_a_separate_request(town):
    warm = replace(GREEDY, temperature=1.5, seed=4)
    prompts = town.prompts[:6]
    seconds = town.complete([(prompt, warm) for prompt in prompts])
    kept = [town.core.add(prompt, replace(GREEDY, keeps_prompt=True)) for prompt in prompts]
    assert texts(finish(town.core), kept) == town.by_hand(prompts)
    assert town.core.num_rows == 0
    town.core.cancel(kept[0])
    again = [
        town.core.add(prompt, warm, after=request)
        for prompt, request in zip(prompts, kept, strict=True)
    ]
    assert texts(finish(town.core), again) == [one.token_ids for one in seconds]
    assert town.core.is_idle


def test_core_banned_tokens_are_in_no_text_and_change_no_other(town):
    prompts, usual = town.prompts[:6], town.by_hand(town.prompts[:6])
    banned = [
        frozenset(text[1:2]) if place % 2 else frozenset() for place, text in enumerate(usual)
    ]
    requests = zip(prompts, (replace(GREEDY, banned=each) for each in banned), strict=True)
    got = [completion.token_ids for completion in town.complete(list(requests))]
    assert got[::2] == usual[::2]
    for each, text, before in zip(banned[1::2], got[1::2], usual[1::2], strict=True):
        assert each.isdisjoint(text)
        assert (text[:1] == before[:1]) == each.isdisjoint(before[:1])


def test_core_streams_each_text_token_by_token(town):
    expected = town.by_hand(town.prompts[1:6])
    requests = [town.core.add(prompt, GREEDY) for prompt in town.prompts[1:6]]
    told: list[Advance] = []
    ended = finish(town.core, told)
    assert texts(ended, requests) == expected
    for request, text in zip(requests, expected, strict=True):
        ids = [advance.token_ids for advance in told if advance.request_id == request]
        assert ids[:-1] == [text[:length] for length in range(1, len(ids))]
        assert ids[-1] == text


def test_core_likelihoods_are_those_of_transformers(town):
    text = (*range(9, 60), END)
    prompts = town.prompts[:12]
    writing = [town.core.add(prompt, GREEDY) for prompt in prompts[:4]]  # beside texts at work
    weighed = [town.core.add(prompt, LikelihoodParams(text)) for prompt in prompts]
    ended = finish(town.core)
    for prompt, request in zip(prompts, weighed, strict=True):
        assert ended[request].finish_reason == "given"
        assert ended[request].token_ids == list(text)
        assert ended[request].log_likelihoods == pytest.approx(
            log_likelihoods_by_hand(town.model, prompt, text), abs=1e-3
        )
    assert texts(ended, writing) == town.by_hand(prompts[:4])


def of_a_user(town: Town) -> tuple[int, list[list[int]]]:
    """Return the last user and its prompts, which share whole blocks before the item."""
    user = NUM_USERS - 1
    return user, [prompt for prompt in town.prompts if V + user in prompt and len(prompt) > 80][:3]


def test_core_sees_a_new_vector_even_if_the_prefix_is_cached(town):
    user, prompts = of_a_user(town)
    first = town.users[user].clone()
    found = []
    for vector in (first, first.flip(0) * 2, first):
        town.users[user] = vector
        completions = town.complete([(prompt, GREEDY) for prompt in prompts])
        found.append([completion.token_ids for completion in completions])
        assert found[-1] == town.by_hand(prompts)
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("town", ["vllm"], indirect=True)
def test_core_reused_rows_and_canceled_texts_change_no_text_and_no_cached_block(town):
    """Rows of users who left get the next ones while vLLM may not have begun with their prompts.

    If blocks were computed from the row as it is then, the first user's would hold the next one's
    vector, and be found by whoever has the first vector again.
    """
    first, prompts = town.users.clone(), town.prompts
    expected: list[list[list[int]]] = []
    kept: dict[int, list[int]] = {}
    ended: dict[int, Completion] = {}
    for number in range(3):
        town.users.copy_(first.roll(number, 0).flip(1) * (1 + number))
        expected.append(town.by_hand(prompts))
        requests = [town.core.add(prompt, GREEDY) for prompt in prompts]
        for place, request in enumerate(requests):
            if place % 3 == number:
                kept[request] = expected[-1][place]
            elif place % 2:
                town.core.cancel(request)
        keep(ended, town.core.step())
        for request in requests[::2]:
            if request not in kept:
                town.core.cancel(request)
    ended |= finish(town.core)
    assert {request: one.token_ids for request, one in ended.items()} == kept
    for number, texts_then in enumerate(expected):
        town.users.copy_(first.roll(number, 0).flip(1) * (1 + number))
        again = town.complete([(prompt, GREEDY) for prompt in prompts])
        assert [completion.token_ids for completion in again] == texts_then
    town.users.copy_(first)
    assert sum(a != b for a, b in zip(expected[0], expected[1], strict=True)) > len(prompts) // 2


def test_core_output_that_is_not_a_number_fails_only_its_requests(town):
    user, (prompt, *_) = of_a_user(town)
    others = [prompt for prompt in town.prompts if V + user not in prompt][:3]
    first, weighed = town.users[user].clone(), LikelihoodParams((5, 6, 7))
    asked = [(prompt, GREEDY), (prompt, weighed), *((other, GREEDY) for other in others)]
    town.users[user] = torch.nan
    broken = town.complete(asked)
    town.users[user] = first
    reasons = [one.failure and one.failure.reason for one in broken]
    assert reasons == ["invalid_logits"] * 2 + [None] * 3
    whole = town.complete(asked)
    assert [one.token_ids for one in [*broken[2:], whole[0]]] == town.by_hand([*others, prompt])
    assert whole[1].failure is None


def test_core_invalid_requests_fail_with_their_reason_and_affect_no_other(town):
    last = V + NUM_USERS + NUM_ITEMS - 1
    good = town.prompts[1]
    requests: list[tuple[list[int], RequestParams, str | None]] = [
        ([], GREEDY, "empty_prompt"),
        ([3, last + 1], GREEDY, "token_out_of_range"),
        ([5] * 256, GREEDY, "prompt_too_long"),
        (good, GREEDY, None),
        ([-1], GREEDY, "token_out_of_range"),
        (good, LikelihoodParams((3, V)), "token_out_of_range"),
        (good, LikelihoodParams((3,) * 300), "prompt_too_long"),
        (good, TextParams(banned=frozenset({V})), "token_out_of_range"),
        (good, LikelihoodParams((3, 4)), None),
        *((good, params, "unsupported_request") for params in town.unsupported),
    ]
    completions = town.complete([(prompt, params) for prompt, params, _ in requests])
    reasons = [completion.failure and completion.failure.reason for completion in completions]
    assert reasons == [reason for *_, reason in requests]
    assert [one.finish_reason == "failed" for one in completions] == list(map(bool, reasons))
    assert [completions[3].token_ids] == town.by_hand([good])
    refusals = [town.core.refusal(prompt, params) for prompt, params, _ in requests]
    assert refusals == [completion.failure for completion in completions]


def test_core_canceled_request_is_not_reported_and_others_go_on(town):
    cancelled = town.core.add(town.prompts[8], TextParams(max_new_tokens=60, temperature=1.0))
    kept = town.core.add(town.prompts[9], GREEDY)
    failing = town.core.add([], GREEDY)
    town.core.cancel(failing)
    town.core.step()
    for request in (cancelled, cancelled, 10**6):
        town.core.cancel(request)
    completions = finish(town.core)
    assert set(completions) == {kept}
    assert [completions[kept].token_ids] == town.by_hand(town.prompts[9:10])
