"""A tiny decoder of each family that injection is tested with, like the Llama in `tests.toy`.

Each has the features in which its family differs from Llama, with values that change the result for
7 tokens: windows of 3 tokens, soft caps of 2 and 3. All weights are random, also norms and biases.
Those are one and zero by default, so that code which forgets them would pass.
"""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedConfig,
    PreTrainedModel,
)

from tests.toy import HIDDEN_SIZE, NUM_HEADS

NUM_LAYERS, HEAD_DIM, WINDOW = 2, HIDDEN_SIZE // NUM_HEADS, 3
_SOME_LAYERS_SLIDE = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}
_GEMMA = {"head_dim": HEAD_DIM, "query_pre_attn_scalar": 5, **_SOME_LAYERS_SLIDE}

# By the family's name, the settings that are added to those of all families.
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


def tiny_decoder(name: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """Return the family's decoder in eval mode, with random weights.

    It has 2 layers, 4 query heads and, unless the family has another number, 2 key-value heads.
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
    shared = {
        "vocab_size": 64,
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 48,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.3,
        "rms_norm_eps": 1e-6,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    kind = "gemma3_text" if name == "gemma3" else name
    return AutoConfig.for_model(kind, **{**shared, **FAMILIES[name], **changes})


def tiny_image_model(**changes: Any) -> Gemma3ForConditionalGeneration:
    """Return a Gemma 3 of text and images in eval mode, with random weights.

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
