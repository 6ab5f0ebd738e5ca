"""The built-in engine gives the greedy tokens of `generate`; stops, samples, what it computes."""

import operator
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from tests.decoders import FAMILIES, tiny_decoder
from tests.toy import NUM_ITEMS, NUM_USERS, attach_toy, toy_model
from tests.xrec.generate.builtin.toy_cores import (
    END,
    NUM_NEW,
    V,
    greedy_by_hand,
    make_engine,
    make_model,
)
from tests.xrec.generate.closed_list import generate
from xrec.config.decoding import DecodingConfig
from xrec.errors import ModelError
from xrec.generate.engine import Completion
from xrec.generate.shared_engine import SharedEngine

GREEDY = DecodingConfig(max_new_tokens=NUM_NEW)


def make_prompts(count: int = 9) -> list[list[int]]:
    """Prompts of 4 to 30 tokens without common beginnings, with user and item; one is text only."""
    rng = random.Random(0)
    texts = [[rng.randrange(3, V) for _ in range(rng.randint(2, 28))] for _ in range(count - 1)]
    paired = [
        [
            *text[:1],
            V + rng.randrange(NUM_USERS),
            *text[1:],
            V + NUM_USERS + rng.randrange(NUM_ITEMS),
            *([] if row % 2 else text[:1]),
        ]
        for row, text in enumerate(texts)
    ]
    return [*paired, [7, 8, 9]]


def make_sharing_prompts() -> list[list[int]]:
    """Prompts of users with 1 to 5 items each.

    All prompts share an instruction and all prompts of a user share a profile. One pair occurs
    twice.
    """
    rng = random.Random(1)
    instruction = [rng.randrange(3, V) for _ in range(20)]
    prompts = []
    for user in range(NUM_USERS):
        profile = [V + user, *(rng.randrange(3, V) for _ in range(rng.randint(16, 30)))]
        for item in range(user + 1):
            prompts.append(
                [
                    *instruction,
                    *profile,
                    *(rng.randrange(3, V) for _ in range(rng.randint(0, 9))),
                    V + NUM_USERS + item,
                ]
            )
    return [*prompts, prompts[-1]]


def complete(
    engine: SharedEngine, prompts: Sequence[Sequence[int]], decoding: DecodingConfig = GREEDY
) -> list[Completion]:
    """The completions in the order of their prompts."""
    completions = sorted(
        generate(engine, prompts, decoding), key=lambda completion: completion.index
    )
    assert [completion.index for completion in completions] == list(range(len(prompts)))
    return completions


def run(
    engine: SharedEngine, prompts: Sequence[Sequence[int]], decoding: DecodingConfig = GREEDY
) -> list[list[int]]:
    return [completion.token_ids for completion in complete(engine, prompts, decoding)]


def one_at_a_time(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Greedy tokens by transformers' `generate`, one prompt at a time."""
    config = GenerationConfig(
        max_new_tokens=NUM_NEW, do_sample=False, eos_token_id=END, pad_token_id=END
    )
    rows = [
        model.generate(torch.tensor([prompt]), generation_config=config)[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    return [row[: row.index(END)] if END in row else row for row in rows]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("injection", ["direct", "projected"])
def test_generate_each_family_gives_the_greedy_tokens_of_one_at_a_time(injection, family):
    model, prompts = tiny_decoder(family), [*make_prompts(5), *make_sharing_prompts()]
    attach_toy(model, injection)
    expected = [greedy_by_hand(model, prompt) for prompt in prompts]
    assert expected == one_at_a_time(model, prompts)
    assert len({tuple(ids) for ids in expected}) > len(prompts) // 3  # the prompts matter
    assert run(make_engine(model), prompts) == expected


def test_generate_report_counts_tokens_and_what_prefixes_saved():
    engine, prompts = make_engine(make_model("projected")), make_sharing_prompts()
    texts = run(engine, prompts)
    report = engine.take_report()
    # Computed by hand: the instruction once, each user's part once, each item's part once.
    instruction = 20
    users = {prompt[instruction]: prompt for prompt in prompts}
    once = instruction + sum(len(shared_part(prompts, user)) - instruction for user in users)
    rest = sum(len(prompt) - len(shared_part(prompts, prompt[instruction])) for prompt in prompts)
    assert report.num_prompt_tokens == sum(map(len, prompts))
    assert report.num_computed_prompt_tokens == once + rest
    assert report.prefix_hit_share == pytest.approx(1 - (once + rest) / report.num_prompt_tokens)
    # The first token of a text comes from its prompt's pass; an end token is a token too.
    generated = [len(ids) + (len(ids) < NUM_NEW) for ids in texts]
    assert report.num_decoded_tokens == sum(generated) - len(prompts)
    assert report.total_seconds > 0
    assert engine.take_report().num_decoded_tokens == 0


def shared_part(prompts: Sequence[Sequence[int]], user: int) -> Sequence[int]:
    """The prefix that the engine must compute for a user's prompts.

    It is what they share, without the last token of any of them. A user with one prompt shares the
    instruction with others.
    """
    own = [prompt for prompt in prompts if prompt[20] == user]
    if len(own) == 1:
        return own[0][:20]
    length = next(
        place for place in range(1000) if len({tuple(prompt[: place + 1]) for prompt in own}) > 1
    )
    return own[0][: min(length, *(len(prompt) - 1 for prompt in own))]


def test_generate_adapters_run_once_for_each_user_and_item(monkeypatch):
    model, prompts = make_model("projected"), make_sharing_prompts()
    embedding = model.get_input_embeddings()
    adapted: list[int] = []
    original = embedding.adapt
    monkeypatch.setattr(
        embedding, "adapt", lambda ids: adapted.extend(ids.tolist()) or original(ids)
    )
    run(make_engine(model, max_rows=2), prompts)
    assert sorted(adapted) == sorted(
        {token for prompt in prompts for token in prompt if token >= V}
    )


def test_generate_decode_steps_touch_neither_adapters_nor_injection(monkeypatch):
    model, prompts = make_model("projected"), make_prompts()
    embedding = model.get_input_embeddings()
    seen: list[tuple[int, bool]] = []
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(
            (kwargs["hidden_states"].shape[1], embedding.injection is None)
        ),
        with_kwargs=True,
    )
    engine = make_engine(model)
    seen.clear()  # the constructor has run one token
    run(engine, prompts)
    is_none = [found for _, found in seen]
    assert is_none == sorted(is_none)  # prompts are computed first, then texts are written
    assert {False, True} == set(is_none)
    num_decoded = sum(length for length, found in seen if found)
    assert num_decoded == engine.take_report().num_decoded_tokens


def test_generate_several_tokens_a_user_gives_the_greedy_tokens_of_one_at_a_time():
    model = toy_model()
    vocabulary = attach_toy(model, "projected", num_tokens=3).vocabulary
    pairs = [(user, item) for user in range(NUM_USERS) for item in (user, user + 1)]
    prompts = [
        [3, *vocabulary.user_tokens(user), 4, 5, *vocabulary.item_tokens(item), 6]
        for user, item in pairs
    ]
    expected = [greedy_by_hand(model, prompt) for prompt in prompts]
    assert len({tuple(ids) for ids in expected}) > len(prompts) // 3
    assert run(make_engine(model), prompts) == expected


def test_generate_ends_a_text_at_its_stop_token_whatever_the_models_own_settings_say():
    model, prompts = make_model("projected"), make_prompts()
    full = run(make_engine(model), prompts)
    counts = Counter(token for ids in full for token in set(ids))
    stop = min(counts, key=lambda token: counts[token])  # the rarest
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=9.0, max_new_tokens=1, eos_token_id=list(range(V))
    )
    completions = complete(make_engine(model, [END, stop]), prompts)
    for completion, ids in zip(completions, full, strict=True):
        cut = ids[: ids.index(stop)] if stop in ids else ids
        assert completion.token_ids == cut
        assert completion.finish_reason == ("length" if len(cut) == NUM_NEW else "stop")
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    (last,) = complete(make_engine(make_model("projected")), [[5] * 1020])
    assert (last.finish_reason, len(last.token_ids)) == ("length", 4)  # where the context ends


def test_generate_samples_depend_on_seed_and_prompt_not_on_the_batch():
    model, prompts = make_model("projected"), [*make_prompts(), *make_sharing_prompts()]
    sampling = DecodingConfig(max_new_tokens=NUM_NEW, temperature=2.0, top_p=0.9, seed=1)
    texts = run(make_engine(model), prompts, sampling)
    assert run(make_engine(model, max_rows=2), prompts[::-1], sampling) == texts[::-1]
    assert run(make_engine(model), prompts, sampling.model_copy(update={"seed": 2})) != texts
    assert run(make_engine(model), prompts) != texts


def test_generate_after_a_step_that_failed_is_as_good_as_new(monkeypatch):
    model = make_model("projected")
    engine = make_engine(model, max_rows=4)
    original = engine.core._model.logits

    def logits(token_ids: Sequence[int], *args: Any, **kwargs: Any) -> torch.Tensor:
        if 63 in token_ids:
            raise RuntimeError("out of memory")
        return original(token_ids, *args, **kwargs)

    monkeypatch.setattr(engine.core._model, "logits", logits)
    texts = {tuple(prompt): greedy_by_hand(model, prompt) for prompt in make_prompts()}
    good = [list(prompt) for prompt, text in texts.items() if 63 not in [*prompt, *text]]
    expected = [texts[tuple(prompt)] for prompt in good]
    ours, theirs = generate(engine, good, GREEDY), generate(engine, [*good[:1], [3, 63, 4]], GREEDY)
    ended = [next(ours)]
    with pytest.raises(RuntimeError, match="out of memory"):
        list(theirs)
    ended += ours
    assert [one.token_ids for one in sorted(ended, key=lambda one: one.index)] == expected
    assert run(engine, good) == expected
    assert engine.core.is_idle


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config.layer_types": ["linear_attention"]}, "cannot run linear_attention"),
        ({"config.num_kv_shared_layers": 1}, "share keys"),
        (
            {"model.layers.1.self_attn.forward": lambda hidden_states, **_: (hidden_states, None)},
            "1 of its 2 layers attend through",
        ),
    ],
)
def test_engine_decoder_without_packed_pass_is_refused(change, message):
    model = toy_model()
    for path, value in change.items():
        owner, _, name = path.rpartition(".")
        setattr(operator.attrgetter(owner)(model), name, value)
    with pytest.raises(ModelError, match=message):
        make_engine(model)
