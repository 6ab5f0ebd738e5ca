"""Small models with random weights: tokenizers, decoders, a BERT, adapters, users and items.

Weights are so large that no two logits are nearly equal, and that the vectors change the texts.
There are 5 users and 7 items.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from xrec.adapter.artifact import TrainedAdapter
from xrec.adapter.config import AdapterConfig
from xrec.adapter.model import Adapters, attach_adapters, build_adapters
from xrec.config import AdapterModelConfig, Injection, PromptConfig
from xrec.llm.collaborative import CollaborativeEmbedding
from xrec.llm.loss import Example, collate, token_nll
from xrec.sample import generate_language_examples
from xrec.sample.language_model import train_tokenizer

HIDDEN_SIZE, NUM_HEADS, EMBEDDING_DIM, NUM_USERS, NUM_ITEMS = 32, 4, 6, 5, 7
HEAD_DIM, WINDOW = HIDDEN_SIZE // NUM_HEADS, 3

_SHARED: dict[str, Any] = {
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": 48,
    "num_attention_heads": NUM_HEADS,
    "max_position_embeddings": 1024,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_SOME_LAYERS_SLIDE = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}
_GEMMA = {"head_dim": HEAD_DIM, "query_pre_attn_scalar": 5, **_SOME_LAYERS_SLIDE}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, **_SOME_LAYERS_SLIDE, "num_key_value_heads": 4},
    "qwen3": {"head_dim": HEAD_DIM},
    "gemma": {"head_dim": HEAD_DIM, "num_key_value_heads": 1},
    "gemma2": {**_GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "gemma3": _GEMMA,
    "phi": {"num_key_value_heads": 4, "layer_norm_eps": 1e-6},
    "phi3": {"sliding_window": WINDOW},
}
"""The families of decoders that injection is tested with, and in what each differs from Llama.

The values change the result for 7 tokens: windows of 3 tokens, soft caps of 2 and 3.
"""


@functools.cache
def toy_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of 400 tokens with a ChatML template. Do not change it."""
    return train_tokenizer(
        [example.explanation for example in generate_language_examples(200, seed=0)], vocab_size=400
    )


def thinking_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer whose template asks for thoughts by default, as Qwen3's does."""
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
    """Return a Llama with 4 query heads, in eval mode."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        **_SHARED,
        vocab_size=vocab_size,
        num_hidden_layers=num_layers,
        num_key_value_heads=num_key_value_heads,
        tie_word_embeddings=tied,
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


def tiny_decoder(name: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return the family's decoder, with 2 layers and 4 query heads, in eval mode.

    Norms and biases are random too. They are one and zero by default, so that code which forgets
    them would pass.
    """
    torch.manual_seed(seed)
    attention = "eager" if name == "gemma2" else None  # sdpa of an older transformers has no cap
    config = tiny_config(name, **changes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def tiny_config(name: str, **changes: Any) -> PreTrainedConfig:
    """Return the family's configuration, with `changes`."""
    sizes = {"vocab_size": 64, "num_hidden_layers": 2, "num_key_value_heads": 2}
    kind = "gemma3_text" if name == "gemma3" else name
    values = {**_SHARED, **sizes, "rms_norm_eps": 1e-6, **FAMILIES[name], **changes}
    return AutoConfig.for_model(kind, **values)


def tiny_image_model(**changes: Any) -> Gemma3ForConditionalGeneration:
    """Return a Gemma 3 of text and images, in eval mode.

    Its text decoder is that of `tiny_decoder("gemma3", **changes)`.
    """
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    torch.manual_seed(0)
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=tiny_config("gemma3", **changes),
            vision_config={"model_type": "siglip_vision_model", **vision},
            image_token_index=63,
        )
    ).eval()


def word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words, the first four of which are [PAD], [UNK], [CLS], [SEP]."""
    vocabulary = {word: index for index, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=40, **names)


def bert_config(words: list[str], **values: object) -> BertConfig:
    """Return a BERT of two layers and 16 dimensions; its weights, if drawn next, have seed 0."""
    torch.manual_seed(0)
    return BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        **values,
    )


def toy_vectors(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return random vectors of the users, (5, 6), and of the items, (7, 6)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(NUM_USERS, EMBEDDING_DIM, generator=generator), torch.randn(
        NUM_ITEMS, EMBEDDING_DIM, generator=generator
    )


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
    """Return adapters with random parameters; `changes` are fields of their config."""
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
    """Attach toy adapters and the toy vectors to `model`."""
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
    """Yield index and mean NLL, in nats a token, of each example."""
    for start in range(0, len(examples), batch_size):
        rows = examples[start : start + batch_size]
        totals = token_nll(model, collate(rows).to(model.device)).sum(dim=1).tolist()
        for index, (row, total) in enumerate(zip(rows, totals, strict=True), start):
            yield index, total / len(row.label_ids)
