"""Generation: the same greedy tokens one at a time, left-padded, and by transformers' continuous batching."""

import random
from collections.abc import Sequence

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LlamaForCausalLM, PreTrainedModel

from tests.decoders import FAMILIES, tiny_decoder
from tests.toy import NUM_ITEMS, NUM_USERS, attach_toy, toy_model
from xrec.config import DecodingConfig, Injection
from xrec.generate.transformers_engine import TransformersEngine

V, END, NUM_NEW = 64, 2, 12
GREEDY = DecodingConfig(max_new_tokens=NUM_NEW)


def make_prompts(count: int = 9) -> list[list[int]]:
    """Prompts of 4 to 30 tokens, each with a user and an item; one of text only."""
    rng = random.Random(0)
    texts = [[rng.randrange(3, V) for _ in range(rng.randint(2, 28))] for _ in range(count - 1)]
    paired = [
        [*text[:1], V + rng.randrange(NUM_USERS), *text[1:], V + NUM_USERS + rng.randrange(NUM_ITEMS), *([] if row % 2 else text[:1])]
        for row, text in enumerate(texts)
    ]
    return [*paired, [7, 8, 9]]


def make_model(injection: Injection, num_key_value_heads: int = 2) -> LlamaForCausalLM:
    model = toy_model(num_key_value_heads)
    attach_toy(model, injection)
    return model


def run(model: PreTrainedModel, prompts: Sequence[Sequence[int]], batch_size: int, decoding: DecodingConfig = GREEDY) -> list[list[int]]:
    completions = sorted(TransformersEngine(model, [END], batch_size).generate(prompts, decoding), key=lambda completion: completion.index)
    assert [completion.index for completion in completions] == list(range(len(prompts)))
    return [completion.token_ids for completion in completions]


@torch.no_grad()
def greedy_by_hand(model: PreTrainedModel, prompt: Sequence[int]) -> list[int]:
    """One prompt, the whole sequence again at each step: no cache, no padding, no `generate`."""
    generated: list[int] = []
    while len(generated) < NUM_NEW:
        token = int(model(torch.tensor([[*prompt, *generated]]), use_cache=False).logits[0, -1].argmax())
        if token == END:
            break
        generated.append(token)
    return generated


@pytest.mark.parametrize("num_key_value_heads", [4, 2])
@pytest.mark.parametrize("injection", ["direct", "projected"])
def test_generate_one_by_one_padded_and_continuous_give_the_same_greedy_tokens(injection: Injection, num_key_value_heads: int) -> None:
    model, prompts = make_model(injection, num_key_value_heads), make_prompts()
    expected = [greedy_by_hand(model, prompt) for prompt in prompts]
    assert len({tuple(ids) for ids in expected}) == len(prompts)  # the prompts matter
    assert max(map(len, expected)) == NUM_NEW

    assert run(model, prompts, batch_size=1) == expected
    assert run(model, prompts, batch_size=4) == expected
    assert run(model, prompts, batch_size=len(prompts)) == expected
    assert continuous(model, prompts) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("injection", ["direct", "projected"])
def test_generate_each_family_one_by_one_and_padded_give_the_same_greedy_tokens(injection: Injection, family: str) -> None:
    model, prompts = tiny_decoder(family), make_prompts(5)
    attach_toy(model, injection)
    expected = [greedy_by_hand(model, prompt) for prompt in prompts]
    assert len({tuple(ids) for ids in expected}) > len(prompts) // 2  # the prompts matter
    assert run(model, prompts, batch_size=1) == expected
    assert run(model, prompts, batch_size=len(prompts)) == expected


def continuous(model: LlamaForCausalLM, prompts: list[list[int]]) -> list[list[int]]:
    """By `generate_batch`: all prompts packed in one row, blocks of the cache, at most 24 tokens a step, so prompts are split and mixed."""
    outputs = model.generate_batch(
        inputs=prompts,
        generation_config=GenerationConfig(max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=END, pad_token_id=END),
        continuous_batching_config=ContinuousBatchingConfig(page_size=16, num_blocks=32, max_batch_tokens=24),
    )
    rows = [output.generated_tokens for output in outputs.values()]
    return [row[: row.index(END)] if END in row else row for row in rows]


def test_generate_model_settings_do_not_decide() -> None:
    prompts = make_prompts()
    model = make_model("projected")
    expected = run(model, prompts, batch_size=4)
    model.generation_config = GenerationConfig(do_sample=True, temperature=9.0, repetition_penalty=5.0, max_new_tokens=1, eos_token_id=list(range(V)))
    assert run(model, prompts, batch_size=4) == expected


def test_generate_stop_token_ends_one_row_and_not_the_others() -> None:
    model, prompts = make_model("projected"), make_prompts()
    full = run(model, prompts, batch_size=9)
    stop = min((token for ids in full for token in ids), key=lambda token: sum(token in ids for ids in full))  # the rarest
    completions = {done.index: done for done in TransformersEngine(model, [END, stop], 9).generate(prompts, GREEDY)}
    for index, ids in enumerate(full):
        cut = ids[: ids.index(stop)] if stop in ids else ids
        assert completions[index].token_ids == cut
        assert completions[index].finish_reason == ("length" if len(cut) == NUM_NEW else "stop")
    assert {completion.finish_reason for completion in completions.values()} == {"stop", "length"}


def test_generate_sampling_repeats_with_its_seed_only() -> None:
    model, prompts = make_model("projected"), make_prompts()
    sampled = [run(model, prompts, 4, DecodingConfig(max_new_tokens=NUM_NEW, temperature=2.0, top_p=0.9, seed=seed)) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert sampled[0] != run(model, prompts, 4)


@pytest.mark.parametrize(
    ("prompt", "message"), [([], "prompt 1 is empty"), ([3, V + NUM_USERS + NUM_ITEMS], r"prompt 1: token ids must be in 0\.\.75, saw 3\.\.76")]
)
def test_generate_wrong_prompt_raises_value_error(prompt: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(make_model("none"), [[1], prompt], batch_size=2)


def test_generate_plain_model_knows_its_text_tokens_only() -> None:
    with pytest.raises(ValueError, match=r"0\.\.63, saw 64\.\.64"):
        run(toy_model(), [[V]], batch_size=1)
    assert run(toy_model(), [[7, 8, 9]], batch_size=1) == [greedy_by_hand(toy_model(), [7, 8, 9])]


def test_generate_no_prompts_yields_nothing() -> None:
    assert list(TransformersEngine(make_model("none"), [END], 4).generate([], GREEDY)) == []
