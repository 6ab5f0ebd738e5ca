"""Which engine `engine.kind: auto` takes, and what a process computes with, as it turned out.

auto is vLLM where a GPU and vLLM are there, else the built-in engine. The likelihoods and texts of
one model differ a little between number formats, devices and engines, so what is measured belongs
to them.
"""

import logging
from pathlib import Path
from typing import Literal

import torch

from xrec.config.llm import EngineConfig, LLMConfig
from xrec.config.shared import Device, StorageConfig
from xrec.errors import ModelError
from xrec.generate.vllm.plugin import check_installed_vllm, unknown_family
from xrec.llm.model import read_text_config, resolve_device, resolve_dtype
from xrec.llm.source import resolve_model

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


def computation(
    llm: LLMConfig, device: Device, engine: EngineConfig, storage: StorageConfig
) -> dict[str, str]:
    """dtype, device and engine of a model that is loaded in this process.

    Raises ModelError if the device is not there, or the engine cannot be chosen.
    """
    found = resolve_device(device)
    dtype = str(resolve_dtype(llm.dtype, found)).removeprefix("torch.")
    kind = _engine(llm, found, engine, storage)
    return {"dtype": dtype, "device": found.type, "engine": kind}


def settled_computation(
    llm: LLMConfig, device: Device, engine: EngineConfig
) -> dict[str, str] | None:
    """What `computation` gives on every machine; None if something is `auto`."""
    if "auto" in (llm.dtype, device, engine.kind):
        return None
    return {"dtype": llm.dtype, "device": device, "engine": engine.kind}


def _engine(
    llm: LLMConfig, device: torch.device, engine: EngineConfig, storage: StorageConfig
) -> str:
    if engine.kind != "auto":
        return engine.kind
    if device.type != "cuda":  # the model decides on GPUs only, and may have to be fetched for it
        return "builtin"
    return choose_engine(engine, device, resolve_model(llm.model, llm.cache_dir, storage))


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
