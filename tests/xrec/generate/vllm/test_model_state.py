"""Under Model Runner V2 each token of a step gets its vector, and a decode step reads no tensor.

vLLM's runner is replaced by a schedule of random chunks of prompts and single tokens.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.fake_gpu import CPU, GPU, FakeGPU
from tests.toy import NUM_ITEMS, NUM_USERS, toy_adapters, toy_vectors
from tests.xrec.generate.vllm.host_reads import HostReads
from xrec.generate.vllm.injection import InjectionBuffer, Projection
from xrec.generate.vllm.vectors import CollaborativeVectors
from xrec.llm.collaborative import CollaborativeEmbedding, Vocabulary

pytest.importorskip("vllm", reason="vLLM is not installed here (the extra `vllm` brings it)")

V, H, MAX_TOKENS = 30, 32, 64
VOCABULARY = Vocabulary(V, NUM_USERS, NUM_ITEMS)


class Model(nn.Module):
    """What the state needs of a model."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        adapters = toy_adapters("projected")
        users, items = toy_vectors()
        self.words = nn.Embedding(V, H)
        self.vectors = CollaborativeVectors(VOCABULARY, users, items, adapters.user, adapters.item)
        self.injection = InjectionBuffer(Projection(H, 4, 2, 8), "projected", MAX_TOKENS)
        self.num_adapter_calls = 0
        self.vectors.register_forward_hook(self._count)

    def embed_text(self, input_ids: Tensor) -> Tensor:
        return self.words(input_ids.clamp(max=V - 1))

    def _count(self, *_: Any) -> None:
        self.num_adapter_calls += 1


@dataclass
class Request:
    """A request at work: its tokens so far, and how many of them are computed."""

    req_id: str
    prompt: list[int]
    num_computed: int
    token_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt)


@pytest.fixture(autouse=True)
def copies_to_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copies that vLLM for CPUs installs, once an engine has started, ignore the device."""
    from xrec.generate.vllm import model_state

    def copied(data: Any, device: torch.device) -> Tensor:
        return torch.as_tensor(data).to(device)

    monkeypatch.setattr(model_state, "async_tensor_h2d", copied)


def state_on(device: torch.device) -> Any:
    from xrec.generate.vllm.model_state import CollaborativeModelState

    state = CollaborativeModelState.__new__(CollaborativeModelState)
    state.model = Model().to(device).requires_grad_(False)
    state.device, state.dtype = device, torch.float32
    state.rope_state = state.prompt_embeds_state = None
    state.supports_mm_inputs = False
    state._embeds = torch.zeros(MAX_TOKENS, H, device=device)
    state._entities = {}
    return state


def expected_rows(requests: list[tuple[Request, int]]) -> tuple[Tensor, Tensor]:
    """Return the input vectors and what the layers add, token by token, on the CPU."""
    model = Model()
    embedding = CollaborativeEmbedding(
        model.words,
        *model.vectors._tables,
        model.vectors.user_adapter,
        model.vectors.item_adapter,
    )
    embeds, added = [], []
    for request, length in requests:
        for token in request.token_ids[request.num_computed : request.num_computed + length]:
            embeds.append(embedding(torch.tensor([token]))[0])
            injection = embedding.injection
            added.append(torch.zeros(H) if injection is None else injection[0])
    return torch.stack(embeds), torch.stack(added)


def batch_of(requests: list[tuple[Request, int]], device: torch.device) -> Any:
    ids = [
        token
        for request, length in requests
        for token in request.token_ids[request.num_computed : request.num_computed + length]
    ]
    lengths = np.array([length for _, length in requests])
    padded = [*ids, *[V + 1] * 3]  # what an earlier step left behind it
    return SimpleNamespace(
        req_ids=[request.req_id for request, _ in requests],
        num_tokens=len(ids),
        num_tokens_after_padding=len(padded),
        input_ids=torch.tensor(padded, dtype=torch.int32, device=device),
        num_computed_tokens_np=np.array([request.num_computed for request, _ in requests]),
        num_scheduled_tokens=lengths,
        query_start_loc_np=np.concatenate([[0], lengths.cumsum()]),
        has_prefill=any(request.num_computed < len(request.prompt) for request, _ in requests),
    )


def prompts(rng: random.Random) -> Iterator[list[int]]:
    for _ in range(40):
        prompt = [rng.randrange(V) for _ in range(rng.randint(1, 14))]
        for _ in range(rng.randint(0, 3)):
            prompt.insert(rng.randint(0, len(prompt)), rng.randrange(V, VOCABULARY.num_ids))
        yield prompt


def add(state: Any, request: Request) -> None:
    state.add_request(
        0,
        SimpleNamespace(
            req_id=request.req_id,
            prefill_token_ids=request.token_ids,
            num_computed_tokens=request.num_computed,
        ),
    )


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
def test_every_token_of_any_schedule_gets_its_vector(device: torch.device) -> None:
    rng = random.Random(3)
    waiting = [
        # The prefix cache may hold a part of a prompt, but never its last token.
        Request(f"r{number}", prompt, rng.choice([0, 0, rng.randint(0, len(prompt) - 1)]))
        for number, prompt in enumerate(prompts(rng))
    ]
    at_work: list[Request] = []
    num_steps = num_decode_steps = 0
    with FakeGPU():
        state = state_on(device)
        while waiting or at_work:
            entering = [waiting.pop() for _ in range(min(len(waiting), rng.randint(0, 3)))]
            at_work += entering
            for request in entering:
                add(state, request)
            state.apply_staged_writes()
            scheduled = [
                (one, rng.randint(1, 6) if one.num_computed < len(one.prompt) else 1)
                for one in rng.sample(at_work, rng.randint(0, len(at_work)))
            ]
            scheduled = [
                (one, min(length, len(one.token_ids) - one.num_computed))
                for one, length in scheduled
            ]
            if not scheduled:
                continue
            batch = batch_of(scheduled, device)
            with HostReads() as reads:
                inputs = state.prepare_inputs(batch, None)
            num_steps += 1
            num_decode_steps += not batch.has_prefill
            assert not reads.counts
            embeds, added = expected_rows(scheduled)
            assert inputs["input_ids"] is None
            assert inputs["inputs_embeds"].data_ptr() == state._embeds.data_ptr()
            assert len(inputs["inputs_embeds"]) == batch.num_tokens_after_padding
            torch.testing.assert_close(state._embeds[: batch.num_tokens].cpu(), embeds)
            values = state.model.injection.values.cpu()
            torch.testing.assert_close(values[: batch.num_tokens], added)
            for one, length in scheduled:
                one.num_computed += length
                if one.num_computed == len(one.token_ids):
                    one.token_ids.append(rng.randrange(V))
            for one in [one for one in at_work if len(one.token_ids) - len(one.prompt) > 4]:
                state.remove_request(one.req_id)
                at_work.remove(one)
    assert not state._entities
    assert num_steps > 40
    assert num_decode_steps > 5


def test_adapters_run_once_for_all_requests_that_enter_together() -> None:
    state = state_on(CPU)
    requests = [Request(f"r{n}", [3, V + n, 4, V + NUM_USERS + n], 0) for n in range(3)]
    for request in requests:
        add(state, request)
    state.apply_staged_writes()
    for _ in range(3):
        state.prepare_inputs(batch_of([(requests[0], 2), (requests[1], 4)], CPU), None)
        state.apply_staged_writes()
    assert state.model.num_adapter_calls == 1


def test_request_that_was_preempted_and_enters_again_is_computed_from_where_it_is() -> None:
    state = state_on(CPU)
    request = Request("r", [3, V, 4, V + NUM_USERS], 0)
    add(state, request)
    state.apply_staged_writes()
    state.remove_request("r")
    request.token_ids += [7, 8]  # generated before; V2 gives them as part of the prefill
    add(state, request)
    state.apply_staged_writes()
    state.prepare_inputs(batch_of([(request, 6)], CPU), None)
    embeds, added = expected_rows([(request, 6)])
    torch.testing.assert_close(state._embeds[:6], embeds)
    torch.testing.assert_close(state.model.injection.values[:6], added)
