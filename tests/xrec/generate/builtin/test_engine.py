"""The built-in engine: greedy tokens of `generate`, stops, samples and masks, what it computes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig

from tests.errors import raises
from tests.world.models import FAMILIES, NUM_USERS, attach_toy, tiny_decoder, toy_model, toy_vectors
from tests.xrec.generate.cores import (
    END,
    GREEDY,
    NUM_NEW,
    V,
    finish,
    generate,
    greedy_by_hand,
    make_core,
    make_engine,
    make_model,
    make_prompts,
    make_sharing_prompts,
    with_all_tokens,
)
from xrec.config import DecodingConfig
from xrec.errors import ModelError
from xrec.generate.builtin.sampling import sampled
from xrec.generate.engine import Completion, TextParams
from xrec.generate.shared_engine import SharedEngine

DECODING = DecodingConfig(max_new_tokens=NUM_NEW)


def run(
    engine: SharedEngine, prompts: Sequence[Sequence[int]], decoding: DecodingConfig = DECODING
) -> list[list[int]]:
    return [completion.token_ids for completion in generate(engine, prompts, decoding)]


_FAST = {"llama", "qwen3", "gemma2"}


@pytest.mark.parametrize(
    "family",
    [one if one in _FAST else pytest.param(one, marks=pytest.mark.slow) for one in FAMILIES],
)
def test_generate_each_family_gives_the_greedy_tokens_of_one_at_a_time(family):
    num_tokens = 3 if family == "llama" else 1  # of each user and item
    model = tiny_decoder(family)
    vocabulary = attach_toy(model, "direct", num_tokens=num_tokens).vocabulary
    prompts = [*make_prompts(5), *make_sharing_prompts()]
    prompts = [with_all_tokens(prompt, vocabulary) for prompt in prompts]
    expected = [greedy_by_hand(model, prompt, num_new=6) for prompt in prompts]
    assert len({tuple(ids) for ids in expected}) > len(prompts) // 3  # the prompts matter
    assert run(make_engine(model), prompts, DecodingConfig(max_new_tokens=6)) == expected


def test_generate_computes_prefixes_and_adapters_once_and_counts_tokens():
    model, prompts = make_model("projected"), make_sharing_prompts()
    embedding = model.get_input_embeddings()
    adapted: list[list[float]] = []
    for adapter in (embedding.user_adapter, embedding.item_adapter):
        adapter.register_forward_pre_hook(lambda _, args: adapted.extend(args[0].tolist()))
    engine = make_engine(model, max_rows=2)
    texts = run(engine, prompts)
    vectors = torch.cat(toy_vectors()).tolist()
    assert sorted(adapted) == sorted(
        vectors[token - V]
        for token in {token for prompt in prompts for token in prompt if token >= V}
    )
    report = engine.take_report()
    # The 20 tokens of all and the 21 of a user with several prompts are computed once.
    saved = 20 * (len(prompts) - 1) + 21 * (len(prompts) - 1 - (NUM_USERS - 1))
    assert report.num_prompt_tokens == sum(map(len, prompts))
    assert report.num_computed_prompt_tokens == report.num_prompt_tokens - saved
    # The first token of a text comes from its prompt's pass; an end token is a token too.
    generated = [len(ids) + (len(ids) < NUM_NEW) for ids in texts]
    assert report.num_decoded_tokens == sum(generated) - len(prompts)
    assert report.total_seconds > 0
    assert engine.take_report().num_decoded_tokens == 0


def test_generate_ends_a_text_at_its_stop_token_despite_the_models_own_settings():
    model, prompts = make_model("projected"), make_prompts()
    full = run(make_engine(model), prompts)
    counts = Counter(token for ids in full for token in set(ids))
    stop = min(counts, key=lambda token: counts[token])  # the rarest
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=9.0, max_new_tokens=1, eos_token_id=list(range(V))
    )
    completions = generate(make_engine(model, [END, stop]), prompts, DECODING)
    for completion, ids in zip(completions, full, strict=True):
        cut = ids[: ids.index(stop)] if stop in ids else ids
        assert completion.token_ids == cut
        assert completion.finish_reason == ("length" if len(cut) == NUM_NEW else "stop")
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    (last,) = generate(make_engine(make_model("projected")), [[5] * 1020], DECODING)
    assert (last.finish_reason, len(last.token_ids)) == ("length", 4)  # where the context ends


def test_generate_samples_depend_on_seed_and_prompt_not_on_the_batch():
    model, prompts = make_model("projected"), [*make_prompts(), *make_sharing_prompts()]
    sampling = DecodingConfig(max_new_tokens=NUM_NEW, temperature=2.0, top_p=0.9, seed=3)
    texts = run(make_engine(model), prompts, sampling)
    assert run(make_engine(model, max_rows=2), prompts[::-1], sampling) == texts[::-1]
    assert run(make_engine(model), prompts, sampling.model_copy(update={"seed": 2})) != texts
    assert run(make_engine(model), prompts) != texts


def test_engine_decoder_without_packed_pass_is_refused():
    for name, value in (("layer_types", ["linear_attention"]), ("num_kv_shared_layers", 1)):
        model = toy_model()
        setattr(model.config, name, value)
        with raises(ModelError, "unsupported_layer"):
            make_engine(model)
    model = toy_model()
    model.model.layers[1].self_attn.forward = lambda hidden_states, **_: (hidden_states, None)
    with raises(ModelError, "unsupported_attention"):
        make_engine(model)


def drawn_by_hand(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> list[int]:
    """Draw each token by sorting all of a row by probability and summing up to the number."""
    weights = torch.exp((logits.double() - logits.double().max()) / temperature).tolist()
    order = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    nucleus: list[int] = []
    for token in order:
        if sum(weights[one] for one in nucleus) >= top_p * sum(weights):
            break
        nucleus.append(token)
    mass, tokens = sum(weights[token] for token in nucleus), []
    for number in uniform.tolist():
        left = number * mass
        for token in nucleus:
            left -= weights[token]
            if left < 0:
                break
        tokens.append(token)
    return tokens


def make_logits(num_tokens: int) -> Tensor:
    return (2 * torch.randn(num_tokens, generator=torch.Generator().manual_seed(1))).bfloat16()


@pytest.mark.parametrize(
    "logits",
    [
        # In bfloat16 many logits are equal. Of 1,000 tokens a draw tries the likeliest 256 first.
        make_logits(100),
        make_logits(1000),
        torch.where(torch.arange(600) % 100 == 7, 0.0, -torch.inf),  # six tokens are allowed
    ],
    ids=["few", "many", "masked"],
)
def test_sampled_tokens_are_those_of_a_full_sort(logits):
    """Each row has its own temperature and nucleus."""
    settings = list(product([0.3, 1.0, 30.0], [1.0, 0.999, 0.9, 0.3, 1e-9]))
    uniform = (torch.arange(300, dtype=torch.float64) + 0.5) / 300
    rows = torch.tensor(settings, dtype=torch.float64).repeat(len(uniform), 1)
    numbers = uniform.repeat_interleave(len(settings))
    tokens = sampled(logits.expand(len(rows), -1), numbers, *rows.unbind(1))
    for place, (temperature, top_p) in enumerate(settings):
        expected = drawn_by_hand(logits, uniform, temperature, top_p)
        assert tokens[place :: len(settings)].tolist() == expected, (temperature, top_p)


class SequenceMask:
    """A mask that allows the tokens `first`, and after token t the tokens `follow[t]`."""

    def __init__(self, first: list[int], follow: dict[int, list[int]]):
        self._allowed, self._follow = first, follow

    def fill(self, bitmask: Tensor) -> bool:
        words = [0] * len(bitmask)
        for token in self._allowed:
            words[token // 32] |= 1 << token % 32
        bitmask.copy_(torch.tensor([word - (word >= 2**31) * 2**32 for word in words]))
        return True

    def accept(self, token_id: int) -> None:
        assert token_id in self._allowed
        self._allowed = self._follow[token_id]


def complete(*requests: tuple[list[int], TextParams]) -> list[Completion]:
    core = make_core(make_model())
    ids = [core.add(*request) for request in requests]
    ended = finish(core)
    return [replace(ended[one], index=0) for one in ids]


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_text_follows_its_mask_and_others_do_not_change(temperature):
    first, second = make_prompts()[:2]
    params = replace(GREEDY, temperature=temperature)
    follow = {5: [7, 9], 7: [5], 9: [5, END]}
    anything = SimpleNamespace(fill=lambda bitmask: False, accept=lambda token_id: None)
    masked, free, any_token = complete(
        (first, replace(params, constraint=lambda: SequenceMask([5, 7], follow))),
        (second, params),
        (second, replace(params, constraint=lambda: anything)),
    )
    assert set(masked.token_ids) <= {5, 7, 9}
    assert all(after in follow[token] for token, after in pairwise(masked.token_ids))
    assert complete((second, params)) == [free] == [any_token]
