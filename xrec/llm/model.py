"""Loading the frozen language model and its tokenizer from a local folder."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from xrec.config import Attention, Device, Dtype
from xrec.errors import ModelError
from xrec.llm.attention import GROUPED, register_grouped_attention


def resolve_device(device: Device) -> torch.device:
    """`auto` is the GPU if there is one; raises ModelError if `cuda` is asked for and there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("device 'cuda': this process sees no GPU; give device auto or cpu, or check CUDA_VISIBLE_DEVICES")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def resolve_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU that has it, else float32."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def resolve_attention(attention: Attention, device: torch.device) -> str:
    """`auto` is grouped on a CPU (xrec.llm.attention), sdpa on a GPU."""
    return (GROUPED if device.type == "cpu" else "sdpa") if attention == "auto" else attention


def load_model(folder: Path, *, dtype: torch.dtype, device: torch.device | None, attn_implementation: str = "sdpa") -> PreTrainedModel:
    """The causal language model in `folder`, frozen, in eval mode, on `device` (None: wherever the loader puts it).

    Under an active `HfDeepSpeedConfig` of ZeRO stage 3 each worker keeps its shard of every weight only.
    """
    register_grouped_attention()
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attn_implementation, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"{folder}: the language model cannot be loaded: {error}") from error
    model.requires_grad_(False)
    model.eval()
    return model if device is None else model.to(device)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`; raises ModelError if there is none, or it has no end token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(f"{folder}: the tokenizer cannot be loaded: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{folder}: the tokenizer has no end token (eos_token); explanations could not end")
    return tokenizer


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a text: the model's own generation settings and the tokenizer's end token."""
    configured = model.generation_config.eos_token_id if model.generation_config else None
    configured = [configured] if isinstance(configured, int) else configured or []
    return sorted({tokenizer.eos_token_id, *configured})
