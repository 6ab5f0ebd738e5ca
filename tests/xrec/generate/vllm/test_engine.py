"""vLLM gives the greedy tokens of transformers, in mixed batches and from its prefix cache.

The tests of every core (tests/xrec/generate/test_engine.py) hold what it does with requests.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from itertools import product, takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.errors import raises
from tests.world.models import NUM_ITEMS, NUM_USERS, toy_tokenizer
from tests.xrec.generate.cores import generate, greedy_by_hand, with_all_tokens
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
from xrec.config import DecodingConfig, Injection
from xrec.errors import ModelError
from xrec.llm.collaborative import Vocabulary

need_vllm_cpu()

NUM_NEW = 16
GREEDY = DecodingConfig(max_new_tokens=NUM_NEW)


@dataclass(frozen=True)
class Contest:
    """An engine over vLLM, and the expected completions.

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
        options = {"enforce_eager": not is_compiled}
        engine = make_engine(folder, family, rule, stop=stop, vllm=options)
    ends = (toy_tokenizer().eos_token_id, stop)
    without = _until(_by_hand(family, "none"), ends)
    yield Contest(rule, engine, prompts, _until(full, ends), without)
    engine.close()
    disable_envs_cache()  # other tests have vLLM in a process of its own


@cache
def _by_hand(family: str, rule: Injection, num_tokens: int = 1) -> list[list[int]]:
    """Return what transformers writes for each of `make_prompts`, without a stop token."""
    with TemporaryDirectory() as folder:
        graph = make_graph(Path(folder))
    model = attached(make_model(family), make_adapter(rule, graph, num_tokens), graph)
    return [greedy_by_hand(model, prompt, NUM_NEW, []) for prompt in _prompts(num_tokens)]


def _prompts(num_tokens: int) -> list[list[int]]:
    vocabulary = Vocabulary(V, NUM_USERS, NUM_ITEMS, num_tokens)
    return [with_all_tokens(prompt, vocabulary) for prompt in make_prompts()]


def _until(texts: list[list[int]], ends: tuple[int, ...]) -> list[list[int]]:
    return [list(takewhile(lambda token: token not in ends, ids)) for ids in texts]


def _run(engine: Any, prompts: list[list[int]]) -> list[list[int]]:
    return [completion.token_ids for completion in generate(engine, prompts, GREEDY)]


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


def _bytes_of_blocks(num_blocks: int, num_heads: int) -> int:
    """Return the bytes of blocks of 32 tokens: key and value per head, float32, in two layers."""
    return num_blocks * 32 * 2 * num_heads * 32 * 4 * 2


@pytest.mark.parametrize(("rule", "eager"), [("projected", False), ("direct", True)])
def test_generate_in_chunks_with_preemption_gives_the_same_tokens(tmp_path, rule, eager):
    """Steps of 16 tokens, entities of 3, and 16 texts for a memory of 6 blocks."""
    engine = make_engine(
        tmp_path,
        "llama",
        rule,
        stop=3,
        num_tokens=3,
        kv_cache_gib=_bytes_of_blocks(7, num_heads=2) / 2**30,
        vllm={"enforce_eager": eager, "max_num_batched_tokens": 16},
    )
    texts = _run(engine, _prompts(3))
    counts = {one.name: one.value for one in engine._engine.get_metrics() if hasattr(one, "value")}
    engine.close()
    assert texts == _until(_by_hand("llama", rule, 3), (toy_tokenizer().eos_token_id, 3))
    assert counts["vllm:num_preemptions"] > 0
    assert counts["vllm:prefix_cache_hits"] > 0


@pytest.mark.slow
def test_generate_on_two_ranks_with_a_small_budget_gives_the_same_tokens(tmp_path):
    """On each of two ranks: a query head pair, a key head, and memory for 6 blocks of 32 tokens."""
    expected = _until(_by_hand("llama", "direct"), (toy_tokenizer().eos_token_id, 3))
    settings = {
        "kv_cache_gib": _bytes_of_blocks(7, num_heads=1) / 2**30,
        "vllm": {"tensor_parallel_size": 2},
    }
    engine = make_engine(tmp_path, "llama", "direct", stop=3, **settings)
    completions = generate(engine, [*make_prompts(), [5] * 200], GREEDY)
    engine.close()
    assert [completion.token_ids for completion in completions[:-1]] == expected
    assert completions[-1].failure.reason == "over_memory_budget"
    assert "prompt of 200 tokens and 16 new ones" in completions[-1].failure.message


@pytest.mark.parametrize(
    ("family", "changes", "code", "key"),
    [
        ("gemma", {}, "unsupported_family", "engine.kind"),
        ("llama", {"device": "meta"}, "vllm_of_another_device", "device"),
        ("llama", {"vllm": {"no_such_option": 1}}, "option_unknown", "engine.vllm"),
    ],
)
def test_engine_with_invalid_settings_is_refused(tmp_path, family, changes, code, key):
    with raises(ModelError, code, key):
        make_engine(tmp_path, family, "none", **changes)
