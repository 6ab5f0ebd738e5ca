"""Converts a GGUF file to a Hugging Face folder with config.json, model.safetensors and tokenizer.

transformers reads GGUF files but refuses to save a model that it read from one. The weights are
therefore copied into a new model of the same architecture, which can be saved.
"""

import copy
import logging
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

logger = logging.getLogger("xrec")


def convert_gguf(path: Path, folder: Path) -> None:
    """Write the model and tokenizer of the GGUF file at `path` to `folder`, in float32."""
    logger.info("%s: dequantizing the weights; this is done once", path.name)
    quantized = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    config = copy.deepcopy(quantized.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.float32
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.tie_weights()
    model.generation_config = quantized.generation_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(folder)
