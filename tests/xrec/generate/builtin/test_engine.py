"""The built-in engine gives the greedy tokens of `generate`; stops, samples, what it computes."""

import itertools
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from tests.world.models import FAMILIES, NUM_USERS, attach_toy, tiny_decoder, toy_model
from tests.xrec.generate.builtin.toy_cores import (
    END,
    NUM_NEW,
    V,
    greedy_by_hand,
    make_core,
    make_engine,
    make_model,
    make_prompts,
    make_sharing_prompts,
)
from tests.xrec.generate.cores import generate
from xrec.config.decoding import DecodingConfig
from xrec.errors import ModelError
from xrec.generate.engine import TextParams
from xrec.generate.shared_engine import SharedEngine

GREEDY = DecodingConfig(max_new_tokens=NUM_NEW)


def run(
    engine: SharedEngine, prompts: Sequence[Sequence[int]], decoding: DecodingConfig = GREEDY
) -> list[list[int]]:
    return [completion.token_ids for completion in generate(engine, prompts, decoding)]


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_each_family_gives_the_greedy_tokens_of_one_at_a_time(family):
    model, prompts = tiny_decoder(family), [*make_prompts(5), *make_sharing_prompts()]
    attach_toy(model, "direct")
    expected = [greedy_by_hand(model, prompt, num_new=6) for prompt in prompts]
    assert len({tuple(ids) for ids in expected}) > len(prompts) // 3  # the prompts matter
    assert run(make_engine(model), prompts, DecodingConfig(max_new_tokens=6)) == expected


def test_generate_report_counts_tokens_and_what_prefixes_saved():
    engine, prompts = make_engine(make_model("projected")), make_sharing_prompts()
    texts = run(engine, prompts)
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
    completions = generate(make_engine(model, [END, stop]), prompts, GREEDY)
    for completion, ids in zip(completions, full, strict=True):
        cut = ids[: ids.index(stop)] if stop in ids else ids
        assert completion.token_ids == cut
        assert completion.finish_reason == ("length" if len(cut) == NUM_NEW else "stop")
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    (last,) = generate(make_engine(make_model("projected")), [[5] * 1020], GREEDY)
    assert (last.finish_reason, len(last.token_ids)) == ("length", 4)  # where the context ends


def test_generate_samples_depend_on_seed_and_prompt_not_on_the_batch():
    model, prompts = make_model("projected"), [*make_prompts(), *make_sharing_prompts()]
    sampling = DecodingConfig(max_new_tokens=NUM_NEW, temperature=2.0, top_p=0.9, seed=3)
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
    with pytest.raises(RuntimeError, match="out of memory"):
        run(engine, [*good, [3, 63, 4]])
    assert engine.core.is_idle
    assert run(engine, good) == expected


def test_text_that_takes_too_long_is_cancelled_and_the_others_go_on():
    """A step takes a second; each other text may have three tokens, the rest twelve."""
    model, prompts, seconds = make_model("projected"), make_prompts(), itertools.count()
    whole = run(make_engine(model), prompts)
    engine = SharedEngine(
        make_core(model, passes_per_step=None), row_seconds=5, clock=lambda: float(next(seconds))
    )
    lengths = [(3, NUM_NEW)[place % 2] for place in range(len(prompts))]
    asked = [(p, TextParams(max_new_tokens=n)) for p, n in zip(prompts, lengths, strict=True)]
    found = sorted(engine.complete(asked), key=lambda each: each.index)
    late = [each.index for each in found if each.failure and each.failure.reason == "timeout"]
    # Its first step gives a text two tokens, and five more seconds one each; an end token is one.
    assert late == [n for n, ids in enumerate(whole) if lengths[n] > 3 and len(ids) > 7]
    assert late
    rest = [each for each in found if each.index not in late]
    assert all(each.token_ids == whole[each.index][: lengths[each.index]] for each in rest)
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
