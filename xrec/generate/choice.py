"""Which engine `engine.kind: auto` takes: vLLM where it and a GPU are there, else the built-in."""

import logging
from pathlib import Path
from typing import Literal

import torch

from xrec.config.llm import EngineConfig
from xrec.errors import ModelError
from xrec.generate.vllm.plugin import check_installed_vllm, unknown_family
from xrec.llm.model import read_text_config

logger = logging.getLogger("xrec")

EngineKind = Literal["builtin", "vllm"]


def choose_engine(config: EngineConfig, device: torch.device, model_folder: Path) -> EngineKind:
    """The engine for the model in `model_folder` on `device`; what auto took is logged with why.

    Raises ModelError if `config` asks for what only vLLM has, and it cannot be taken.
    """
    if config.kind != "auto":
        return config.kind
    why_not = _why_not_vllm(device, model_folder)
    if why_not is None:
        logger.info("engine: vllm, because there are a GPU and a vLLM that knows the model")
        return "vllm"
    for name, is_set in {
        f"engine.tensor_parallel_size={config.tensor_parallel_size}": (
            config.tensor_parallel_size > 1
        ),
        "engine.vllm_options": bool(config.vllm_options),
    }.items():
        if is_set:
            raise ModelError(f"{name} needs vLLM, and engine.kind=auto does not take it: {why_not}")
    logger.info("engine: builtin, because %s", why_not)
    return "builtin"


def _why_not_vllm(device: torch.device, model_folder: Path) -> str | None:
    if device.type != "cuda":
        return f"texts are made on the {device.type}, and vLLM is taken for GPUs only"
    try:
        check_installed_vllm()
    except ImportError as error:
        return f"vLLM cannot be imported ({error}); pip install 'xrec[vllm]' would bring it"
    except ModelError as error:
        return str(error)
    unknown = unknown_family(read_text_config(model_folder).architectures)
    return None if unknown is None else f"{model_folder.name}: {unknown}"
