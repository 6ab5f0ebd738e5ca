"""Small parts for tests of the language model and the adapter.

A tokenizer that is trained on the spot, Llamas with some thousand random weights, random vectors.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from xrec.adapter.artifact import TrainedAdapter
from xrec.adapter.config import AdapterConfig
from xrec.adapter.model import Adapters, attach_adapters, build_adapters
from xrec.config.adapter import AdapterModelConfig, Injection
from xrec.config.prompt import PromptConfig
from xrec.graph.artifact import EMBEDDINGS, write_graph
from xrec.llm.collaborative import CollaborativeEmbedding
from xrec.llm.examples import Example, collate, token_nll
from xrec.sample import generate_language_examples
from xrec.sample.language_model import train_tokenizer
from xrec.storage import Manifest, open_location

HIDDEN_SIZE, NUM_HEADS, EMBEDDING_DIM, NUM_USERS, NUM_ITEMS = 32, 4, 6, 5, 7


@functools.cache
def toy_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of 400 tokens with a ChatML template. Do not change it."""
    return train_tokenizer(
        [example.explanation for example in generate_language_examples(200, seed=0)], vocab_size=400
    )


def thinking_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose template asks for thoughts unless told not to, as Qwen3's does."""
    tokenizer = copy.deepcopy(toy_tokenizer())
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = (
        "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
        "{%- if enable_thinking is defined and enable_thinking is false %}"
        "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
    )
    return tokenizer


def toy_model(
    num_key_value_heads: int = 2,
    *,
    vocab_size: int = 64,
    num_layers: int = 2,
    seed: int = 0,
    tied: bool = False,
) -> LlamaForCausalLM:
    """Return a Llama with 4 query heads and random weights, in eval mode.

    The weights are large enough that no two logits are nearly equal.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=48,
        num_hidden_layers=num_layers,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=num_key_value_heads,
        max_position_embeddings=1024,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


def save_toy_model(folder: Path, *, seed: int = 0, num_layers: int = 2) -> Path:
    """Save a toy model with the toy tokenizer in the Hugging Face layout; returns `folder`."""
    vocab_size = len(toy_tokenizer())
    model = toy_model(vocab_size=vocab_size, seed=seed, num_layers=num_layers, tied=True)
    return save_with_tokenizer(model, folder)


def save_with_tokenizer(model: PreTrainedModel, folder: Path) -> Path:
    """Save `model` with the toy tokenizer in the Hugging Face layout; returns `folder`."""
    model.save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder


def toy_vectors(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random vectors of the users, (5, 6), and of the items, (7, 6)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_USERS, EMBEDDING_DIM, generator=generator), torch.randn(
        NUM_ITEMS, EMBEDDING_DIM, generator=generator
    )


def save_graph(
    folder: Path, users: Tensor, items: Tensor, dataset: str, **metrics: Any
) -> Manifest:
    """Write a graph of the dataset of this fingerprint with the vectors (U, D) and (I, D)."""
    return write_graph(
        open_location(str(folder)),
        {EMBEDDINGS: {"users": users, "items": items}},
        [],
        config={"model": {"embedding_dim": users.shape[1]}},
        inputs={"dataset": dataset},
        metrics=metrics,
    )


def save_random_graph(folder: Path, num_users: int, num_items: int, dataset: str) -> Manifest:
    generator = torch.Generator().manual_seed(0)
    tables = (torch.randn(n, EMBEDDING_DIM, generator=generator) for n in (num_users, num_items))
    return save_graph(folder, *tables, dataset)


def toy_adapter(
    injection: Injection,
    *,
    seed: int = 0,
    num_tokens: int = 1,
    hidden_size: int = HIDDEN_SIZE,
    num_experts: int = 3,
    std: float = 0.4,
    **changes: Any,
) -> TrainedAdapter:
    """Return adapters with random parameters; `changes` are fields of their config.

    The parameters are so large that the vectors change a model's texts.
    """
    torch.manual_seed(seed)
    model = AdapterModelConfig(num_experts=num_experts, injection=injection, num_tokens=num_tokens)
    sizes = {"embedding_dim": EMBEDDING_DIM, "hidden_size": hidden_size}
    adapters = build_adapters(model, **sizes)
    for adapter in (adapters.user.eval(), adapters.item.eval()):
        for parameter in adapter.parameters():
            torch.nn.init.normal_(parameter, std=std)
    given = {
        "prompt": PromptConfig(instruction="Why?"),
        "base_model": "toy",
        "base_model_fingerprint": "model-1",
        "graph_fingerprint": "graph-1",
    }
    return TrainedAdapter(adapters, AdapterConfig(model=model, **{**sizes, **given, **changes}))


def toy_adapters(injection: Injection, *, seed: int = 0, num_tokens: int = 1) -> Adapters:
    return toy_adapter(injection, seed=seed, num_tokens=num_tokens).adapters


def attach_toy(
    model: PreTrainedModel, injection: Injection, *, num_tokens: int = 1
) -> CollaborativeEmbedding:
    """Attach toy adapters with 5 users and 7 items to `model`."""
    users, items = toy_vectors()
    return attach_adapters(
        model,
        toy_adapters(injection, num_tokens=num_tokens),
        user_vectors=users,
        item_vectors=items,
    )


@torch.inference_mode()
def explanation_nll(
    model: PreTrainedModel, examples: Sequence[Example], batch_size: int
) -> Iterator[tuple[int, float]]:
    """Yield (index, mean NLL in nats a token) of each example."""
    for start in range(0, len(examples), batch_size):
        rows = examples[start : start + batch_size]
        totals = token_nll(model, collate(rows).to(model.device)).sum(dim=1).tolist()
        for index, (row, total) in enumerate(zip(rows, totals, strict=True), start):
            yield index, total / len(row.label_ids)
