"""vLLM gives the greedy tokens of transformers, in mixed batches and from its prefix cache.

Its input of a prompt has place-holders, the adapters' vectors by value, and hashes of them.
"""

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import product, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.errors import raises
from tests.world.models import (
    NUM_ITEMS,
    NUM_USERS,
    save_with_tokenizer,
    toy_adapters,
    toy_tokenizer,
    toy_vectors,
)
from tests.xrec.generate.cores import generate, greedy_by_hand
from tests.xrec.generate.vllm.vllm_town import (
    V,
    attached,
    make_adapter,
    make_graph,
    make_model,
    make_prompts,
    need_vllm_cpu,
    with_all_tokens,
)
from xrec.config import DecodingConfig, EngineConfig, Injection
from xrec.errors import ModelError
from xrec.llm.collaborative import Vocabulary

need_vllm_cpu()

NUM_NEW = 16
GREEDY = DecodingConfig(max_new_tokens=NUM_NEW)


@dataclass(frozen=True)
class Contest:
    """An engine over vLLM, and the completions that it must give.

    `without_injection` are the completions with the same adapter if the layers do not get vectors.
    """

    rule: Injection
    engine: Any
    prompts: list[list[int]]
    expected: list[list[int]]
    without_injection: list[list[int]]


# Family, rule, and whether vLLM compiles the model. An engine takes most of a minute to start.
_FAST = [("llama", "projected", True), ("qwen3", "direct", True)]
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
_ALL = [("llama", "none", True), *product(_FAMILIES, ("projected", "direct"), (True, False))]


@pytest.fixture(
    scope="module",
    params=[one if one in _FAST else pytest.param(one, marks=pytest.mark.slow) for one in _ALL],
    ids=lambda one: f"{one[0]}-{one[1]}-{'compiled' if one[2] else 'eager'}",
)
def contest(request, tmp_path_factory):
    """An engine in this process; its second stop token is in about a fifth of the completions."""
    from vllm.envs import disable_envs_cache

    family, rule, is_compiled = request.param
    prompts, full = make_prompts(), _by_hand(family, rule)
    counts = Counter(token for ids in full for token in set(ids))
    stop = min(counts, key=lambda token: (abs(counts[token] - len(prompts) // 5), token))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        folder = tmp_path_factory.mktemp("vllm")
        engine = _engine(family, rule, folder, stop, eager=not is_compiled)
    ends = (toy_tokenizer().eos_token_id, stop)
    without = _until(_by_hand(family, "none"), ends)
    yield Contest(rule, engine, prompts, _until(full, ends), without)
    engine.close()
    disable_envs_cache()  # other tests have vLLM in a process of its own


@cache
def _by_hand(family: str, rule: Injection, num_tokens: int = 1) -> list[list[int]]:
    """What transformers writes after each of `make_prompts`, which no token ends."""
    with TemporaryDirectory() as folder:
        graph = make_graph(Path(folder))
    model = attached(make_model(family), make_adapter(rule, graph, num_tokens), graph)
    return [greedy_by_hand(model, prompt, NUM_NEW, []) for prompt in _prompts(num_tokens)]


def _prompts(num_tokens: int) -> list[list[int]]:
    vocabulary = Vocabulary(V, NUM_USERS, NUM_ITEMS, num_tokens)
    return [with_all_tokens(prompt, vocabulary) for prompt in make_prompts()]


def _until(texts: list[list[int]], ends: tuple[int, ...]) -> list[list[int]]:
    return [list(takewhile(lambda token: token not in ends, ids)) for ids in texts]


def _engine(
    family: str,
    rule: Injection,
    folder: Path,
    stop: int,
    *,
    eager: bool = True,
    num_tokens: int = 1,
    device: str = "cpu",
    kv_cache_gib: float = 1 / 8,
    tensor_parallel_size: int = 1,
    **options: Any,
) -> Any:
    from xrec.generate.vllm.engine import VllmEngine

    save_with_tokenizer(make_model(family), folder / "llm")
    (folder / "llm" / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [stop], "do_sample": True, "temperature": 9.0})
    )
    graph = make_graph(folder / "graph")
    return VllmEngine(
        folder / "llm",
        toy_tokenizer(),
        make_adapter(rule, graph, num_tokens),
        graph,
        EngineConfig(
            max_rows=16,
            kv_cache_gib=kv_cache_gib,
            tensor_parallel_size=tensor_parallel_size,
            vllm_options={"enforce_eager": eager, **options},
        ),
        dtype="float32",
        device=torch.device(device),
    )


def _run(
    engine: Any, prompts: list[list[int]], decoding: DecodingConfig = GREEDY
) -> list[list[int]]:
    return [completion.token_ids for completion in generate(engine, prompts, decoding)]


def test_generate_gives_the_greedy_tokens_of_transformers_also_from_the_prefix_cache(contest):
    # The prompts make a difference, and so does injection.
    assert len({tuple(ids) for ids in contest.expected}) > len(contest.prompts) // 2
    assert (contest.expected == contest.without_injection) == (contest.rule == "none")
    for _ in range(2):  # the second time all blocks of a prompt but the last are in the cache
        completions = generate(contest.engine, contest.prompts, GREEDY)
        assert [completion.token_ids for completion in completions] == contest.expected
        for completion in completions:
            assert completion.finish_reason == (
                "length" if len(completion.token_ids) == NUM_NEW else "stop"
            )
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    report = contest.engine.take_report()
    assert report.num_computed_prompt_tokens < 0.6 * report.num_prompt_tokens


def test_generate_sampling_repeats_with_its_seed_and_stays_in_the_text_vocabulary(contest):
    decoding = DecodingConfig(max_new_tokens=NUM_NEW, temperature=2.0)
    sampled = [
        _run(contest.engine, contest.prompts, decoding.model_copy(update={"seed": seed}))
        for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    assert max(token for ids in sampled[0] for token in ids) < V


def _bytes_of_blocks(num_blocks: int, num_heads: int) -> int:
    """What blocks of 32 tokens take: key and value of each head, float32, in two layers."""
    return num_blocks * 32 * 2 * num_heads * 32 * 4 * 2


@pytest.mark.parametrize(("rule", "eager"), [("projected", False), ("direct", True)])
def test_generate_in_chunks_within_an_entity_and_preempted_gives_the_same_tokens(
    tmp_path, rule, eager
):
    """Steps of 16 tokens, entities of 3, and 16 texts for a memory of 6 blocks."""
    engine = _engine(
        "llama",
        rule,
        tmp_path,
        3,
        eager=eager,
        num_tokens=3,
        kv_cache_gib=_bytes_of_blocks(7, num_heads=2) / 2**30,
        max_num_batched_tokens=16,
    )
    texts = _run(engine, _prompts(3))
    counts = {one.name: one.value for one in engine._engine.get_metrics() if hasattr(one, "value")}
    engine.close()
    assert texts == _until(_by_hand("llama", rule, 3), (toy_tokenizer().eos_token_id, 3))
    assert counts["vllm:num_preemptions"] > 0
    assert counts["vllm:prefix_cache_hits"] > 0


@pytest.mark.slow
def test_generate_on_two_ranks_and_a_small_budget_gives_the_same_tokens_or_says_why_not(tmp_path):
    """On each of two ranks: a query head pair, a key head, and memory for 6 blocks of 32 tokens."""
    expected = _until(_by_hand("llama", "direct"), (toy_tokenizer().eos_token_id, 3))
    engine = _engine(
        "llama",
        "direct",
        tmp_path,
        3,
        kv_cache_gib=_bytes_of_blocks(7, num_heads=1) / 2**30,
        tensor_parallel_size=2,
    )
    completions = generate(engine, [*make_prompts(), [5] * 200], GREEDY)
    engine.close()
    assert [completion.token_ids for completion in completions[:-1]] == expected
    assert completions[-1].failure.reason == "over_memory_budget"
    assert "prompt of 200 tokens and 16 new ones" in completions[-1].failure.message


def test_engine_family_that_vllm_cannot_inject_into_is_refused(tmp_path):
    from xrec.generate.vllm.engine import VllmEngine

    (tmp_path / "llm").mkdir()
    (tmp_path / "llm" / "config.json").write_text(
        json.dumps({"model_type": "gemma", "architectures": ["GemmaForCausalLM"]})
    )
    graph = make_graph(tmp_path / "graph")
    adapter = make_adapter("none", graph)
    with raises(ModelError, "unsupported_family", key="engine.kind"):
        VllmEngine(
            tmp_path / "llm",
            toy_tokenizer(),
            adapter,
            graph,
            EngineConfig(kind="vllm"),
            dtype="float32",
            device=torch.device("cpu"),
        )


def test_engine_on_a_device_that_vllm_is_not_built_for_is_refused(tmp_path):
    with raises(ModelError, "vllm_of_another_device", key="device", saw="meta"):
        _engine("llama", "none", tmp_path, 3, device="meta")


def test_engine_options_that_vllm_does_not_have_are_refused(tmp_path):
    with raises(ModelError, "option_unknown", key="engine.vllm_options"):
        _engine("llama", "none", tmp_path, 3, no_such_option=1)


PLACEHOLDER = 2
VOCABULARY = Vocabulary(30, NUM_USERS, NUM_ITEMS, num_tokens=2)
PROMPT = [3, *VOCABULARY.user_tokens(4), 2, *VOCABULARY.item_tokens(1), 5]


def made(users: Tensor, *, model: str = "a", dtype: torch.dtype = torch.float32) -> Any:
    from xrec.generate.vllm.modality import PromptInputs

    adapters = toy_adapters("projected", num_tokens=2)
    return PromptInputs(
        VOCABULARY,
        (users, toy_vectors()[1]),
        (adapters.user, adapters.item),
        model=model,
        placeholder=PLACEHOLDER,
        dtype=dtype,
    )


def test_input_has_placeholders_and_an_item_for_each_token_of_a_user_or_item():
    users, items = toy_vectors()
    given = made(users)(PROMPT)
    assert given["prompt_token_ids"] == [3, 2, 2, 2, 2, 2, 5]
    ranges = given["mm_placeholders"]["collaborative"]
    assert [(one.offset, one.length) for one in ranges] == [(1, 1), (2, 1), (4, 1), (5, 1)]
    adapters = toy_adapters("projected", num_tokens=2)
    expected = [adapters.user.eval()(users[4:5]), adapters.item.eval()(items[1:2])]
    vectors = [one["vectors"].data for one in given["mm_kwargs"]["collaborative"]]
    torch.testing.assert_close(torch.stack(vectors), torch.cat(expected).view(4, 32).detach())


def test_input_of_text_has_no_items():
    given = made(toy_vectors()[0])([3, PLACEHOLDER, 4])
    assert given["type"] == "token"
    assert given["prompt_token_ids"] == [3, PLACEHOLDER, 4]


def test_identifiers_are_equal_where_vector_and_model_are_equal_and_only_there():
    users = toy_vectors()[0]
    users[3] = users[4]
    inputs, other = made(users), made(users, model="b")
    four, three, two = (
        tuple(inputs(VOCABULARY.user_tokens(user))["mm_hashes"]["collaborative"])
        for user in (4, 3, 2)
    )
    assert four == three
    others = other(VOCABULARY.user_tokens(4))["mm_hashes"]["collaborative"]
    assert len({*four, *two, *others}) == 6


def test_input_keeps_its_vectors_when_the_table_is_written():
    users = toy_vectors()[0]
    inputs = made(users, dtype=torch.bfloat16)
    before = inputs(PROMPT)
    item = before["mm_kwargs"]["collaborative"][0]["vectors"].data
    vector = item.clone()
    users[4] += 1
    assert item.dtype == torch.bfloat16
    assert torch.equal(item, vector)
    after = inputs(PROMPT)
    assert not torch.equal(after["mm_kwargs"]["collaborative"][0]["vectors"].data, vector)
    for place, same in enumerate((False, False, True, True)):
        hashes = (one["mm_hashes"]["collaborative"][place] for one in (before, after))
        assert (len(set(hashes)) == 1) == same
