"""vLLM as a core: a stream of chunks, second texts, likelihoods, failures, cancelling."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.toy import NUM_ITEMS, NUM_USERS, toy_tokenizer
from tests.xrec.generate.vllm.vllm_town import (
    V,
    attached,
    greedy_by_hand,
    make_adapter,
    make_graph,
    make_model,
    make_prompts,
    save_model,
)
from xrec.config.llm import EngineConfig
from xrec.generate.engine import (
    Advance,
    Completion,
    LikelihoodParams,
    RequestParams,
    TextParams,
)

pytest.importorskip(
    "vllm",
    reason="vLLM is not installed here (the extra `vllm` brings it); its core is not tested",
)

NUM_NEW = 12
GREEDY = TextParams(max_new_tokens=NUM_NEW)
END = toy_tokenizer().eos_token_id


@dataclass(frozen=True)
class Town:
    """An engine over vLLM with `projected` injection, and the model that transformers runs."""

    engine: Any
    model: Any
    prompts: list[list[int]]
    users: Tensor
    """The vectors of users that the model of transformers reads."""

    @property
    def core(self) -> Any:
        return self.engine.core


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    from xrec.generate.vllm.engine import VllmEngine

    folder = tmp_path_factory.mktemp("vllm")
    graph = make_graph(folder / "graph")
    engine = VllmEngine(
        save_model(make_model("qwen2"), folder / "llm"),
        toy_tokenizer(),
        make_adapter("projected", graph),
        graph,
        EngineConfig(max_rows=16, kv_cache_gib=1 / 8, vllm_options={"enforce_eager": True}),
        dtype="float32",
        device=torch.device("cpu"),
        is_streaming=True,
    )
    model = attached(make_model("qwen2"), make_adapter("projected", graph), graph)
    yield Town(engine, model, make_prompts(50), graph.users)
    engine.close()


def by_hand(model: Any, prompts: Sequence[Sequence[int]], num_new: int = NUM_NEW) -> list[Any]:
    return [greedy_by_hand(model, prompt, num_new, [END]) for prompt in prompts]


def finished(core: Any, advances: list[Advance] | None = None) -> dict[int, Completion]:
    """Step the core until it is idle; returns the completions by request."""
    completions = {}
    while not core.is_idle:
        for advance in core.step():
            if advances is not None:
                advances.append(advance)
            if advance.completion is not None:
                assert advance.completion.index == advance.request_id
                completions[advance.request_id] = advance.completion
    return completions


def complete(
    core: Any, requests: Sequence[tuple[Sequence[int], RequestParams]]
) -> list[Completion]:
    ids = [core.add(*request) for request in requests]
    completions = finished(core)
    return [completions[request_id] for request_id in ids]


def test_core_chunks_that_enter_while_others_are_at_work_give_the_tokens_of_transformers(town):
    def params(index: int) -> TextParams:
        return TextParams(max_new_tokens=3 + index % 10)  # so that they do not end together

    texts: dict[int, list[int]] = {}
    index_of: dict[int, int] = {}
    num_at_work = []
    for start in range(0, 50, 10):
        for index in range(start, start + 10):
            index_of[town.core.add(town.prompts[index], params(index))] = index
        # The next chunk enters when half of the texts at work have ended.
        while len(texts) < start + 5:
            for advance in town.core.step():
                if advance.completion is not None:
                    texts[index_of[advance.request_id]] = advance.completion.token_ids
        num_at_work.append(town.core.num_rows)
    for request_id, completion in finished(town.core).items():
        texts[index_of[request_id]] = completion.token_ids
    expected = [
        by_hand(town.model, [prompt], params(index).max_new_tokens)[0]
        for index, prompt in enumerate(town.prompts)
    ]
    assert [texts[index] for index in range(50)] == expected
    assert min(num_at_work) > 0
    assert town.core.num_rows == 0


def test_core_text_that_is_refused_gives_way_to_that_of_a_request_of_its_own(town):
    warm = replace(GREEDY, temperature=1.5, seed=4)
    prompts, told = town.prompts[:6], []

    def again(completion: Completion) -> TextParams | None:
        told.append(completion.token_ids)
        return None if completion.token_ids == firsts[0] else warm

    firsts = by_hand(town.model, prompts)
    seconds = complete(town.core, [(prompt, warm) for prompt in prompts])
    params = replace(GREEDY, again=again)
    got = complete(town.core, [(prompt, params) for prompt in prompts])
    assert sorted(told) == sorted(firsts)
    assert got[0].token_ids == firsts[0]
    assert [one.token_ids for one in got[1:]] == [one.token_ids for one in seconds[1:]]
    assert town.core.is_idle


def test_core_banned_tokens_are_in_no_text(town):
    (usual,) = by_hand(town.model, town.prompts[:1])
    banned = frozenset(usual[1:2])
    (got,) = complete(town.core, [(town.prompts[0], replace(GREEDY, banned=banned))])
    assert banned.isdisjoint(got.token_ids)
    assert (got.token_ids[:1] == usual[:1]) == banned.isdisjoint(usual[:1])


def test_core_streams_each_text_token_by_token(town):
    advances: list[Advance] = []
    (expected,) = by_hand(town.model, town.prompts[2:3])
    town.core.add(town.prompts[2], GREEDY)
    (completion,) = finished(town.core, advances).values()
    assert completion.token_ids == expected
    lengths = [len(advance.token_ids) for advance in advances]
    assert lengths == sorted(lengths)
    assert lengths[:3] == [1, 2, 3]
    for advance in advances:
        assert advance.token_ids == expected[: len(advance.token_ids)]


@torch.inference_mode()
def log_likelihoods(model: Any, prompt: list[int], text: Sequence[int]) -> list[float]:
    logits = model(torch.tensor([[*prompt, *text]]), use_cache=False).logits[0].float()
    log_probs = logits.log_softmax(-1)
    return [float(log_probs[len(prompt) + place - 1, token]) for place, token in enumerate(text)]


def test_core_likelihoods_are_those_of_transformers(town):
    text = (9, 31, 7, 44, 12, END)
    prompts = town.prompts[:12]
    completions = complete(town.core, [(prompt, LikelihoodParams(text)) for prompt in prompts])
    for prompt, completion in zip(prompts, completions, strict=True):
        assert completion.finish_reason == "given"
        assert completion.token_ids == list(text)
        assert completion.log_likelihoods == pytest.approx(
            log_likelihoods(town.model, prompt, text), abs=1e-3
        )


def of_a_user(town: Town) -> tuple[int, list[list[int]]]:
    """The last user and prompts with it, which share whole blocks before they name an item."""
    user = NUM_USERS - 1
    return user, [prompt for prompt in town.prompts if V + user in prompt and len(prompt) > 80][:3]


def test_core_sees_what_is_written_into_a_row_also_where_the_prefix_is_cached(town):
    user, prompts = of_a_user(town)
    first = town.users[user].clone()
    texts = []
    try:
        for vector in (first, first.flip(0) * 2, first):
            town.users[user] = vector
            requests = [(prompt, GREEDY) for prompt in prompts]
            texts.append([completion.token_ids for completion in complete(town.core, requests)])
            assert texts[-1] == by_hand(town.model, prompts)
    finally:
        town.users[user] = first
    assert texts[0] == texts[2] != texts[1]


def test_core_row_that_is_reused_before_vllm_has_computed_changes_no_text_and_no_cached_block(town):
    """The row of a user who left is given to the next one while vLLM may not have begun.

    If blocks were computed from the row as it is then, the first user's would hold the next one's
    vector, and be found by whoever has the first vector again.
    """
    user, prompts = of_a_user(town)
    before, first = town.users[user].clone(), torch.full_like(town.users[user], 0.7)
    second = before.flip(0) * 2
    try:
        town.users[user] = first
        expected = by_hand(town.model, prompts)
        kept, left = (town.core.add(prompt, GREEDY) for prompt in prompts[:2])
        town.core.cancel(left)
        town.users[user] = second  # vLLM may not have begun
        next_one = town.core.add(prompts[1], GREEDY)
        completions = finished(town.core)
        assert completions[kept].token_ids == expected[0]
        assert completions[next_one].token_ids == by_hand(town.model, prompts[1:2])[0]
        assert completions[next_one].token_ids != expected[1]
        town.users[user] = first
        again = complete(town.core, [(prompt, GREEDY) for prompt in prompts])
        assert [completion.token_ids for completion in again] == expected
    finally:
        town.users[user] = before


def test_core_requests_that_cannot_be_done_fail_with_their_reason_and_harm_no_other(town):
    last = V + NUM_USERS + NUM_ITEMS - 1
    good = town.prompts[1]
    requests: list[tuple[list[int], RequestParams, str | None]] = [
        ([], GREEDY, "empty_prompt"),
        ([3, last + 1], GREEDY, "token_out_of_range"),
        ([5] * 256, GREEDY, "prompt_too_long"),
        (good, GREEDY, None),
        (good, TextParams(constraint=lambda: pytest.fail("a mask")), "unsupported_request"),
        (good, TextParams(temperature=2.5), "unsupported_request"),
        (good, LikelihoodParams((3, V)), "token_out_of_range"),
        (good, LikelihoodParams((3,) * 300), "prompt_too_long"),
        (good, LikelihoodParams((3, 4)), None),
    ]
    completions = complete(town.core, [(prompt, params) for prompt, params, _ in requests])
    reasons = [completion.failure and completion.failure.reason for completion in completions]
    assert reasons == [reason for *_, reason in requests]
    assert [completions[3].token_ids] == by_hand(town.model, [good])
    assert "a mask over the next token" in completions[4].failure.message
    assert f"0..{last}, saw 3..{last + 1}" in completions[1].failure.message
    assert "256 tokens; the model's context of 256" in completions[2].failure.message


def test_core_a_cancelled_request_is_not_reported_and_others_go_on(town):
    long = TextParams(max_new_tokens=60, temperature=1.0)
    cancelled = town.core.add(town.prompts[8], long)
    kept = town.core.add(town.prompts[9], GREEDY)
    failing = town.core.add([], GREEDY)
    town.core.cancel(failing)
    town.core.step()
    town.core.cancel(cancelled)
    town.core.cancel(cancelled)
    town.core.cancel(10**6)
    completions = finished(town.core)
    assert set(completions) == {kept}
    assert [completions[kept].token_ids] == by_hand(town.model, town.prompts[9:10])
    assert not town.engine._engine.has_unfinished_requests()


def test_core_reports_what_its_steps_cost_and_begins_anew(town):
    town.engine.take_report()
    for _ in range(2):
        complete(town.core, [(town.prompts[10], GREEDY)])
    report = town.engine.take_report()
    assert report.num_prompt_tokens == 2 * len(town.prompts[10])
    assert 0 < report.num_computed_prompt_tokens <= report.num_prompt_tokens
    assert report.num_decoded_tokens > 0
    assert report.total_seconds > 0
    assert town.core.report.num_prompt_tokens == 0
