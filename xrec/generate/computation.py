"""What a process computes with, as it turned out: what `auto` became.

The likelihoods and texts of one model differ a little between number formats, devices and engines,
so what is measured belongs to them.
"""

import torch

from xrec.config.engine import EngineConfig
from xrec.config.llm import LLMConfig
from xrec.config.shared import Device, StorageConfig
from xrec.generate.choice import choose_engine
from xrec.llm.model import resolve_device, resolve_dtype
from xrec.llm.source import resolve_model


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


def known_computation(
    llm: LLMConfig, device: Device, engine: EngineConfig, storage: StorageConfig, *, exact: bool
) -> dict[str, str] | None:
    """`computation`; without `exact`, where another machine may compute, `settled_computation`."""
    if exact:
        return computation(llm, device, engine, storage)
    return settled_computation(llm, device, engine)


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
        return "transformers"
    return choose_engine(engine, device, resolve_model(llm.model, llm.cache_dir, storage))
