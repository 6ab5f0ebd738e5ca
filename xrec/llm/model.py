"""Loading the frozen language model and its tokenizer from a local folder."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import GENERATION_CONFIG_NAME

from xrec.config import Attention, Device, Dtype, LLMConfig, Quantization
from xrec.errors import ModelError, install_command
from xrec.llm.cpu import GROUPED, register_grouped_attention

_FIRST_WITH_INT8 = (7, 5)
"""Compute capability of the first GPUs with matrix products of 8-bit integers."""

_TEXT_DECODER_KEYS = {
    r"^language_model\.model\.": "model.",
    r"^model\.language_model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
}
"""Maps weight names of text-and-image models, older and newer, to those of the text decoder."""


def resolve_device(device: Device) -> torch.device:
    """Return the device to use; `auto` is the GPU if there is one.

    Raises ModelError if `device` is `cuda` and there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "device 'cuda': this process sees no GPU; "
            "set device to auto or cpu, or check CUDA_VISIBLE_DEVICES",
            code="no_gpu",
            key="device",
            saw="cuda",
        )
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def resolve_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """Return the dtype of weights; `auto` is bfloat16 on a GPU that supports it, else float32.

    V100 and T4 only emulate bfloat16, slowly; use float16 or float32 there.
    """
    if dtype != "auto":
        named: torch.dtype = getattr(torch, dtype)
        return named
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bf16 else torch.float32


def resolve_attention(attention: Attention, device: torch.device) -> str:
    """Return the attention implementation; `auto` is `grouped` on a CPU and `sdpa` on a GPU."""
    return (GROUPED if device.type == "cpu" else "sdpa") if attention == "auto" else attention


def read_text_config(folder: Path) -> PreTrainedConfig:
    """Return the configuration of the text decoder that `load_model` would load from `folder`.

    Of a model of text and images (Gemma 3 from 4B on) this is a part of its configuration: the
    whole has neither `vocab_size` nor `hidden_size`.
    """
    config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    return config.get_text_config(decoder=True)


def unusual_layers(model: PreTrainedModel) -> list[str]:
    """Return the kinds of layers other than full or sliding attention over their own keys."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    shares = bool(getattr(config, "num_kv_shared_layers", None))
    return [
        *sorted(kinds - {"full_attention", "sliding_attention"}),
        *(["layers that share keys"] if shares else []),
    ]


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | None,
    attn_implementation: str = "sdpa",
    quantization: Quantization | None = None,
) -> PreTrainedModel:
    """Return the causal language model in `folder`, frozen, in eval mode, and on `device`.

    Weights are loaded straight onto a GPU, so that the processes of a host do not each need memory
    for the whole model. If `device` is None, the model stays where the loader puts it; this is
    required under an `HfDeepSpeedConfig` of ZeRO stage 3, where each worker keeps only its shard of
    every weight. With `quantization`, the layers' linear maps have 8-bit weights, and `device` is
    required. Of a text-and-image model (Gemma 3 from 4B on), only the text decoder is loaded.

    Raises ModelError if the model cannot be loaded, if its files lack weights, or if the library or
    the device does not support the quantization.
    """
    register_grouped_attention()
    # cuDNN's attention, the default on recent GPUs, has NaN gradients with a mask on H100
    # (pytorch#196678, NVIDIA/cudnn-frontend#160) and wrong outputs on B200 (pytorch#193893).
    torch.backends.cuda.enable_cudnn_sdp(False)
    more = _loading(quantization, device)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        text_config = config.get_text_config(decoder=True)
        if attn_implementation == "sdpa" and getattr(text_config, "attn_logit_softcapping", None):
            # transformers below 5.21 silently ignores the cap.
            raise ValueError(f"{text_config.model_type} caps scores, sdpa cannot; set eager")
        model, loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            config=text_config,
            key_mapping=None if text_config is config else _TEXT_DECODER_KEYS,
            dtype=dtype,
            attn_implementation=attn_implementation,
            local_files_only=True,
            output_loading_info=True,
            **more,
        )
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"{folder}: cannot load the language model with "
            f"llm.attn_implementation={attn_implementation}: {error}",
            code="model_not_loaded",
            key=str(folder),
        ) from error
    if missing := sorted(loaded["missing_keys"]):  # transformers would initialize them at random
        raise ModelError(
            f"{folder}: the files lack {len(missing)} weights of a {type(model).__name__}, "
            f"first {missing[0]}; use the folder of a whole causal language model, "
            "not of an encoder, a base model, or an adapter",
            code="missing_weights",
            key=str(folder),
            saw=len(missing),
        )
    model.requires_grad_(False)
    model.eval()
    return model if device is None or quantization else model.to(device)


def load_llm(llm: LLMConfig, folder: Path, device: torch.device) -> PreTrainedModel:
    """Return `load_model` with the dtype and attention of `llm`, on `device`."""
    return load_model(
        folder,
        dtype=resolve_dtype(llm.dtype, device),
        device=device,
        attn_implementation=resolve_attention(llm.attn_implementation, device),
    )


def check_quantization(quantization: Quantization | None) -> None:
    """Raise ModelError if the library of `quantization` is not installed."""
    if quantization is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"llm.quantization={quantization} needs bitsandbytes, which is not installed; "
            f"run: {install_command('int8')}",
            code="int8_not_installed",
            key="llm.quantization",
            saw=quantization,
        )


def _loading(quantization: Quantization | None, device: torch.device | None) -> dict[str, Any]:
    """Return further arguments of `from_pretrained`; raises ModelError for a `device` too old."""
    if device is None or (device.type == "cpu" and quantization is None):
        return {}
    straight_to_device = {"device_map": {"": str(device)}}
    if quantization is None:
        return straight_to_device
    check_quantization(quantization)
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _FIRST_WITH_INT8:
        raise ModelError(
            f"llm.quantization={quantization} needs a GPU of compute capability 7.5 or higher, for "
            f"8-bit matrix products, but this is a {torch.cuda.get_device_name(device)}; "
            "use another GPU, or set llm.quantization=null",
            code="no_int8_products",
            key="llm.quantization",
            saw=quantization,
        )
    return {**straight_to_device, "quantization_config": BitsAndBytesConfig(load_in_8bit=True)}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer in `folder`; raises ModelError if it is missing or has no end token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"{folder}: cannot load the tokenizer: {error}",
            code="tokenizer_not_loaded",
            key=str(folder),
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"{folder}: the tokenizer has no end token (eos_token), so explanations would not end",
            code="no_end_token",
            key=str(folder),
        )
    return tokenizer


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the IDs that end a text: the end token and those in the generation settings."""
    return _with_end_token(model.generation_config, tokenizer)


def folder_stop_token_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return `stop_token_ids` of the model in `folder`, without loading it."""
    if (folder / GENERATION_CONFIG_NAME).is_file():
        settings = GenerationConfig.from_pretrained(folder, local_files_only=True)
    else:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        settings = GenerationConfig.from_model_config(config)
    return _with_end_token(settings, tokenizer)


def _with_end_token(
    generation_config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    configured = generation_config.eos_token_id if generation_config else None
    configured = [configured] if isinstance(configured, int) else configured or []
    return sorted({tokenizer.eos_token_id, *configured})
