"""Choose the engine of a model, and load the one that runs adapters."""

import copy
import logging
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from transformers import PreTrainedModel

from xrec.config import EngineConfig
from xrec.errors import ModelError, install_command
from xrec.generate.vllm.plugin import check_installed_vllm, unknown_family
from xrec.llm.model import read_text_config

if TYPE_CHECKING:
    from xrec.generate.vllm.engine import VllmEngine

logger = logging.getLogger("xrec")


def sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of the model's modules with the same weights, for adapters of its own."""
    packed = (getattr(vars(part).get("forward"), "args", ()) for part in model.modules())
    shared = (*model.parameters(), *model.buffers(), *chain.from_iterable(packed))
    return copy.deepcopy(model, {id(each): each for each in shared if torch.is_tensor(each)})


def import_vllm_engine() -> "type[VllmEngine]":
    """Return the class; raise ModelError if vLLM or a supported version is not installed."""
    try:
        check_installed_vllm()
        from xrec.generate.vllm.engine import VllmEngine
    except ImportError as error:
        raise ModelError(
            f"engine.kind=vllm: vLLM cannot be imported ({error}); "
            f"run: {install_command('vllm')}, or set engine.kind=builtin",
            code="vllm_not_installed",
            key="engine.kind",
            saw="vllm",
        ) from error
    return VllmEngine


def choose_engine(
    config: EngineConfig, device: torch.device, model_folder: Path
) -> Literal["builtin", "vllm"]:
    """Return the engine for the model in `model_folder` on `device`; log why `auto` chose it.

    Raises ModelError if `config` has options for vLLM but `auto` cannot choose it.
    """
    if config.kind != "auto":
        return config.kind
    why_not = _why_not_vllm(device, model_folder)
    if why_not is None:
        logger.info("engine: vllm, because there is a GPU and vLLM supports the model")
        return "vllm"
    if config.vllm:
        raise ModelError(
            f"engine.vllm = {config.vllm} needs vLLM, but engine.kind=auto cannot choose it: "
            f"{why_not}",
            code="needs_vllm",
            key="engine.vllm",
        )
    logger.info("engine: builtin, because %s", why_not)
    return "builtin"


def _why_not_vllm(device: torch.device, model_folder: Path) -> str | None:
    if device.type != "cuda":
        return f"the device is {device.type}, and auto only chooses vLLM for GPUs"
    try:
        check_installed_vllm()
    except ImportError as error:
        return f"vLLM cannot be imported ({error}); to install it, run: {install_command('vllm')}"
    except ModelError as error:
        return str(error)
    unknown = unknown_family(read_text_config(model_folder).architectures)
    return None if unknown is None else f"{model_folder.name}: {unknown}"
